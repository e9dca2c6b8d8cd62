"""Builds the host library at its first use, for the processor at hand, once for all ranks.

The file's name holds a hash of the sources, the flags and the processor, so a cache on a shared
file system serves nodes of several kinds, and a node without a compiler finds what one of its kind
has built. One process builds, under a lock; the others wait for it and then find the file. The
compiler must not be started from inside of a running MPI process (on some fabrics that kills the
job), so `hpcnk` calls `built_library` before MPI starts.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hpcnk.errors import BackendError

SOURCE = Path(__file__).parent / "source"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared")
COMPILERS = ("c++", "g++", "clang++")
ADVICE = (
    "install a C++ compiler (Debian: apt-get install g++; without root: pip install ziglang), name "
    "one in the environment variable CXX, or set `backend: reference` for plain NumPy, which is "
    "many times slower"
)


@cache
def built_library() -> Path:
    """Return the path of the host library, built if it is not in the cache.

    Raises BackendError if there is no compiler, it fails, or there is no place for the file.
    """
    path = _folder() / f"host-{_key()}.so"
    if not path.exists():
        compiler = find_compiler()
        with _lock(path.with_suffix(".lock")):
            if not path.exists():
                _build(compiler, path)
    return path


def find_compiler() -> list[str]:
    """Give the command of a C++ compiler: CXX, the usual names, the wheel ziglang.

    Raises BackendError if there is none.
    """
    asked = shlex.split(os.environ.get("CXX", ""))
    if asked:
        if shutil.which(asked[0]):
            return asked
        raise BackendError(f"CXX names {asked[0]!r}, and there is no such program", ADVICE)
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise BackendError("no C++ compiler was found to build the CPU engine", ADVICE)


def _build(compiler: list[str], path: Path) -> None:
    """Compile into a file of our own and rename it: nobody ever sees half a library."""
    handle, temporary = tempfile.mkstemp(".so", "building-", path.parent)
    os.close(handle)
    command = [*compiler, *_flags(), str(SOURCE / "host.cpp"), "-o", temporary]
    try:
        done = _run(command)
        if done.returncode:
            said = "\n".join(done.stderr.splitlines()[:20])
            raise BackendError(
                f"the CPU engine did not compile: {shlex.join(command)}\n{said}", ADVICE
            )
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendError(f"{shlex.join(command)}: {error.strerror}", ADVICE) from error


def _key() -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCE.iterdir()):
        if source.name.startswith("device"):
            continue  # of the GPU alone
        digest.update(source.name.encode() + source.read_bytes())
    for text in (*_flags(), os.environ.get("CXX", ""), *platform.libc_ver(), _processor()):
        digest.update(text.encode())
    return digest.hexdigest()[:20]


def _flags() -> list[str]:
    """Give the flags; HPCNK_CXXFLAGS comes last and so wins, e.g. -march=x86-64-v3."""
    return [*FLAGS, *shlex.split(os.environ.get("HPCNK_CXXFLAGS", ""))]


def _processor() -> str:
    """Describe the processor; -march=native depends on no more than this."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = (
        "model name",
        "cpu family",
        "model",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
    )
    first = text.split("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.split(":")[0].strip() in names)


def _folder() -> Path:
    """Return a folder for built libraries that belongs to this user alone."""
    asked = os.environ.get("HPCNK_CACHE") or os.environ.get("XDG_CACHE_HOME")
    root = Path(asked) if asked else Path.home() / ".cache"
    for folder in (root / "hpcnk", Path(tempfile.gettempdir()) / f"hpcnk-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
        except OSError:
            continue
    raise BackendError(
        f"no folder to keep the CPU engine in: {root / 'hpcnk'} cannot be written",
        "set HPCNK_CACHE to a folder that can",
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
