"""What is measured: networks, shapes, batches for the peer, and the targets of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONV, CONV_5 = {"conv": {"filter": 3}}, {"conv": {"filter": 5}}
STRIDED = {"conv": {"filter": 3, "strides": 2}}
POINTWISE = {"conv": {"filter": 1}}
END = ["global_avg_pool", "dense"]

# Two stages of two convolutions on sequences.
SEQUENCE: list[Any] = [CONV, "relu", CONV, "relu", {"avg_pool": 2}, CONV, "relu", *END]
RESIDUAL: list[Any] = [
    CONV,
    {"residual": {"branch": ["relu", CONV, "relu", CONV], "shortcut": []}},
    {"avg_pool": 2},
    {"residual": {"branch": ["layer_norm", "relu", CONV], "shortcut": [POINTWISE]}},
    "relu",
    *END,
]
STRIDES: list[Any] = [CONV_5, "relu", STRIDED, "relu", CONV, "relu", STRIDED, "relu", *END]


@dataclass(frozen=True)
class Target:
    """A bound on a quantity of results.py; `at_least` tells its sense."""

    quantity: str
    bound: float
    at_least: bool = True


@dataclass(frozen=True)
class Case:
    """A row of the table. `agree` rows are compared with the peer before anything is timed."""

    name: str
    layers: Any
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    gpu_batches: tuple[int, ...]
    cpu_targets: tuple[Target, ...] = ()
    gpu_targets: tuple[Target, ...] = ()
    agree: int = 2
    product: bool = False

    def targets(self, backend: str) -> tuple[Target, ...]:
        """The targets on a back end."""
        return self.gpu_targets if backend == "gpu" else self.cpu_targets


def times_peer(factor: float) -> Target:
    """At least `factor` times the peer's pairs a second."""
    return Target("peer_ratio", factor)


def rate_within(share: float) -> Target:
    """Myrtle10's el-layers a second, or at most this share fewer."""
    return Target("relative_rate", 1 - share)


IMAGE = (32, 32, 3)
# Larger batches gain little and take minutes: a pair's share of the rows' own covariances, which
# Neural Tangents computes with every batch, falls as 2 / batch.
SMALL, SMALL_GPU = (2, 4, 6), (4, 8, 16, 32, 48)
REFERENCE = "myrtle10"

CASES = (
    Case(
        "myrtle10",
        "myrtle10",
        IMAGE,
        SMALL,
        SMALL_GPU,
        # The untuned C++ prototype reached 110 pairs/s on a core.
        (times_peer(200), Target("pairs_per_core", 1.5 * 110)),
        (Target("pairs_per_s", 100_000),),
    ),
    Case("myrtle5", "myrtle5", IMAGE, SMALL, SMALL_GPU, (rate_within(0.2),), (rate_within(0.2),)),
    Case("myrtle7", "myrtle7", IMAGE, SMALL, SMALL_GPU, (rate_within(0.2),), (rate_within(0.2),)),
    Case(
        "cv8",
        "cv8",
        IMAGE,
        (16, 32, 64, 128),
        (64, 128, 256, 512),
        (times_peer(15),),
        (Target("pairs_per_s", 40e6),),
    ),
    Case(
        "fc3",
        "fc3",
        (3072,),
        (500, 1000, 2000, 4000),
        (1000, 4000, 8000, 16000),
        (times_peer(1.3), Target("product_ratio", 1.3, at_least=False)),
        (Target("product_ratio", 1.5, at_least=False),),
        product=True,
    ),
    Case(
        "sequence28",
        SEQUENCE,
        (28, 20),
        (16, 32, 64, 128),
        (64, 128, 256, 512),
        (times_peer(30),),
    ),
    Case("sequence735", SEQUENCE, (735, 20), (1, 2, 4, 8), (4, 8, 16, 32), (times_peer(30),)),
    Case(
        "myrtle5-64",
        "myrtle5",
        (64, 64, 3),
        (1, 2),
        (1, 2, 4, 8),
        (rate_within(0.3),),
        (rate_within(0.3),),
        agree=1,
    ),
    Case("residual", RESIDUAL, IMAGE, SMALL, SMALL_GPU, (times_peer(10),)),
    Case("strided", STRIDES, IMAGE, SMALL, SMALL_GPU, (times_peer(10),)),
)
SCALED = ("myrtle10", "cv8")
EFFICIENCY = Target("efficiency", 0.95)


def chosen(names: list[str]) -> tuple[Case, ...]:
    """The cases of these names, all without names. Raises ValueError for an unknown name."""
    known = [case.name for case in CASES]
    unknown = [name for name in names if name not in (*known, *SCALING)]
    if unknown:
        raise ValueError(f"no row is called {', '.join(unknown)}: {', '.join((*known, *SCALING))}")
    return tuple(case for case in CASES if not names or case.name in names)


SCALING = ("threads", "processes")
