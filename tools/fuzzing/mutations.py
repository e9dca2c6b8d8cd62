"""Ways to damage a file, all drawn from one generator, so that a seed repeats them."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytearray, Random], bytes]

# Lengths and places that a reader may take for memory to allocate, a count, or a sign.
_NUMBERS = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 10**15, 2**62, 2**63 - 1)
_NUMBERS += (2**64 - 1,)
_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
# Where the bytes lie that say what a file holds, in HDF5 and in zip.
_HDF5 = re.compile(rb"\x89HDF|TREE|HEAP|SNOD|GCOL|OHDR|OCHK|FRHP|FSHD|BTHD|[a-z_]{4,}")
_ZIP = re.compile(rb"PK..|NUMPY")


def places(content: bytes | bytearray, generator: Random, marks: re.Pattern[bytes] | None) -> int:
    """Choose a byte: near one of the marks two times in three, else anywhere."""
    found = [match.start() for match in marks.finditer(content)] if marks else []
    if found and generator.random() < 2 / 3:
        return min(len(content) - 1, generator.choice(found) + generator.randrange(96))
    return generator.randrange(len(content))


def binary(marks: re.Pattern[bytes] | None) -> Mutation:
    """Return a mutation of bytes that favours the neighbourhood of the marks."""

    def mutate(content: bytearray, generator: Random) -> bytes:
        for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
            if content:
                generator.choice(_STEPS)(content, places(content, generator, marks), generator)
        return bytes(content)

    return mutate


def _flip(content: bytearray, at: int, generator: Random) -> None:
    content[at] ^= 1 << generator.randrange(8)


def _set(content: bytearray, at: int, generator: Random) -> None:
    content[at] = generator.choice((*_BYTES, generator.randrange(256)))


def _number(content: bytearray, at: int, generator: Random) -> None:
    """Write an odd number over a field of 2, 4 or 8 bytes."""
    width = generator.choice((2, 4, 8))
    number = generator.choice(_NUMBERS) % 256**width
    content[at : at + width] = number.to_bytes(width, "little")


def _cut(content: bytearray, at: int, generator: Random) -> None:
    del content[at:]


def _remove(content: bytearray, at: int, generator: Random) -> None:
    del content[at : at + generator.randrange(1, 64)]


def _splice(content: bytearray, at: int, generator: Random) -> None:
    """Copy a piece of the file to another place in it."""
    start, length = generator.randrange(len(content)), generator.randrange(1, 256)
    content[at : at + length] = content[start : start + length]


def _repeat(content: bytearray, at: int, generator: Random) -> None:
    content[at:at] = content[at : at + generator.randrange(1, 64)]


_STEPS: Sequence[Callable[[bytearray, int, Random], None]] = (
    _flip, _flip, _set, _set, _number, _number, _cut, _remove, _splice, _repeat,
)  # fmt: skip

anywhere = binary(None)
hdf5 = binary(_HDF5)
_zip = binary(_ZIP)
_header = binary(re.compile(rb"NUMPY|descr|shape|fortran"))


# The program around the pixels is at both ends of a pickle.
pickled = binary(re.compile(rb"\A|numpy|labels|data|ndarray|dtype|latin1|u1|.\Z", re.DOTALL))


def npz(content: bytearray, generator: Random) -> bytes:
    """Damage the archive, or one array in it and make the archive's own checksums fit."""
    if generator.random() < 0.5:
        return _zip(content, generator)
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = generator.choice(sorted(members))
    members[name] = _header(bytearray(members[name]), generator)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, raw in members.items():
            archive.writestr(member, raw)
    return out.getvalue()


def text(tokens: Sequence[str]) -> Mutation:
    """Return a mutation of text: tokens put in or over words, lines moved, or bytes damaged."""

    def mutate(content: bytearray, generator: Random) -> bytes:
        if generator.random() < 0.3:
            return anywhere(content, generator)
        words = re.split(r"([^\w.]+)", content.decode("utf-8", "replace"))
        for _ in range(generator.choice((1, 1, 2, 5))):
            at, step = generator.randrange(len(words)), generator.randrange(4)
            if step == 0:
                words[at] = generator.choice(tokens)
            elif step == 1:
                words.insert(at, generator.choice(tokens))
            elif step == 2:
                words[at] = generator.choice(words)
            else:
                del words[at : at + generator.randrange(1, 4)]
                words = words or [""]
        return "".join(words).encode("utf-8", "surrogatepass")

    return mutate


yaml = text(
    ("&a", "*a", "<<: *a", "!!float", "!x", "|", ">", "? ", "- ", "[", "]", "{", "}", ": ", "#",
     "\t", "\n  ", "\n", "${HOME}", "${NOT_SET}", "${A:-1}", "$", "$$", "~", "null", ".nan", ".inf",
     "1e999", "9" * 30, "-1", "0x10", "12:30", "2020-01-01", "\0", "\x85", "\u2028", "\ufeff",
     "\ud800", "'", '"', "%YAML 9.9", "---", "...", "[" * 80, "\\U0011FFFF", "é" * 50)
)  # fmt: skip

json = text(
    ("null", "NaN", "-Infinity", "1e999", "9" * 5000, "[" * 5000, '{"a":' * 2000, "{}", "[]", '""',
     "-1", "0", "true", '"\\ud800"', '"\\u001b[31m"', "\0", "\ud800", ",", ":", "{", "}", "[", "]",
     '"', "1.5")
)  # fmt: skip
