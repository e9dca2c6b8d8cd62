"""Files that are no deck: refused with a sentence, whatever they hold."""

import os
import time
from functools import partial

import pytest

from hpcnk.deck import read_deck
from hpcnk.errors import DeckError
from tests.unit.deck_trial import DECKS, MINIMAL, check_layers, problems_of, read_text


@pytest.fixture
def read(tmp_path):
    return partial(read_text, tmp_path)


@pytest.fixture
def problems(tmp_path):
    return partial(problems_of, tmp_path)


@pytest.mark.parametrize(
    ("content", "line", "part"),
    [
        (b"", 1, "got an empty file"),
        (b"# nothing\n", 1, "got an empty file"),
        (b"\n- a\n- b\n", 2, "got a list"),
        (b"text", 1, "got 'text'"),
        (b"name: x\n\n  tile: \xff\n", 3, "expected UTF-8 text, got the byte 0xff"),
        (b"name: x\n\tdata: 3\n", 2, "expected spaces as indentation, got a tab"),
        (b"a: 1\nb:\n  - {c:\t[}\n", 3, "expected spaces, got a tab at column 8"),
        (b"name: x\n@: 3\n", 2, "expected valid YAML"),
        (b"a: [1\nb: 2\n", 2, "expected valid YAML"),
        (b"a: 1\n--- \nb: 2\n", 2, "expected valid YAML"),
        (b"a: *nowhere\n", 1, "expected valid YAML"),
        (b"a: 1\nb: \x00\n", 2, "expected printable characters, got '\\x00'"),
        (b'name: "\\UFFFFFFFF"\n', 1, "out of range"),
        (b"%YAML " + b"9" * 5000 + b".1\n---\na: 1\n", 1, "out of range"),
        (b"a: " + b"[" * 5000, 1, "nested deeper"),
        (b"a: &a [*a]\n", 1, "nested deeper"),
        (b"a: &a {<<: *a}\n", 1, "nested deeper"),
        (b"[" + b"1," * 30_000 + b"]", 1, "more than 20000 values"),
        (b"#" * 2**20 + b"#", 1, "expected at most 1 MiB of YAML, got more"),
    ],
)
def test_no_yaml(problems, content, line, part):
    ((at, sentence),) = problems(content)
    assert at == line
    assert part in sentence


def test_byte_order_mark_is_skipped(read):
    assert read(b"\xef\xbb\xbf" + MINIMAL.encode()).name == "trial"


def test_aliases_that_explode_are_refused_in_time():
    start = time.perf_counter()
    with pytest.raises(DeckError, match="aliases"):
        read_deck(DECKS / "bad" / "billion_laughs.yaml", check_layers)
    assert time.perf_counter() - start < 5


def test_a_deck_of_just_under_one_mebibyte_is_read(read):
    assert read(b"#" * (2**20 - 100) + b"\n" + MINIMAL.encode()).kernel.layers == "cv8"


@pytest.mark.parametrize(
    ("name", "got"), [("absent.yaml", "got none"), (".", "got a folder"), ("a\0b", "got none")]
)
def test_no_file(tmp_path, name, got):
    with pytest.raises(DeckError, match=f"expected a readable deck file, {got}"):
        read_deck(tmp_path / name, check_layers)


def test_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DeckError, match="got another kind of file"):
        read_deck(tmp_path / "pipe", check_layers)


def test_a_file_name_with_broken_bytes_can_be_printed(tmp_path):
    file = tmp_path / os.fsdecode(b"\xff.yaml")
    file.write_text(MINIMAL)
    read_deck(file, check_layers).name.encode()
    file.write_text("")
    with pytest.raises(DeckError) as caught:
        read_deck(file, check_layers)
    str(caught.value).encode()
