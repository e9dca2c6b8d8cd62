"""NumPy in place of the memory of a GPU."""

from contextlib import nullcontext


class HostMemory:
    """Counts what goes up and down. `free`: bytes it says it has."""

    count = 1

    def __init__(self, free=1 << 40):
        self.uploads, self.downloads, self.free = [], 0, free

    def active(self):
        return nullcontext()

    def upload(self, array):
        self.uploads.append(array.copy())
        return self.uploads[-1]

    def zeros(self, shape):
        import numpy as np

        return np.zeros(shape)

    def download(self, array):
        self.downloads += 1
        return array.copy()

    def free_bytes(self):
        return self.free
