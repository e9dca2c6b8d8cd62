"""The features of a low-rank kernel, Q = K_nm K_mm^+ K_mn = B B^T, in their singular value form.

With K_mm = E D E^T, B = K_nm E D^(-1/2). Directions whose eigenvalue is below what rounding leaves
of it are dropped: of entries in float32 that is about 6e-8 sqrt(m) of their mean diagonal. So K_mm
needs no jitter, and may be singular.

B = U S V^T comes from QR factorisations of each rank's rows and one singular value decomposition
of the triangles on rank 0; B^T B, whose condition is the square of B's, is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcnk.comm import broadcast, rows_from_root, rows_to_root
from hpcnk.solve.approximations.regression import Regression, corner, pieces
from hpcnk.solve.operator import Indices
from hpcnk.solve.spread import Array, Spread

SLACK = 4.0  # of the rounding of K_mm's eigenvalues
ROUNDING32 = 2.0**-24  # of an entry that was stored in float32


@dataclass(frozen=True)
class Features:
    """U (this rank's rows, rank), zero outside the row set; S (rank,), falling; and
    `back` (m, rank), which is E D^(-1/2) V. All but U on all ranks.
    """

    u: Array
    s: Array
    back: Array


def make_features(regression: Regression, inducing: Indices) -> Features:
    """Return the features of the regression's rows, from these inducing rows. Collective."""
    operator, spread = regression.operator, regression.operator.spread
    k_mm = corner(operator, inducing, inducing)
    weights = broadcast(spread.comm, _inverse_root(k_mm) if spread.comm.rank == 0 else None)
    b = np.zeros((spread.count, weights.shape[1]))
    for part in pieces(len(inducing)):
        b += operator.columns(inducing[part]) @ weights[part]
    return _decompose(spread, b, regression, weights)


def _inverse_root(k_mm: Array) -> Array:
    """Return E D^(-1/2), (m, rank), of the directions that rounding leaves."""
    from scipy.linalg import eigh

    d, e = eigh(k_mm)
    single = np.array_equal(k_mm, k_mm.astype(np.float32))  # the entries were stored in float32
    rounding = ROUNDING32 * np.sqrt(len(d)) if single else np.finfo(float).eps * len(d)
    good = d > max(SLACK * rounding * k_mm.diagonal().mean(), np.finfo(float).eps * d[-1])
    return np.ascontiguousarray(e[:, good] / np.sqrt(d[good]))


def _decompose(spread: Spread, b: Array, regression: Regression, weights: Array) -> Features:
    mine = regression.mine
    q, r = np.linalg.qr(b[mine])
    u_r, s, v = _triangles(spread, r)
    u = np.zeros((spread.count, len(s)))
    u[mine] = q @ u_r
    return Features(u, s, weights @ v)


def _triangles(spread: Spread, r: Array) -> tuple[Array, Array, Array]:
    """Decompose the ranks' triangles on top of each other; return this rank's rows of U, S, V."""
    from scipy.linalg import svd

    comm = spread.comm
    ends = np.cumsum(comm.allgather(len(r))).tolist()
    blocks = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    whole = rows_to_root(comm, r, blocks)
    u, s, vt = (None, None, None) if whole is None else svd(whole, full_matrices=False)
    s, vt = broadcast(comm, s), broadcast(comm, vt)
    return rows_from_root(comm, u, len(s), blocks), s, vt.T
