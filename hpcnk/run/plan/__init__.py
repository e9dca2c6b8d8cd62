"""What a job will need and how long it will take, from its deck and measured rates alone."""
