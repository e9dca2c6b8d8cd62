"""The GPU engine: the program of `engine/program.py`, stage by stage, on a device."""
