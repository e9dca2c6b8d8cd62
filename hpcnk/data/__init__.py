"""Data sets: readers, selection of rows, normalisation, whitening and label encoding."""

from hpcnk.data.coverage import (
    label_notes,
    require_labels,
    unlike_leading_rows,
)
from hpcnk.data.examples import Examples, describe, load
from hpcnk.data.inputs import Inputs, preprocess
from hpcnk.data.labels import Targets, labelled
from hpcnk.data.select import validation_rows
from hpcnk.data.source import Description

__all__ = [
    "Description",
    "Examples",
    "Inputs",
    "Targets",
    "describe",
    "label_notes",
    "labelled",
    "load",
    "preprocess",
    "require_labels",
    "unlike_leading_rows",
    "validation_rows",
]
