"""Text for terminals and files: what could steer a terminal, or has no UTF-8, is spelled out."""

_KEPT = "\n\t"


def printable(text: str) -> str:
    """Return the text with all else than printable characters, line ends and tabs as escapes."""
    return "".join(
        letter if letter.isprintable() or letter in _KEPT else _escaped(letter) for letter in text
    )


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
