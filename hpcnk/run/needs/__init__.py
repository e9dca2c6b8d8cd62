"""What a job needs of a machine, memory and disk, held against what is there before it begins."""
