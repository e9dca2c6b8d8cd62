"""The kernel as a Python function of arrays: no deck, no MPI."""

from __future__ import annotations

from numpy.typing import ArrayLike, NDArray

from hpcnk.engine.inputs import as_rows
from hpcnk.engine.make import make_engine
from hpcnk.engine.threads import default_threads
from hpcnk.errors import UsageError
from hpcnk.kernels.spec import parse


class Kernel:
    """The NNGP or tangent kernel of an infinite-width network.

    `layers`: a preset's name (`"cv8"`), a mapping (`{"preset": "fc", "depth": 3}`), or a list of
    layers. `kind`: ntk or nngp. `dtype`: float32 or float64. `backend`: auto, cpu, gpu or
    reference (plain NumPy).

        kernel = Kernel("myrtle5")
        k = kernel(images)             # (rows, rows), symmetric
        k = kernel(test, images)       # (test rows, rows)

    Uses OMP_NUM_THREADS threads, or all cores that the process may use.
    Raises ArchitectureError, BackendError or UsageError.
    """

    def __init__(
        self, layers: object, kind: str = "ntk", dtype: str = "float32", backend: str = "auto"
    ) -> None:
        self.architecture = parse(layers)
        self.engine = make_engine(self.architecture, kind, dtype, backend, default_threads())

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> NDArray:
        """Return the matrix K(x1, x2), or the symmetric K(x1, x1).

        Inputs are (rows, channels), (rows, length, channels) or (rows, height, width, channels).
        The diagonal of K(x1, x1) is exact. Between almost equal rows a tangent kernel may be off by
        3.1e-4 sqrt(K(x, x) K(x', x')) a ReLU layer in float32 (1.4e-8 in float64), for there arccos
        magnifies the rounding of the data.
        Raises UsageError for shapes that do not fit together, ArchitectureError for a network that
        cannot take such rows, DataError for values that are not finite.
        """
        left = as_rows(x1, "x1")
        if x2 is None:
            return self.engine.symmetric_block(self.engine.prepare(left))
        right = as_rows(x2, "x2")
        if left.shape[1:] != right.shape[1:]:
            raise UsageError(
                f"rows of x1 have shape {left.shape[1:]}, rows of x2 {right.shape[1:]}",
                "pass two arrays that differ in their first axis only",
            )
        return self.engine.block(self.engine.prepare(left), self.engine.prepare(right))

    def __repr__(self) -> str:
        engine = self.engine
        layers = self.architecture.preset or self.architecture.canonical()
        return f"Kernel({layers!r}, kind={engine.kind!r}, dtype={engine.dtype.name!r})"
