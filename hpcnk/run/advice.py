"""Advice that depends on the deck."""

from hpcnk.deck import Deck


def against_rounding(deck: Deck) -> str:
    """Say what helps where the kernel's rounding drowns the ridge."""
    finer = "" if deck.kernel.dtype == "float64" else " or use kernel.dtype float64"
    return f"raise the ridge{finer}"
