"""The parts of `solver.py`: kernels, jobs on several ranks, peers, and the table."""
