"""The section `solve` of a deck."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator

from hpcnk.deck.fields import (
    Count,
    Expected,
    Flag,
    Positive,
    Ridges,
    Seed,
    Sizes,
    Tolerance,
    refused,
)
from hpcnk.deck.section import Section, none_as_text


class Preconditioner(Section):
    """What makes conjugate gradients converge in few iterations."""

    kind: Annotated[
        Literal["pivoted_cholesky", "random_cholesky", "nystrom"],
        Expected("pivoted_cholesky, random_cholesky or nystrom"),
    ] = Field(
        default="random_cholesky",
        description="partial Cholesky factor from columns of the kernel, the pivots: those with "
        "the largest entries of what is left of the diagonal, or drawn in proportion to them; "
        "nystrom: from products with random vectors, as many as the rank",
    )
    rank: Annotated[
        Literal["auto"] | Annotated[int, Strict(), Field(ge=1)],
        Expected("an integer of at least 1, or auto"),
    ] = Field(
        default="auto",
        description="columns of the factor; it takes rows x rank x 8 bytes; auto: the rank that "
        "by measured speeds makes the whole solve shortest, within the memory",
    )
    seed: Seed = Field(default=0, description="seed of random pivots and vectors")


class Checkpoint(Section):
    """How often the solver stores its state, to go on from it after a kill."""

    minutes: Positive = Field(default=10.0, description="between two checkpoints at most")
    iterations: Annotated[
        Annotated[int, Strict(), Field(ge=1)] | None, Expected("an integer of at least 1")
    ] = Field(default=None, description="between two checkpoints at most; none: time alone counts")


class SolveSection(Section):
    """The linear system (K + ridge * trace(K)/n * I) alpha = Y and how it is solved."""

    ridge: Ridges = Field(description="relative to trace(K)/n; several are solved in one pass")
    sizes: Sizes = Field(
        default=(),
        description="smaller training sets that are solved in the same passes, each the leading "
        "rows; the set of all training rows is always solved",
        json_schema_extra={"default": "none"},
    )
    method: Annotated[Literal["cg", "dense"], Expected("cg or dense")] = Field(
        default="cg",
        description="cg: conjugate gradients on all ranks; dense: Cholesky factorisation in "
        "float64 on rank 0, for matrices that fit into its memory",
    )
    tolerance: Tolerance = Field(
        default=1e-8, description="largest true relative residual of every column"
    )
    max_iterations: Count = Field(
        default=1000,
        description="iterations of a column at most; passes that check true residuals come on top",
    )
    block: Flag = Field(
        default=True,
        description="outputs that share a ridge and training set search together (block conjugate "
        "gradients), which takes fewer passes; false: each by itself",
    )
    operator: Annotated[
        Literal["auto", "resident", "streamed", "recomputed", "gpu"],
        Expected("auto, resident, streamed, recomputed or gpu"),
    ] = Field(
        default="auto",
        description="where tiles come from in each pass: resident in memory, streamed from the "
        "file, computed anew, or resident in the memory of a GPU; auto: as many as fit resident, "
        "the others streamed or computed anew, whatever is faster",
    )
    memory: Annotated[
        Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None,
        Expected("gigabytes of a rank, a finite number above 0"),
    ] = Field(
        default=None,
        description="gigabytes (1e9 bytes) that a rank may take in the solve",
        json_schema_extra={"default": "its share of what the host has"},
    )
    leave_one_out: Annotated[
        Annotated[int, Strict(), Field(ge=1)] | None,
        BeforeValidator(none_as_text),
        Expected("a number of random vectors, such as 32, or none"),
    ] = Field(
        default=None,
        description="estimate the leave-one-out errors with so many random vectors; at least as "
        "many as training rows, or method dense: exactly",
    )
    evidence: Annotated[
        Annotated[int, Strict(), Field(ge=1)] | None,
        BeforeValidator(none_as_text),
        Expected("a number of random vectors, such as 16, or none"),
    ] = Field(
        default=None,
        description="estimate the log marginal likelihood of each ridge with so many random "
        "vectors; method dense: exactly",
    )
    preconditioner: Annotated[
        Preconditioner | None,
        BeforeValidator(none_as_text),
        Expected("{kind: pivoted_cholesky, rank: 200} or none"),
    ] = Field(default=Preconditioner(), description="preconditioner of conjugate gradients")
    reproducible: Flag = Field(
        default=False,
        description="sums in fixed point, so that any number of ranks gives the same bits; costs "
        "some time and one thread a rank",
    )
    checkpoint: Annotated[
        Checkpoint | None,
        BeforeValidator(none_as_text),
        Expected("{minutes: 10, iterations: 100} or none"),
    ] = Field(default=Checkpoint(), description="when the solver's state is stored")

    @field_validator("reproducible")
    @classmethod
    def _operator_fits(cls, reproducible: bool, info: ValidationInfo) -> bool:
        if reproducible and info.data.get("operator") == "gpu":
            raise refused(
                "false where solve.operator is gpu, or solve.operator auto",
                "true: a GPU adds up in an order of its own, so bits would depend on where a tile "
                "is",
            )
        return reproducible
