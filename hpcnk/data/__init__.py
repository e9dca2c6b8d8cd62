"""Data sets: readers, selection of rows, normalisation, whitening and label encoding."""

from hpcnk.data.examples import Examples, describe, load
from hpcnk.data.inputs import Inputs, preprocess
from hpcnk.data.labels import Targets
from hpcnk.data.select import validation_rows
from hpcnk.data.source import Description

__all__ = [
    "Description",
    "Examples",
    "Inputs",
    "Targets",
    "describe",
    "load",
    "preprocess",
    "validation_rows",
]
