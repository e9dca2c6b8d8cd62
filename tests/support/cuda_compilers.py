"""Compilers of CUDA that need no GPU: NVRTC from a wheel or the system, else nvcc on the PATH."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import shutil
import subprocess
import tempfile
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p, create_string_buffer
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpcnk.engine.device.source import OPTIONS, Compiled

ABSENT = (
    "no CUDA compiler: pip install nvidia-cuda-nvrtc-cu12, or put nvcc on the PATH, to compile the "
    "GPU's kernels"
)


class CudaError(Exception):
    """A kernel did not compile; holds the compiler's messages."""


@dataclass(frozen=True)
class Nvrtc:
    """The compiler that CuPy uses, called directly."""

    library: ctypes.CDLL
    version: str

    @property
    def architectures(self) -> list[str]:
        count = c_int()
        self._call("nvrtcGetNumSupportedArchs", byref(count))
        found = (c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return [f"sm_{number}" for number in found]

    def compile(self, module: Compiled, architecture: str) -> bytes:
        """Return the binary. Raises CudaError."""
        program = c_void_p()
        text = module.text.encode()
        self._call("nvrtcCreateProgram", byref(program), text, b"device.cu", 0, None, None)
        options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
        result = self.library.nvrtcCompileProgram(
            program, len(options), (c_char_p * len(options))(*options)
        )
        said = self._text(program, "ProgramLog")
        if result:
            raise CudaError(said.decode())
        return self._text(program, "CUBIN")

    def _text(self, program: c_void_p, name: str) -> bytes:
        size = c_size_t()
        self._call(f"nvrtcGet{name}Size", program, byref(size))
        buffer = create_string_buffer(size.value)
        self._call(f"nvrtcGet{name}", program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: object) -> None:
        result = self.library[name](*arguments)
        if result:
            raise CudaError(f"{name}: error {result}")


@dataclass(frozen=True)
class Nvcc:
    """The compiler of the CUDA toolkit."""

    path: str
    version: str

    @property
    def architectures(self) -> list[str]:
        done = subprocess.run([self.path, "--list-gpu-code"], capture_output=True, text=True)
        return done.stdout.split()

    def compile(self, module: Compiled, architecture: str) -> bytes:
        """Return the binary. Raises CudaError."""
        return self.compile_loudly(module, architecture)[0]

    def compile_loudly(self, module: Compiled, architecture: str) -> tuple[bytes, str]:
        """Return the binary and what the assembler says of registers and spills."""
        with tempfile.TemporaryDirectory() as folder:
            source, binary = Path(folder, "device.cu"), Path(folder, "device.cubin")
            source.write_text(module.text)
            options = [*OPTIONS, f"-arch={architecture}", "-cubin", "-Xptxas", "-v"]
            command = [self.path, *options, str(source), "-o", str(binary)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CudaError(done.stderr)
            return binary.read_bytes(), done.stderr


@cache
def find_nvrtc() -> Nvrtc | None:
    for path in (*_wheel_libraries(), ctypes.util.find_library("nvrtc")):
        if not path:
            continue
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        major, minor = c_int(), c_int()
        library.nvrtcVersion(byref(major), byref(minor))
        return Nvrtc(library, f"NVRTC {major.value}.{minor.value}")
    return None


@cache
def find_nvcc() -> Nvcc | None:
    path = shutil.which("nvcc")
    if not path:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True)
    words = done.stdout.replace(",", " ").split()
    return Nvcc(path, f"nvcc {words[words.index('release') + 1]}") if "release" in words else None


def _wheel_libraries() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in Path(folder).rglob("libnvrtc.so.*")]
    return sorted(path for path in found if ".alt." not in path.name)
