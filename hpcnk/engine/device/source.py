"""The CUDA text that the GPU's compiler gets: one file, made from source/device.cu.

The compiler at run time finds no files, so `#include` lines are replaced by what they name, with
`#line` directives: its messages point into the files of the source folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcnk.engine.device.tables import Shape

SOURCE = Path(__file__).parents[1] / "source"
OPTIONS = ("--std=c++17",)
KERNELS = ("hpcnk_planes", "hpcnk_finish", "hpcnk_chain", "hpcnk_deliver", "hpcnk_add")
STREAM = "hpcnk_stream"


@dataclass(frozen=True)
class Compiled:
    """What tells one compiled module from another: a dtype, perhaps the stage it is made for."""

    dtype: str
    shape: str = ""
    warps: int = 0  # of `stream`, that a multiprocessor is to hold at once

    @property
    def text(self) -> str:
        """The whole CUDA source."""
        number = {"float32": "float", "float64": "double"}[self.dtype]
        defines = {"HPCNK_NUMBER": number}
        if self.shape:
            defines["HPCNK_SHAPE"] = self.shape
            defines["HPCNK_WARPS"] = str(self.warps)
        head = "".join(f"#define {name} {value}\n" for name, value in defines.items())
        return head + included("device.cu", set())


def stream_module(dtype: np.dtype, shape: Shape) -> Compiled:
    """Name the module that holds `hpcnk_stream` for one stage."""
    return Compiled(dtype.name, shape.text(), stream_warps(shape, dtype.itemsize))


def stream_warps(shape: Shape, itemsize: int) -> int:
    """Choose how many warps share the registers: 16 leave 128 to each thread, 12 168, 8 255.

    As many as ptxas finds registers for (tools/bench/cuda_instructions.py shows spills).
    """
    cells = shape.layers * shape.columns * (itemsize // 4)
    return 16 if cells <= 6 else 12 if cells <= 8 else 8


def included(name: str, seen: set[str]) -> str:
    """Return a source file with every file that it includes in place, each once."""
    if name in seen:
        return ""
    seen.add(name)
    lines = [f'#line 1 "{name}"\n']
    for number, line in enumerate((SOURCE / name).read_text().splitlines(), 1):
        if line.startswith('#include "'):
            lines += [included(line.split('"')[1], seen), f'#line {number + 1} "{name}"\n']
        else:
            lines.append("\n" if line.startswith("#pragma once") else line + "\n")
    return "".join(lines)
