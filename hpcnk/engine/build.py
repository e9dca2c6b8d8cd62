"""Builds a host library at its first use, for the processor at hand, once for all ranks.

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
from contextlib import contextmanager, suppress
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
FAILED_ADVICE = (
    "see what the compiler says (space in the cache and the temporary folder? flags in CXX or "
    "HPCNK_CXXFLAGS?), or set `backend: reference` for plain NumPy, which is many times slower"
)


@cache
def built_library(main: Path | None = None) -> Path:
    """Return the path of a library, built if it is not in the cache.

    `main` is the source file to compile, by default the CPU engine's; it may include what lies
    beside it. Raises BackendError if there is no compiler, it fails, or there is no place for the
    file.
    """
    main = main or SOURCE / "host.cpp"
    name = f"{main.stem}-{_key(main.parent)}.so"
    for folder in filter(_trusted, _folders()):
        if (folder / name).exists():
            return folder / name
    path = _writable_folder() / name
    compiler = find_compiler()
    with _lock(path.with_suffix(".lock")):
        if not path.exists():
            _build(compiler, main, path)
    return path


def find_compiler() -> list[str]:
    """Give the command of a C++ compiler: CXX, the usual names, the wheel ziglang.

    Raises BackendError if there is none.
    """
    asked = _words("CXX")
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


def _build(compiler: list[str], main: Path, path: Path) -> None:
    """Compile into a file of our own and rename it: nobody ever sees half a library."""
    handle, temporary = tempfile.mkstemp(".so", "building-", path.parent)
    os.close(handle)
    command = [*compiler, *_flags(), str(main), "-o", temporary]
    try:
        done = _run(command)
        if done.returncode:
            said = "\n".join(done.stderr.splitlines()[:20])
            raise BackendError(
                f"the CPU engine did not compile: {shlex.join(command)}\n{said}", FAILED_ADVICE
            )
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendError(f"{shlex.join(command)}: {error.strerror}", ADVICE) from error


def _key(folder: Path | None = None) -> str:
    """Hash what a library from the sources in a folder depends on."""
    digest = hashlib.sha256()
    for source in sorted((folder or SOURCE).iterdir()):
        if source.name.startswith("device"):
            continue  # of the GPU alone
        digest.update(source.name.encode() + source.read_bytes())
    for text in (*_flags(), os.environ.get("CXX", ""), *platform.libc_ver(), _processor()):
        digest.update(text.encode())
    return digest.hexdigest()[:20]


def _flags() -> list[str]:
    """Give the flags; HPCNK_CXXFLAGS comes last and so wins, e.g. -march=x86-64-v3."""
    return [*FLAGS, *_words("HPCNK_CXXFLAGS")]


def _words(variable: str) -> list[str]:
    """Split an environment variable like a shell."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise BackendError(f"{variable}: {error}", f"correct or unset {variable}") from error


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


def vector_bytes() -> int:
    """Give the bytes of a vector as source/lanes.hpp chooses them for this processor."""
    flags = _processor().split()
    return 64 if "avx512f" in flags else 32 if "avx" in flags else 16


def _folders() -> list[Path]:
    """List where libraries may lie: HPCNK_CACHE, or the user's cache and the temporary folder."""
    named = os.environ.get("HPCNK_CACHE")
    if named:
        return [Path(named).absolute()]
    folders = [Path(tempfile.gettempdir()) / f"hpcnk-{os.getuid()}"]
    with suppress(RuntimeError):  # a user without a home
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders.insert(0, Path(root) / "hpcnk")
    return folders


def _trusted(folder: Path) -> bool:
    """Tell whether nobody but this user or root can put a library there."""
    try:
        found = folder.stat()
    except OSError:
        return False
    return found.st_uid in (0, os.getuid()) and not found.st_mode & 0o022


def _writable_folder() -> Path:
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK) and _trusted(folder):
                return folder
    raise BackendError(
        f"no folder to keep the CPU engine in: {' and '.join(map(str, _folders()))} cannot be "
        "written, or can be written by others",
        "set HPCNK_CACHE to a folder of your own",
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        file = open(path, "w")  # noqa: SIM115, closed below
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}", FAILED_ADVICE) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
