"""Named errors. Each says what was expected, what came, and what to do; each has an exit code.

Exit codes: 0 done, 1 other, 2 deck or usage, 65 the data set is unusable or not that of the output
folder, 74 input or output failed or a stored tile is damaged, 75 stopped cleanly, can be resumed.
"""


class HpcnkError(Exception):
    """An error that a user can act on. `what` states the fact, `advice` the next step.

    `agreed` tells that every rank raises this error at the same point; a rank that meets an error
    of its own must abort the others.
    """

    exit_code = 1
    agreed = False

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what, advice)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.advice}" if self.advice else self.what


class UsageError(HpcnkError):
    """The command line or the launcher asks for something impossible."""

    exit_code = 2


class DeckError(HpcnkError):
    """The deck is invalid. `what` lists every problem, one a line."""

    exit_code = 2


class ArchitectureError(HpcnkError):
    """A layer list that is no valid infinite-width network.

    `path` is the position of the offending layer below `kernel.layers`, such as
    `(3,)` or `(1, "residual", "branch", 0)`; empty when the whole list is meant.
    """

    exit_code = 2

    def __init__(self, what: str, path: tuple[str | int, ...] = (), advice: str = "") -> None:
        super().__init__(what, advice)
        self.args = (what, path, advice)
        self.path = path


class BackendError(HpcnkError):
    """The asked-for back end cannot work on this machine."""


class DataError(HpcnkError):
    """A data set is damaged or holds values that no kernel can take; names the row or byte."""

    exit_code = 65


class MismatchError(HpcnkError):
    """The output folder belongs to another deck, other data or another code version."""

    exit_code = 65


class StorageError(HpcnkError):
    """Reading or writing a file failed, or a stored tile is not what was written."""

    exit_code = 74


class DiskFull(StorageError):
    """The disk or the quota is full. After space is made, the same command goes on."""


class OutOfMemoryError(HpcnkError):
    """The system gave no more memory; what is finished is on disk."""

    def __init__(self, error: MemoryError) -> None:
        super().__init__(
            f"out of memory: {error}" if str(error) else "out of memory",
            "what is finished is kept: start again with fewer ranks on a host, a smaller "
            "kernel.tile (in a new `output`) or more memory; `hpcnk plan` says what is needed",
        )


class SolveError(HpcnkError):
    """The linear system cannot be solved as asked. Follows from values equal on all ranks."""

    agreed = True


class Stopped(HpcnkError):
    """A stop was asked for by a signal; everything finished is on disk."""

    exit_code = 75
    agreed = True
