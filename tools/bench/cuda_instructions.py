"""Count the instructions of the GPU's fast kernel, on any machine: no GPU is needed.

An el-layer is one entry of S and T through one convolution and one relu. The kernel's loop over
rows is unrolled; its instructions, those for reading the images and for the pool included, are
divided by the el-layers that they compute. Every one is counted, also those behind a branch that is
taken for some rows only. Needs nvcc (or the wheel nvidia-cuda-nvrtc-cu12), and nvdisasm and
cuobjdump (in the CUDA toolkit, or the wheels nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump).

    python tools/bench/cuda_instructions.py [--architecture sm_90]
"""

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from hpcnk.engine.device.program import device_program
from hpcnk.engine.device.source import stream_module
from hpcnk.kernels import parse
from tests.support.cuda_compilers import ABSENT, find_nvcc, find_nvrtc

RESULTS = Path(__file__).parent / "results"
STAGES = {
    "myrtle10, 32 x 32, stage 1": ("myrtle10", (32, 32, 3), 0),
    "myrtle10, 32 x 32, stage 2": ("myrtle10", (32, 32, 3), 1),
    "myrtle10, 32 x 32, stage 3": ("myrtle10", (32, 32, 3), 2),
    "myrtle7, 32 x 32, stage 1": ("myrtle7", (32, 32, 3), 0),
    "myrtle5, 32 x 32, stage 1": ("myrtle5", (32, 32, 3), 0),
    "myrtle5, 64 x 64, stage 1": ("myrtle5", (64, 64, 3), 0),
    "cv8, 32 x 32": ("cv8", (32, 32, 3), 0),
}
# 132 multiprocessors of 4 schedulers, one instruction of 32 lanes each a cycle of about 1.75 GHz.
H200_LANE_INSTRUCTIONS = 132 * 4 * 32 * 1.75e9


def tool(name):
    """Find a program of the toolkit on the PATH or in a wheel."""
    found = shutil.which(name)
    if found:
        return found
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in Path(folder).rglob(name):
            return str(path)
    sys.exit(f"{name} was not found: pip install nvidia-cuda-{name}, or put it on the PATH")


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def count(binary, stage):
    """Measure a binary of `hpcnk_stream`: registers, stack, the loop over rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stream.cubin")
        path.write_bytes(binary)
        usage = output(tool("cuobjdump"), "--dump-resource-usage", str(path))
        loop, body = row_loop(output(tool("nvdisasm"), "-c", str(path)))
    kinds = Counter(operation(text) for text in body)
    el_layers = kinds["MUFU"]  # one root each
    return {
        "registers": number(usage, "REG"),
        "stack_bytes": number(usage, "STACK"),
        "loop_instructions": loop,
        "el_layers_in_loop": el_layers,
        "rows_in_loop": el_layers / (stage.layers * stage.columns),
        "local_memory_in_loop": kinds["LDL"] + kinds["STL"],
        "instructions_per_el_layer": round(loop / el_layers, 2),
        "kinds": dict(kinds.most_common()),
    }


def number(usage, name):
    return int(re.search(rf"\b{name}:(\d+)", usage).group(1))


def operation(text):
    """Give the name of an instruction, without its predicate and its options."""
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0]


def row_loop(listing):
    """Find the longest innermost loop with a root in it; return its length and instructions."""
    texts, labels = [], {}
    for line in listing.splitlines():
        label = re.match(r"\s*(\.L_\w+):", line)
        if label:
            labels[label.group(1)] = len(texts)
        found = re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if found:
            texts.append(found.group(1))
    loops = []
    for end, text in enumerate(texts):
        to = re.search(r"BRA.*\((\.L_\w+)\)", text)
        if to and labels.get(to.group(1), end) < end:
            loops.append((labels[to.group(1)], end))
    inner = [
        (begin, end)
        for begin, end in loops
        if not any((b, e) != (begin, end) and b >= begin and e <= end for b, e in loops)
        and any("MUFU" in text for text in texts[begin:end])
    ]
    begin, end = max(inner, key=lambda loop: loop[1] - loop[0])
    return end + 1 - begin, texts[begin : end + 1]


def measure(name, architecture, compiler):
    preset, shape, number_of_stage = STAGES[name]
    program = device_program(parse(preset).plan(shape), True)
    calls = [call for call in program.calls if call.shape is not None]
    stage = calls[number_of_stage].shape
    module = stream_module(np.dtype(np.float32), stage)
    found = count(compiler.compile(module, architecture), stage)
    found["pixels_of_a_lane"] = stage.columns
    found["ceiling_el_layers_per_s_h200"] = (
        H200_LANE_INSTRUCTIONS / found["instructions_per_el_layer"]
    )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="sm_90")
    architecture = parser.parse_args().architecture
    compiler = find_nvcc() or find_nvrtc()
    if compiler is None:
        sys.exit(ABSENT)
    stages = {name: measure(name, architecture, compiler) for name in STAGES}
    for name, found in stages.items():
        print(
            f"{name}: {found['instructions_per_el_layer']} instructions an el-layer, "
            f"{found['registers']} registers, {found['stack_bytes']} bytes of stack, "
            f"{found['local_memory_in_loop']} accesses to it in the loop"
        )
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(timezone.utc)
    path = RESULTS / f"cuda_instructions_{architecture}.json"
    record = {
        "date": now.isoformat(timespec="seconds"),
        "compiler": compiler.version,
        "architecture": architecture,
        "dtype": "float32",
        "kind": "ntk",
        "stages": stages,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
