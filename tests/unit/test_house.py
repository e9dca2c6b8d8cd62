"""The house rules that tools can check: imports one way, style, types, shipped decks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent


def run(*command, **environment):
    return subprocess.run(
        list(map(str, command)),
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        (TOOLS / "lint-imports", "--no-cache"),
        (TOOLS / "ruff", "check", "--no-cache", "."),
        (TOOLS / "ruff", "format", "--no-cache", "--check", "."),
        (TOOLS / "mypy", "--cache-dir", os.devnull),
    ],
    ids=lambda command: " ".join(map(str, command[:2])).rsplit("/")[-1],
)
def test_the_house_rules_hold(command):
    ended = run(*command, PYTHONPATH=str(PROJECT))
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("script", sorted((PROJECT / "tools").glob("*.sh")), ids=lambda p: p.name)
def test_shell_scripts_parse(script):
    assert run("bash", "-n", script).returncode == 0


@pytest.mark.parametrize("deck", sorted((PROJECT / "inputs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_decks_are_valid(deck):
    folder = os.environ.get("HPCNK_DATA")
    if "HPCNK_DATA" in deck.read_text() and not folder:
        pytest.skip("HPCNK_DATA is not set: no real data sets here")
    ended = run(sys.executable, "-m", "hpcnk", "check", deck)
    assert ended.returncode == 0, ended.stderr
    assert "is valid" in ended.stdout
