"""Building the CPU engine at its first use: once, with clear words where it cannot be done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcnk.engine import build
from hpcnk.errors import BackendError

BUILD = "from hpcnk.engine.build import built_library; print(built_library())"
KERNEL = "from hpcnk import Kernel; import numpy as np; print(Kernel('fc1')(np.eye(3)).shape)"
COMPILER = next(filter(None, map(shutil.which, build.COMPILERS)), None)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is installed")


@pytest.fixture
def fresh(tmp_path):
    """Return a function that starts a Python process with caches of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    places = {"HPCNK_CACHE": str(tmp_path / "cache"), "TMPDIR": str(folder)}
    path = os.pathsep.join(filter(None, [str(Path(build.__file__).parents[2]), *sys.path]))

    def start(code, **environment):
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **places, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process):
    output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors


def compiler_script(folder, *lines):
    """Write a stand-in for a compiler; it still says its version."""
    path = folder / "compiler"
    version = f'[ "$1" = --version ] && exec {COMPILER} --version'
    path.write_text("\n".join(["#!/bin/sh", version, *lines, ""]))
    path.chmod(0o700)
    return path


def copying_compiler(folder):
    """A compiler that takes a while, notes every start, and makes a library that was made before.

    Compiling takes half a minute of processor time on a slow machine, and is not what is tested.
    """
    log = folder / "log"
    script = compiler_script(
        folder,
        f"echo start >> {log}",
        "sleep 1",
        'for name in "$@"; do last=$name; done',
        f"cp {build.built_library()} $last",
    )
    return script, log


def test_many_processes_at_once_build_once(fresh, tmp_path):
    script, log = copying_compiler(tmp_path)
    running = [fresh(BUILD, CXX=str(script)) for _ in range(4)]
    results = [ended(process) for process in running]
    assert [code for code, _, _ in results] == [0] * 4, results
    (path,) = {output.strip() for _, output, _ in results}
    assert log.read_text().split() == ["start"]
    assert path.startswith(str(tmp_path / "cache"))
    left = {file.suffix for file in Path(path).parent.iterdir()}
    assert left == {".so", ".lock"}
    assert ended(fresh(KERNEL, CXX=str(script)))[1].strip() == "(3, 3)"
    assert log.read_text().split() == ["start"]


def test_a_library_from_this_compiler_works(fresh, tmp_path):
    code, output, errors = ended(fresh(KERNEL))
    assert (code, output.strip()) == (0, "(3, 3)"), errors
    made = list((tmp_path / "cache").glob("host-*.so"))
    assert len(made) == 1
    assert made[0].parent.stat().st_mode & 0o077 == 0


def test_cxx_that_does_not_exist(fresh):
    code, _, errors = ended(fresh(KERNEL, CXX="no-such-compiler -v"))
    assert code != 0
    assert "CXX names 'no-such-compiler'" in errors
    assert "backend: reference" in errors


def test_cxx_that_is_no_program(fresh, tmp_path):
    script = tmp_path / "text"
    script.write_text("no program")
    script.chmod(0o700)
    code, _, errors = ended(fresh(KERNEL, CXX=str(script)))
    assert code != 0
    assert "BackendError" in errors
    assert str(script) in errors


def test_compiler_that_fails_is_quoted(fresh, tmp_path):
    script = compiler_script(tmp_path, "echo out of registers >&2", "exit 3")
    code, _, errors = ended(fresh(KERNEL, CXX=str(script)))
    assert code != 0
    for expected in ("did not compile", "out of registers", str(script), "backend: reference"):
        assert expected in errors
    assert not list((tmp_path / "cache").glob("*.so"))


def test_no_compiler_at_all(fresh, tmp_path):
    code, _, errors = ended(fresh(KERNEL, PATH=str(tmp_path), CXX=""))
    if code == 0:
        pytest.skip("the wheel ziglang is installed")
    assert "no C++ compiler was found" in errors
    assert "CXX" in errors
    assert "backend: reference" in errors


def test_reference_needs_no_compiler(fresh, tmp_path):
    code = KERNEL.replace("'fc1'", "'fc1', backend='reference'")
    assert ended(fresh(code, PATH=str(tmp_path), CXX="no-such-compiler"))[1].strip() == "(3, 3)"


def test_a_cache_of_the_user_that_cannot_be_written_is_replaced(fresh, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    script, _ = copying_compiler(tmp_path)
    places = {"HPCNK_CACHE": "", "XDG_CACHE_HOME": str(file)}
    code, output, errors = ended(fresh(BUILD, **places, CXX=str(script)))
    assert code == 0, errors
    assert Path(output.strip()).parent == tmp_path / "temporary" / f"hpcnk-{os.getuid()}"


def test_no_place_for_the_library(fresh, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    (tmp_path / "temporary" / f"hpcnk-{os.getuid()}").write_text("in the way")
    code, _, errors = ended(fresh(BUILD, HPCNK_CACHE=str(file)))
    assert code != 0
    assert "cannot be written" in errors
    assert "HPCNK_CACHE" in errors


def test_a_broken_library_in_the_cache_is_reported(fresh, tmp_path):
    script = compiler_script(tmp_path, 'for name in "$@"; do last=$name; done', "echo bad > $last")
    code, _, errors = ended(fresh(KERNEL, CXX=str(script)))
    assert code != 0
    assert "BackendError" in errors, errors[-300:]


def key(monkeypatch, **changes):
    with monkeypatch.context() as patch:
        for name, value in changes.items():
            patch.setattr(build, name, value)
        return build._key()


def test_the_name_tells_sources_flags_compiler_and_processor(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    first = key(monkeypatch)
    assert key(monkeypatch) == first
    source = shutil.copytree(build.SOURCE, tmp_path / "source")
    assert key(monkeypatch, SOURCE=source) == first
    names = {first, key(monkeypatch, FLAGS=(*build.FLAGS, "-g"))}
    names.add(key(monkeypatch, _processor=lambda: "another"))
    monkeypatch.setenv("CXX", "another")
    names.add(key(monkeypatch))
    monkeypatch.delenv("CXX")
    last = first
    for path in sorted(source.iterdir()):
        path.write_text(path.read_text() + "\n")
        found = key(monkeypatch, SOURCE=source)
        # What only the GPU's compiler reads does not rebuild the CPU engine.
        assert (found == last) == path.name.startswith("device")
        last = found
        names.add(found)
    assert len(names) >= 4 + 5


def test_a_compiler_in_two_words(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", f"{COMPILER} -g0")
    assert build.find_compiler() == [COMPILER, "-g0"]
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(BackendError, match="no such program"):
        build.find_compiler()
