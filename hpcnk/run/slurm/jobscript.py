"""SLURM scripts: a site's header, the numbers that the deck asks for, and the body for all sites.

Nothing from a deck reaches a `#SBATCH` line but a name of safe letters; what goes into commands is
quoted for the shell.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpcnk.deck import Deck
from hpcnk.errors import UsageError
from hpcnk.report import size
from hpcnk.run.slurm.job_layout import Checked, Layout, Request, clock, lay_out
from hpcnk.run.slurm.site import Site, body
from hpcnk.version import __version__

MEBIBYTE = 1 << 20
MAX_RESTARTS = 100


def jobscript(jobs: Sequence[Checked], site: Site, request: Request) -> str:
    """Return a complete script for one deck, or for several as an array of jobs.

    Raises UsageError for what the site cannot give: time, memory, GPUs, so many ranks.
    """
    _require_sense(jobs, site)
    if request.at_once and len(jobs) == 1:
        raise UsageError("--at-once: there is one deck", "give several decks for a job array")
    layout = lay_out(jobs, site, request)
    decks = [deck for deck, _ in jobs]
    parts = [
        "#!/bin/bash",
        *_directives(decks, site, request, layout),
        "",
        f"# Made by `hpcnk jobscript` {__version__} for the site {_safe(site.name)}.",
        *_remarks(site, layout),
        "",
        *site.commands,
        "",
        *_settings(decks, site),
        "",
        body(),
    ]
    return "\n".join(parts)


def _require_sense(jobs: Sequence[Checked], site: Site) -> None:
    """Raise UsageError for decks that cannot be jobs at this site, or not side by side."""
    for deck, _ in jobs:
        if deck.kernel.backend == "gpu" and not site.gpus:
            raise UsageError(
                f"{deck.source} asks for `backend: gpu`, and nodes of {site.name} have no GPU",
                "choose another --site, or `backend: auto`",
            )
    outputs = [_absolute(deck.output) for deck, _ in jobs]
    for output in outputs:
        if outputs.count(output) > 1:
            raise UsageError(
                f"several decks have the output folder {output}",
                "one run at a time works in a folder: give each deck an `output` of its own",
            )


def _directives(decks: Sequence[Deck], site: Site, request: Request, layout: Layout) -> list[str]:
    several = len(decks) > 1
    options = {
        "job-name": _job_name(decks, site),
        "nodes": request.nodes,
        "ntasks-per-node": layout.place.ranks_on_host,
        "cpus-per-task": layout.place.cpus,
        "mem": None if site.whole_nodes else f"{-(-layout.memory // MEBIBYTE)}M",
        "time": clock(layout.time),
        "signal": f"B:USR1@{layout.warning}",
        "requeue" if site.requeue else "no-requeue": "",
        "array": _array(len(decks), request.at_once) if several else None,
        "output": "%x-%A_%a.out" if several else "%x-%j.out",
        "open-mode": "append",
    }
    lines = [
        f"#SBATCH --{key}={value}" if value != "" else f"#SBATCH --{key}"
        for key, value in options.items()
        if value is not None
    ]
    return [*lines, *site.directives]


def _array(count: int, at_once: int | None) -> str:
    return f"0-{count - 1}" + (f"%{at_once}" if at_once else "")


def _remarks(site: Site, layout: Layout) -> list[str]:
    """Say in the script where its numbers come from, and how it is submitted."""
    place = layout.place
    lines = [
        f"# Planned for {place.ranks} rank(s) of {place.cpus} thread(s): {size(layout.memory)} of "
        f"the {size(site.memory)} of a node.",
        f"# Time: {layout.time_from}.",
        f"# {layout.warning} s before its time is up the job is warned; a tile must be finished in "
        "that time.",
    ]
    if site.requeue:
        return [*lines, "# Submit it once: a job that is stopped puts itself back into the queue."]
    return [
        *lines,
        "# Requeueing is not used at this site. Submit it several times, as a chain:",
        "#   for i in 1 2 3; do sbatch --dependency=singleton SCRIPT; done",
    ]


def _settings(decks: Sequence[Deck], site: Site) -> list[str]:
    """Return the lines that the body takes its values from."""
    return [
        f"cd {shlex.quote(str(Path.cwd()))} || exit 74",
        f"PROGRAM=({shlex.quote(sys.executable)} -m hpcnk)",
        f"DECKS=({_quoted(deck.source for deck in decks)})",
        f"OUTPUTS=({_quoted(deck.output for deck in decks)})",
        f"REQUEUE={'yes' if site.requeue else 'no'}",
        f"MAX_RESTARTS={MAX_RESTARTS}",
        "# Where opening an HDF5 file fails for want of locks:",
        "# export HDF5_USE_FILE_LOCKING=FALSE",
        "# On Lustre, spread the tiles over its servers before the first of them is written:",
        '# for OUTPUT in "${OUTPUTS[@]}"; do',
        '#     [ -e "$OUTPUT" ] || { mkdir -p "$OUTPUT" && lfs setstripe -c 16 -S 16M "$OUTPUT"; }',
        "# done",
    ]


def _quoted(paths: Iterable[Path]) -> str:
    return " ".join(shlex.quote(str(_absolute(path))) for path in paths)


def _absolute(path: Path) -> Path:
    return Path.cwd() / path


def _job_name(decks: Sequence[Deck], site: Site) -> str:
    """The deck's name; in a chain, which Slurm knows by its name alone, one for each output."""
    name = _safe(decks[0].name)
    if site.requeue:
        return name
    outputs = "\0".join(str(_absolute(deck.output)) for deck in decks)
    return f"{name}-{hashlib.sha256(outputs.encode()).hexdigest()[:8]}"


def _safe(name: str) -> str:
    """Keep letters, digits, `.`, `_` and `-` of a name, and at most 40 of them."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:40]
