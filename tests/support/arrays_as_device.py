"""NumPy in place of the memory of a GPU."""

from contextlib import contextmanager

import numpy as np


class HostMemory:
    """Counts what goes up and down. `free`: bytes it says it has.

    Refuses arithmetic while it is not `active`: a second GPU's arrays need it.
    """

    count = 1

    def __init__(self, free=1 << 40):
        self.uploads, self.downloads, self.free = [], 0, free
        self.is_active = False

    @contextmanager
    def active(self):
        self.is_active = True
        yield
        self.is_active = False

    def upload(self, array):
        self.uploads.append(array.copy())
        return self._guarded(self.uploads[-1])

    def empty(self, shape, dtype):
        return self._guarded(np.full(shape, np.nan, dtype))

    def zeros(self, shape):
        return self._guarded(np.zeros(shape))

    def write(self, array, target):
        assert target.flags.c_contiguous and target.dtype == array.dtype
        target[...] = array

    def download(self, array):
        self.downloads += 1
        return np.array(array)

    def free_bytes(self):
        return self.free

    def _guarded(self, array):
        guarded = array.view(Guarded)
        guarded.memory = self
        return guarded


class Guarded(np.ndarray):
    """An array of a device, and what is made from it."""

    memory = None

    def __array_finalize__(self, source):
        self.memory = getattr(source, "memory", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        assert self.memory.is_active, f"{ufunc.__name__} with another GPU active"
        plain = [np.asarray(value) for value in inputs]
        kept = {"out": tuple(np.asarray(value) for value in out)} if out else {}
        result = getattr(ufunc, method)(*plain, **kept, **options)
        return out[0] if out else self.memory._guarded(result)
