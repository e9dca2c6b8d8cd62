"""`hpcnk jobscript`: what is filled in, what is refused, and nothing that a shell would run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from hpcnk.cli import main
from hpcnk.errors import UsageError
from hpcnk.run.check import check
from hpcnk.run.plan.estimate import Estimate
from hpcnk.run.plan.sizes import plan
from hpcnk.run.slurm.job_layout import Nodes, Request, Work, lay_out
from hpcnk.run.slurm.site import parse_time, read_site, site_names
from tests.conftest import PROJECT, small_deck

HEADER = """# A small cluster.
#HPCNK cpus=8 ranks=4 memory=16G
#HPCNK time=02:00:00 warning=120 requeue=yes
#SBATCH --partition=small
##SBATCH --account=CHANGE_ME
module load mpi
"""
CACHES = shutil.ignore_patterns("__pycache__")
ALL_LINES = ("#!/bin/bash", "#SBATCH", "##SBATCH", "# ", "")


@pytest.fixture
def site(tmp_path):
    """Return a function that writes a header, some of its text replaced; gives its path."""

    def site(old="", new=""):
        path = tmp_path / "small.sh"
        path.write_text(HEADER.replace(old, new))
        return str(path)

    return site


@pytest.fixture
def made(tmp_path, capsys):
    """Return a function that prints a script, and gives its text."""

    def made(*arguments, deck=None):
        decks = [deck] if isinstance(deck, Path) else deck or [small_deck(tmp_path)]
        capsys.readouterr()
        assert main(["jobscript", *map(str, decks), *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return made


def refused(capsys, *arguments):
    """Return what is said of a command line that is refused with code 2."""
    capsys.readouterr()
    try:
        code = main(["jobscript", *map(str, arguments)])
    except SystemExit as exit_of_parser:
        code = exit_of_parser.code
    said = capsys.readouterr()
    assert code == 2 and said.out == "", said.err
    return said.err


def options(script):
    """The options of the #SBATCH lines."""
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.M)
    assert len(dict(lines)) == len(lines), "an option twice"
    return dict(lines)


def test_the_numbers_of_a_script(made, site, tmp_path):
    found = options(made("--site", site(), "--nodes", 3))
    assert found["nodes"] == "3" and found["ntasks-per-node"] == "4"
    assert found["cpus-per-task"] == "2" and found["partition"] == "small"
    assert found["signal"] == "B:USR1@120" and found["open-mode"] == "append"
    assert found["job-name"] == "small" and found["output"] == "%x-%j.out"
    assert "requeue" in found and "no-requeue" not in found and "array" not in found
    assert 1000 < int(found["mem"].removesuffix("M")) < 4000
    assert found["time"] == "00:10:00"  # seconds of work, and the start


def test_other_numbers_as_asked_for(made, site):
    found = options(
        made("--site", site(), "--nodes", 1, "--ranks-per-node", 8, "--time", "00:05:00")
    )
    assert (found["ntasks-per-node"], found["cpus-per-task"]) == ("8", "1")
    assert (found["time"], found["signal"]) == ("00:05:00", "B:USR1@100")


def test_a_site_of_whole_nodes_without_requeueing(made, site, tmp_path):
    header = site("requeue=yes", "requeue=no whole-nodes=yes")
    script = made("--site", header, "--nodes", 1)
    found = options(script)
    assert "mem" not in found and "requeue" not in found and "no-requeue" in found
    assert re.fullmatch(r"small-[0-9a-f]{8}", found["job-name"]), "a chain is known by its name"
    assert "--dependency=singleton" in script and "\nREQUEUE=no\n" in script
    elsewhere = small_deck(tmp_path / "..")
    assert options(made("--site", header, "--nodes", 1, deck=elsewhere)) != found


def test_directives_come_before_commands_and_all_is_copied(made, site):
    script = made("--site", site(), "--nodes", 1)
    head, _, rest = script.partition("\nmodule load mpi\n")
    assert rest and all(line.startswith(ALL_LINES) for line in head.splitlines())
    assert "##SBATCH --account=CHANGE_ME" in head and "A small cluster" not in script
    assert "#SBATCH" not in rest and "HPCNK" not in rest.replace("HPCNK_", "")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", site_names())
def test_every_shipped_site(made, name):
    script = made("--site", name, "--nodes", 2)
    found = options(script)
    assert int(found["ntasks-per-node"]) * int(found["cpus-per-task"]) <= read_site(name).cpus
    if read_site(name).gpus:
        given = found.get("gpus-per-node") or found["gres"].rpartition(":")[2]
        assert int(given) == read_site(name).gpus == int(found["ntasks-per-node"])
        assert found["time"] == f"{read_site(name).time // 3600:02d}:00:00"
        assert "the speed there is not known" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_an_array(made, site, tmp_path):
    decks = [small_deck(tmp_path, name) for name in ("one", "two", "three")]
    script = made("--site", site(), "--nodes", 1, "--at-once", 2, deck=decks)
    assert options(script)["array"] == "0-2%2" and options(script)["output"] == "%x-%A_%a.out"
    assert listed(script, "DECKS") == [str(deck) for deck in decks]
    assert listed(script, "OUTPUTS") == [str(tmp_path / n) for n in ("one", "two", "three")]


def listed(script, name):
    """What bash makes of an array of the script."""
    (line,) = re.findall(rf"^{name}=\(.*?\)$", script, re.M | re.S)
    command = f'{line}\nprintf "%s\\0" "${{{name}[@]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


NASTY = "a b'; touch pwned; $(touch pwned) `touch pwned` \"é\n#SBATCH --account=other"


def test_nothing_of_a_deck_is_run_by_a_shell_or_read_by_slurm(made, site, tmp_path, monkeypatch):
    folder = tmp_path / NASTY
    folder.mkdir()
    deck = small_deck(folder, "plain")
    content = yaml.safe_load(deck.read_text())
    content["name"] = NASTY.replace("\n", " ") + " --partition=other"
    nasty = deck.with_name(f"{NASTY}.yaml")
    nasty.write_text(yaml.safe_dump(content).replace("$", "$$"))  # else a variable's name
    monkeypatch.chdir(folder)
    script = made("--site", site(), "--nodes", 1, deck=Path(nasty.name))
    assert listed(script, "DECKS") == [str(nasty)]
    assert listed(script, "OUTPUTS") == [str(folder / "plain")]
    head = script[: script.index("module load mpi")]
    assert not re.search("[$'\"é]|=other", head)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,40}", options(head)["job-name"])
    settings = script[script.index("\ncd ") : script.index("# ---- body.sh")]
    ended = subprocess.run(
        ["bash", "-c", f"{settings}\npwd"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"{folder}\n"
    assert not list(tmp_path.rglob("pwned*"))


def test_the_program_is_this_python(made, site):
    assert listed(made("--site", site(), "--nodes", 1), "PROGRAM") == [
        sys.executable,
        "-m",
        "hpcnk",
    ]


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--site", "nowhere"], "expected one of csc, generic-cpu, generic-gpu, juelich, nersc"),
        (["--site", "./absent.sh"], "absent.sh cannot be read"),
        (["--site", "../body"], "body cannot be read"),
        (["--site", "body"], "expected one of csc"),
        (["--nodes", "0"], "expected an integer of at least 1, got '0'"),
        (["--nodes", "two"], "expected an integer of at least 1, got 'two'"),
        (["--ranks-per-node", "9"], "9 ranks, but a node of small has 8 cpus"),
        (["--at-once", "2"], "there is one deck"),
        (["--time", "02:00:01"], "02:00:01 is longer than small allows, 02:00:00"),
        (["--time", "00:00:59"], "expected a time of at least a minute"),
        (["--time", "60"], "as HH:MM:SS or D-HH:MM:SS, got '60'"),
        (["--time", "1:00:00\n#SBATCH"], "expected a time"),
    ],
)
def test_refused_arguments(capsys, site, tmp_path, arguments, said):
    given = dict(zip(("--site", "--nodes"), (site(), "1"), strict=True)) | {
        arguments[0]: arguments[1]
    }
    words = [word for pair in given.items() for word in pair]
    assert said in refused(capsys, small_deck(tmp_path), *words)


@pytest.mark.parametrize(
    "old,new,said",
    [
        ("cpus=8 ", "", "no #HPCNK line says cpus"),
        ("requeue=yes", "", "no #HPCNK line says requeue"),
        ("cpus=8", "cpus=0", ":2: cpus: expected a whole number of at least 1, got '0'"),
        ("cpus=8", "cpus", ":2: cpus: expected a whole number"),
        ("cpus=8", "cpu=8", ":2: expected one of cpus, gpus, ranks"),
        ("ranks=4", "ranks=9", "9 ranks, but 8 cpus"),
        ("memory=16G", "memory=16", ":2: memory: expected a number with M or G"),
        ("memory=16G", "memory=G", ":2: memory: expected a number with M or G"),
        ("memory=16G", "memory=", ":2: memory: expected a number with M or G"),
        ("time=02:00:00", "time=2h", ":3: time: expected HH:MM:SS"),
        ("requeue=yes", "requeue=true", ":3: requeue: expected yes or no, got 'true'"),
        ("cpus=8", "cpus=8 gpus=-1", ":2: gpus: expected a whole number of at least 0"),
    ],
)
def test_a_header_that_says_too_little_or_nonsense(capsys, site, tmp_path, old, new, said):
    words = ("--site", site(old, new), "--nodes", "1")
    assert said in refused(capsys, small_deck(tmp_path), *words)


def test_a_job_that_does_not_fit_a_node_is_refused_with_the_numbers(capsys, site, tmp_path):
    words = ("--site", site("memory=16G", "memory=1500M"), "--nodes", "1")
    said = refused(capsys, small_deck(tmp_path), *words)
    assert "4 ranks on 1 node(s) need 2 GB on a node, and a node of small has 1.573 GB" in said
    assert "fewer --ranks-per-node" in said


def test_decks_that_share_a_folder_or_want_a_gpu_that_is_not_there(capsys, site, tmp_path):
    deck = small_deck(tmp_path)
    words = ("--site", site(), "--nodes", "1")
    assert "several decks have the output folder" in refused(capsys, deck, deck, *words)
    gpu = small_deck(tmp_path, "gpu", kernel={"backend": "gpu"})
    assert "nodes of small have no GPU" in refused(capsys, gpu, *words)


def test_memory_and_threads_come_from_the_plan(site, tmp_path):
    job = check(small_deck(tmp_path, kernel={"tile": 9000}))
    layout = lay_out([job], read_site(site()), Request(nodes=2))
    planned = plan(*job, Nodes(8, 2, cpus=2))
    rank = max(planned.kernel_memory_per_rank.total, planned.solve_memory_per_rank)
    assert layout.place == Nodes(8, 2, cpus=2) and layout.place.threads == 2
    assert 4 * rank < layout.memory < 1.2 * 4 * rank + 4 * 300e6
    small = lay_out([check(small_deck(tmp_path))], read_site(site()), Request(nodes=2))
    assert layout.memory > 2 * small.memory


@pytest.mark.parametrize(
    "seconds,tile,time,warning",
    [
        (0, 0, 600, 120),
        (3000, 0, 6600, 120),  # twice, the start, in steps of ten minutes
        (3001, 100, 7200, 200),  # a tile takes longer than the site's warning
        (4000, 5000, 7200, 2400),  # no more than the site has; a third of it at most
    ],
)
def test_time_comes_from_the_estimate(site, tmp_path, monkeypatch, seconds, tile, time, warning):
    times = Estimate(seconds, tile, 0, 0, 0, 0, 0, None, None)
    monkeypatch.setattr("hpcnk.run.slurm.job_layout.estimate", lambda planned, place: times)
    layout = lay_out([check(small_deck(tmp_path))], read_site(site()), Request(nodes=1))
    assert (layout.time, layout.warning) == (time, warning)


def test_the_longest_job_of_an_array_counts_and_one_unknown_makes_all_unknown(
    site, tmp_path, monkeypatch
):
    works = iter([Work(10, 1), Work(3001, 2), Work(10, 1), None])
    monkeypatch.setattr("hpcnk.run.slurm.job_layout._work", lambda *job: next(works))
    jobs = [check(small_deck(tmp_path, name)) for name in ("one", "two")]
    known = lay_out(jobs, read_site(site()), Request(nodes=1))
    assert known.time == 7200 and "measured rates" in known.time_from
    unknown = lay_out(jobs, read_site(site()), Request(nodes=1))
    assert unknown.time == 7200 and "not known" in unknown.time_from


@pytest.mark.parametrize(
    "text,seconds", [("00:01:00", 60), ("1-02:03:04", 93784), ("100:00:00", 360000)]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "1:2:3", "00:60:00", "-1:00:00", "00:01:00 "])
def test_no_times(text):
    with pytest.raises(UsageError, match="expected a time"):
        parse_time(text)


@pytest.mark.parametrize("script", sorted((PROJECT / "jobscripts").iterdir()), ids=lambda p: p.name)
def test_shipped_shell_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_the_package_carries_the_headers():
    """A link in the source tree, files in a wheel."""
    packaged = PROJECT / "hpcnk" / "jobscripts"
    assert os.path.realpath(packaged) == str(PROJECT / "jobscripts")
    assert {*site_names(), "body"} == {path.stem for path in packaged.iterdir()}


def test_a_wheel_carries_them_too(tmp_path):
    pytest.importorskip("setuptools", "77", reason="no setuptools here to build a wheel with")
    source = tmp_path / "source"
    shutil.copytree(PROJECT / "hpcnk", source / "hpcnk", symlinks=True, ignore=CACHES)
    shutil.copytree(PROJECT / "jobscripts", source / "jobscripts")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    carried = {Path(n).stem for n in ZipFile(wheel).namelist() if n.startswith("hpcnk/jobscripts/")}
    assert carried == {*site_names(), "body"}
