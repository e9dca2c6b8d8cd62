"""Benchmarks: `kernels.py` measures the kernel engine beside Neural Tangents."""
