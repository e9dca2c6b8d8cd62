"""The types of a deck's values: each with its check and the phrase that says what is expected."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from hpcnk.deck.problems import show


@dataclass(frozen=True)
class Expected:
    """What a key takes, in words: it completes "expected ..." and stands in the manual.

    `item` says it of one item, where the key takes a list.
    """

    phrase: str
    item: str = ""


def refused(expected: str, got: str) -> PydanticCustomError:
    """Make an error with a phrase of its own, where that of the field does not say enough."""
    context = {"expected": expected, "got": got}
    return PydanticCustomError("refused", "expected {expected}, got {got}", context)


def _name(text: str) -> str:
    if not text.isprintable() or "/" in text or text.strip(" .") == "":
        raise ValueError(text)
    return text


def _path(value: object) -> object:
    """Admit only text that the operating system can take for a path."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or value.strip() == "" or "\0" in value:
        raise ValueError(value)
    return Path(os.path.expanduser(value))


def _validation(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)
    if value < 0 or (isinstance(value, float) and not value < 1):
        raise ValueError(value)
    return value


def _one_or_several(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _each_once(values: tuple[float, ...]) -> tuple[float, ...]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise refused("each number once", f"{', '.join(map(show, repeated))} more than once")
    return values


def _some(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values:
        raise refused("at least one number", "an empty list")
    return values


Name = Annotated[
    str,
    Strict(),
    AfterValidator(_name),
    Expected("text that can name a folder (not empty, no '/')"),
]
Folder = Annotated[Path, BeforeValidator(_path), Expected("a path")]
OptionalPath = Annotated[
    Path | None, BeforeValidator(_path), Expected("a file or folder that exists")
]
Flag = Annotated[bool, Strict(), Expected("true or false")]
Count = Annotated[int, Strict(), Field(ge=1), Expected("an integer of at least 1")]
Index = Annotated[int, Strict(), Field(ge=0), Expected("an integer of at least 0")]
Seed = Annotated[
    int, Strict(), Field(ge=0, lt=2**32), Expected("an integer of at least 0 and below 2^32")
]
Positive = Annotated[
    float, Strict(), Field(gt=0, allow_inf_nan=False), Expected("a finite number above 0")
]
Tolerance = Annotated[
    float, Strict(), Field(gt=0, lt=1), Expected("a number above 0 and below 1, such as 1e-8")
]
Validation = Annotated[
    int | float,
    BeforeValidator(_validation),
    Expected("a share in [0, 1) such as 0.1, or an integer count of at least 0"),
]
_Ridge = Annotated[float, Strict(), Field(ge=0, le=1e100, allow_inf_nan=False)]
Ridges = Annotated[
    tuple[_Ridge, ...],
    BeforeValidator(_one_or_several),
    AfterValidator(_some),
    AfterValidator(_each_once),
    Expected(
        "a number from 0 to 1e100, or a list of such numbers", item="a number from 0 to 1e100"
    ),
]


Sizes = Annotated[
    tuple[Annotated[int, Strict(), Field(ge=1)], ...],
    BeforeValidator(_one_or_several),
    AfterValidator(_each_once),
    AfterValidator(sorted),
    AfterValidator(tuple),
    Expected("a list of integers of at least 1", item="an integer of at least 1"),
]


def _methods(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise refused("at least one method", "an empty list")
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise refused("each method once", f"{', '.join(repeated)} more than once")
    return values


_METHODS = "cg, dense, nystrom, subset_of_regressors, block_diagonal, bayesian_committee"
Methods = Annotated[
    tuple[
        Literal[
            "cg",
            "dense",
            "nystrom",
            "subset_of_regressors",
            "block_diagonal",
            "bayesian_committee",
        ],
        ...,
    ],
    BeforeValidator(_one_or_several),
    AfterValidator(_methods),
    Expected(f"a list of {_METHODS}", item=f"one of {_METHODS}"),
]


def check_path(path: Path | None, dataset: object) -> Path | None:
    """Check that a data set's path is there exactly where one is needed.

    `dataset` is its name, or None where that is itself wrong.
    """
    if dataset == "digits" and path is not None:
        raise refused("no path for digits, which come inside scikit-learn", show(str(path)))
    if dataset in _PATH_OF and path is None:
        raise refused(_PATH_OF[str(dataset)], "nothing")
    if path is not None and not os.path.exists(path):
        raise refused("a file or folder that exists", _absent(path))
    return path


_PATH_OF: Mapping[str, str] = {
    "cifar10": "the folder of CIFAR-10's batches",
    "arrays": "the .npz or HDF5 file of the arrays",
}


def _absent(path: Path) -> str:
    """Say how far an absent path exists, which shows where the mistake is."""
    absolute = Path(os.path.abspath(path))
    there = next(str(above) for above in absolute.parents if os.path.exists(above))
    return f"{str(absolute)!r}, of which only {there!r} exists"
