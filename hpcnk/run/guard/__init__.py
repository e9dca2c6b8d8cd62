"""What keeps a run safe: its lock, its watchdog, signals, and faults on purpose to test them."""
