"""The command line: one verb per command."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hpcnk.comm import abort, active, launcher, world
from hpcnk.deck import manual
from hpcnk.errors import BackendError, DeckError, HpcnkError, OutOfMemoryError, Stopped
from hpcnk.report import mute, printable
from hpcnk.version import __version__

Stage = Callable[..., bool]  # takes a session; False: done, but not to be trusted

# Seconds. The first rank to exit with an error makes Open MPI's mpirun kill the others. So before
# MPI has started they wait for rank 0 to say what is wrong. They say nothing themselves, for all
# have read the same deck; what only one of them has met shows in its exit code alone.
GRACE = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `hpcnk.errors`)."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except HpcnkError as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(OutOfMemoryError(error))
    except KeyboardInterrupt:  # before the run listens to signals
        return _fail(Stopped("interrupted", "start the same command again"))
    except BrokenPipeError:  # the reader, such as `head`, has gone: nobody is left to tell
        mute()
        return 1


def _fail(error: HpcnkError) -> int:
    """Tell of an error once: from rank 0 if all ranks have it, else end the other ranks too."""
    comm = active()
    if comm is not None and comm.size > 1 and not error.agreed:
        abort(printable(str(error)), error.exit_code)
    if launcher().rank == 0:
        # A deck's problems start with FILE:LINE, where editors look for it.
        text = str(error) if isinstance(error, DeckError) else f"hpcnk: {error}"
        print(printable(text), file=sys.stderr)
    elif comm is None:
        time.sleep(GRACE)
    return error.exit_code


def _tell(text: str) -> None:
    """Print once, also when every rank of a job is told to."""
    if launcher().rank == 0:
        print(printable(text))


def _build(path: Path) -> None:
    """Build the CPU engine, which describes the rows for a GPU too, and the solver's products.

    Done before all else: a compiler must not be started by a process in which MPI runs, and where
    h5py is built with MPI, importing it starts MPI. Raises BackendError, DeckError.
    """
    from hpcnk.deck import read_deck
    from hpcnk.engine import require_device
    from hpcnk.engine.build import built_library
    from hpcnk.kernels import find_problems
    from hpcnk.solve import built_products

    deck = read_deck(path, find_problems)
    backend = deck.kernel.backend
    if backend == "gpu":
        require_device()
    if backend != "reference":
        built_library()
        built_products()


def _build_products(path: Path) -> None:
    """Build what stages need that compute no tiles, but for one that turns out to be damaged.

    Raises BackendError, DeckError.
    """
    from hpcnk.deck import read_deck
    from hpcnk.engine.build import built_library
    from hpcnk.kernels import find_problems
    from hpcnk.solve import built_products

    if read_deck(path, find_problems).kernel.backend != "reference":
        built_products()
        with suppress(BackendError):
            built_library()


def _check(options: argparse.Namespace) -> int:
    from hpcnk.run.check import check

    deck, data = check(options.deck)
    shape = " x ".join(map(str, data.input_shape))
    outputs = f"{data.outputs} output{'s' if data.outputs > 1 else ''}"
    _tell(
        f"{options.deck} is valid: {data.train_rows} training and {data.test_rows} test rows of "
        f"{shape}, {outputs} ({data.task}), output in {deck.output}"
    )
    return 0


def _plan(options: argparse.Namespace) -> int:
    from hpcnk.run.check import check
    from hpcnk.run.needs.available import available_memory
    from hpcnk.run.plan.estimate import estimate
    from hpcnk.run.plan.hazards import Ground, hazards
    from hpcnk.run.plan.sizes import Place, plan, resized
    from hpcnk.run.plan.text import describe_plan

    deck, data = check(options.deck)
    memory = options.host_memory or available_memory()
    place = Place(options.ranks, options.hosts, memory)
    planned = plan(deck, resized(data, options.rows, options.test_rows), place)
    times = estimate(planned, place, options.pairs_per_second, options.disk_rate)
    ground = Ground(deck.output, memory)
    _tell(describe_plan(planned, place, times, hazards(planned, place, times, ground)))
    return 0


def _jobscript(options: argparse.Namespace) -> int:
    from hpcnk.run.check import check
    from hpcnk.run.slurm.jobscript import Request, jobscript
    from hpcnk.run.slurm.site import parse_time, read_site

    site, time = read_site(options.site), options.time and parse_time(options.time)
    request = Request(options.nodes, options.ranks_per_node, time, options.at_once)
    script = jobscript([check(deck) for deck in options.decks], site, request)
    if launcher().rank == 0:
        print(script)  # as it is: it is for a shell
    return 0


def _job(*names: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that runs these stages in one session."""

    def command(options: argparse.Namespace) -> int:
        build = _build if "kernel" in names else _build_products
        build(options.deck)
        from hpcnk.run.check import check
        from hpcnk.run.needs.space import full_disk_explained
        from hpcnk.run.prepare import require_started
        from hpcnk.run.session import open_session

        deck, _ = check(options.deck)
        if names[0] != "prepare":
            require_started(deck)
        session = open_session(deck, world())
        stages = _stages()
        with session.watchdog, full_disk_explained(session):
            good = [stages[name](session) for name in names]
        return 0 if all(good) else 1

    return command


def _stages() -> dict[str, Stage]:
    from hpcnk.run.compare.stage import compare, require_comparable
    from hpcnk.run.kernel import kernel
    from hpcnk.run.operators import require_solvable
    from hpcnk.run.predict import predict
    from hpcnk.run.prepare import prepare
    from hpcnk.run.solve import solve

    return {
        "prepare": prepare,
        "kernel": kernel,
        "solve": solve,
        "predict": predict,
        "solvable": require_solvable,
        "comparable": require_comparable,
        "compare": compare,
    }


def _status(options: argparse.Namespace) -> int:
    from hpcnk.run.status import status

    print(printable("\n".join(status(options.dir))))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from hpcnk.engine.build import built_library

    with suppress(BackendError):  # told of by `verify` itself, if it needs the library
        built_library()  # before h5py may start MPI, see `_build`
    from hpcnk.run.verify import verify

    verdicts = verify(options.dir, options.tiles, options.seed)
    print(printable("\n".join(map(str, verdicts))))
    return 0 if all(verdict.good for verdict in verdicts) else 74


def _doctor(options: argparse.Namespace) -> int:
    from hpcnk.engine.build import built_library

    with suppress(BackendError):  # a finding of the doctor's
        built_library()  # before h5py may start MPI, see `_build`
    from hpcnk.run.check import check
    from hpcnk.run.doctor import doctor

    findings = doctor(check(options.deck) if options.deck else None)
    _tell("\n".join(map(str, findings)))
    bad = any(finding.advice for finding in findings)
    if bad and active() is None and launcher().rank:
        time.sleep(GRACE)
    return int(bad)


_DECK_COMMANDS = (
    ("check", "check a deck, and that its data set is there; starts nothing", _check),
    (
        "run",
        "do the whole job: kernel, solve, predict",
        _job("prepare", "solvable", "kernel", "solve", "predict"),
    ),
    ("kernel", "compute and store the kernel's tiles", _job("prepare", "kernel")),
    ("solve", "solve for all ridges with the stored kernel", _job("solve")),
    ("predict", "predict the test rows with the stored solution", _job("predict")),
    (
        "compare",
        "fit approximations and the exact solution, plot test error against cost",
        _job("prepare", "comparable", "kernel", "compare"),
    ),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcnk",
        description="Kernel regression with infinite-width neural networks. "
        "Start a job with `mpirun -n N hpcnk run DECK` or `srun hpcnk run DECK`.",
        epilog="Exit codes: 0 done, 2 deck or usage, 65 the data set is unusable or not that of "
        "the output folder, 74 input or output failed or a stored tile is damaged, 75 stopped "
        "cleanly (start again to resume), 1 other.",
    )
    parser.add_argument("--version", action="version", version=f"hpcnk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text, command in _DECK_COMMANDS:
        _command(commands, name, text, command, _DECK, manual())
    text = "say what a job will need; starts nothing"
    _plan_options(_command(commands, "plan", text, _plan, _DECK, manual()))
    _jobscript_options(_command(commands, "jobscript", _JOBSCRIPT, _jobscript))
    _command(commands, "status", "say how far a job has come", _status, _FOLDER)
    verify = _command(commands, "verify", "check stored tiles and arrays", _verify, _FOLDER)
    verify.add_argument(
        "--tiles", type=_natural, default=2, help="tiles of each file to compute anew (default 2)"
    )
    verify.add_argument("--seed", type=_natural, default=0, help="chooses those tiles (default 0)")
    doctor = _command(
        commands, "doctor", "say what is installed and what does not fit", _doctor, epilog=_SICK
    )
    doctor.add_argument(
        "deck", type=Path, nargs="?", help="also look at what this deck's job needs here"
    )
    return parser


def _jobscript_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("decks", type=Path, nargs="+", metavar="DECK", help="the deck; several make a job array")
    add("--site", required=True, help="name of a site (a wrong one lists them), or a header's path")
    add("--nodes", type=_positive, required=True, help="nodes of a job")
    add("--ranks-per-node", type=_positive, help="ranks of a node (default: the site's)")
    add("--time", help="HH:MM:SS or D-HH:MM:SS (default: by the plan, at most the site's longest)")
    add("--at-once", type=_positive, help="jobs of an array that may run at once (default: all)")


_JOBSCRIPT = "print a SLURM script for a job; starts nothing"


def _plan_options(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--ranks", type=_positive, default=1, help="number of ranks (default 1)")
    plan.add_argument(
        "--hosts", type=_positive, default=1, help="hosts that they are spread over (default 1)"
    )
    plan.add_argument(
        "--rows", type=_positive, help="plan for so many training rows (default: those of the deck)"
    )
    plan.add_argument("--test-rows", type=_positive, help="and so many test rows")
    plan.add_argument(
        "--pairs-per-second",
        type=_rate,
        help="kernel entries a second of one rank (default: by what was measured, CPU only)",
    )
    plan.add_argument(
        "--disk-rate", type=_gigabytes, metavar="GB/S", help="of the disk, for all ranks together"
    )
    plan.add_argument(
        "--host-memory",
        type=_gigabytes,
        metavar="GB",
        help="memory of a host (default: what this one has left)",
    )


_SICK = "Exit codes: 0 nothing is amiss, 1 something is, 2 the deck is invalid."
_DECK = ("deck", "the YAML deck")
_FOLDER = ("dir", "the deck's output folder")


def _command(
    commands: argparse._SubParsersAction,
    name: str,
    text: str,
    command: Callable[[argparse.Namespace], int],
    path: tuple[str, str] | None = None,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Add one verb, with the path that it takes, if any."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if path:
        parser.add_argument(path[0], type=Path, metavar=path[0].upper(), help=path[1])
    parser.set_defaults(command=command)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _gigabytes(text: str) -> int:
    return int(_rate(text) * 1e9)


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)
