"""The YAML deck: what an experiment is, read and checked before anything is started."""

from hpcnk.deck.manual import manual
from hpcnk.deck.read import read_deck
from hpcnk.deck.schema import (
    CheckLayers,
    DataSection,
    Deck,
    KernelSection,
    PerClass,
    Rows,
    StoreSection,
    Whitening,
)
from hpcnk.deck.solving import Preconditioner, SolveSection

__all__ = [
    "CheckLayers",
    "DataSection",
    "Deck",
    "KernelSection",
    "PerClass",
    "Preconditioner",
    "Rows",
    "SolveSection",
    "StoreSection",
    "Whitening",
    "manual",
    "read_deck",
]
