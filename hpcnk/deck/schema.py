"""The deck: frozen, typed sections. What is not named here is refused, in every section."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    Strict,
    ValidationInfo,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hpcnk.deck.fields import (
    Count,
    Expected,
    Flag,
    Folder,
    Index,
    Methods,
    Name,
    OptionalPath,
    Positive,
    Seed,
    Sizes,
    Validation,
    check_path,
    refused,
)
from hpcnk.deck.problems import KeyPath, Origin, Problem, deck_error, with_advice
from hpcnk.deck.section import Section, none_as_text
from hpcnk.deck.solving import SolveSection
from hpcnk.errors import ArchitectureError, DeckError

CheckLayers = Callable[[object], Sequence[ArchitectureError]]


class Rows(Section):
    """Consecutive rows of a data set, in the order in which it is published."""

    start: Index = Field(default=0, description="first row, counted from 0")
    count: Count = Field(description="number of rows")


class PerClass(Section):
    """The same number of rows of each class, drawn at random."""

    per_class: Count = Field(description="rows drawn of each class")
    seed: Seed = Field(default=0, description="seed of the draw")


def _selection(value: object) -> object:
    """Choose between Rows and PerClass by the form, so that a mistake gives one message."""
    if value is None or isinstance(value, (Rows, PerClass)):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Rows.model_validate({"count": value})
    if not isinstance(value, dict) or not value:
        raise ValueError(value)
    forms: tuple[type[Section], ...] = (Rows, PerClass)
    unknown = [key for key in value if all(key not in form.model_fields for form in forms)]
    if unknown:
        raise ValidationError.from_exception_data("selection", list(map(_extra, unknown)))
    for form in forms:
        if all(key in form.model_fields for key in value):
            return form.model_validate(value)
    raise ValueError(value)


def _extra(key: str) -> InitErrorDetails:
    return InitErrorDetails(type="extra_forbidden", loc=(key,), input=None)


Selection = Annotated[
    Rows | PerClass | None,
    BeforeValidator(_selection),
    Expected("a number of rows, {start, count} or {per_class, seed}"),
]


class Whitening(Section):
    """Regularised ZCA, fitted on training rows."""

    regularization: Positive = Field(
        description="added to every eigenvalue of the covariance, in units of their mean"
    )
    fit: Annotated[Literal["selected", "all"], Expected("selected or all")] = Field(
        default="selected",
        description="selected: on the rows that data.train selects; all: on the inputs of all "
        "training rows of the data set, which a small selection needs (unseen rows have "
        "directions that few training rows do not have)",
    )


class DataSection(Section):
    """Which rows of which data set, and how they are prepared."""

    dataset: Annotated[
        Literal["digits", "cifar10", "arrays"], Expected("digits, cifar10 or arrays")
    ] = Field(
        description="digits: scikit-learn's 8 x 8 handwritten digits; cifar10: the binary or the "
        "Python version; arrays: one .npz or HDF5 file with x_train, y_train, x_test, y_test"
    )
    path: OptionalPath = Field(
        default=None,
        validate_default=True,
        description="folder of CIFAR-10's batches, or file of the arrays, relative to the working "
        "directory; none for digits",
    )
    train: Selection = Field(
        default=None, description="training rows", json_schema_extra={"default": "all rows"}
    )
    test: Selection = Field(
        default=None, description="test rows", json_schema_extra={"default": "all rows"}
    )
    shuffle: Flag = Field(
        default=False,
        description="store the training rows in a random order, drawn from data.seed: for training "
        "set sizes, which take leading rows, where the data set is sorted",
    )
    validation: Validation = Field(
        default=0,
        description="share or number of the training rows that are kept back to choose the ridge; "
        "0 for none",
    )
    whitening: Annotated[
        Whitening | None,
        Expected("{regularization: a finite number above 0, fit: selected or all}"),
    ] = Field(default=None, description="regularised ZCA whitening; none if left out")
    seed: Seed = Field(default=0, description="seed of the validation split and of the shuffle")
    normalize: Flag = Field(
        default=True,
        description="standardise channels, then centre each image and scale it to length 1",
    )

    @field_validator("path")
    @classmethod
    def _path_fits(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return check_path(path, info.data.get("dataset"))


class KernelSection(Section):
    """Which kernel, and how its matrix is computed.

    `layers` are the plain lists and mappings of the deck: read-only by agreement.
    """

    layers: Annotated[
        Any, Expected("a preset such as cv8, {preset: fc, depth: 3}, or a list of layers")
    ] = Field(
        description="the network: a preset's name, a preset with its settings, or a list of layers"
    )
    kind: Annotated[Literal["ntk", "nngp"], Expected("ntk or nngp")] = Field(
        default="ntk", description="neural tangent kernel, or network Gaussian process kernel"
    )
    dtype: Annotated[Literal["float32", "float64"], Expected("float32 or float64")] = Field(
        default="float32", description="precision of the kernel's entries"
    )
    tile: Count = Field(default=512, description="rows and columns of one tile of the matrix")
    backend: Annotated[
        Literal["auto", "cpu", "gpu", "reference"], Expected("auto, cpu, gpu or reference")
    ] = Field(
        default="auto",
        description="what computes the tiles; auto: a GPU if there is a usable one, else the CPU; "
        "reference: plain NumPy, for checking, many times slower",
    )

    @field_validator("layers")
    @classmethod
    def _layers_fit(cls, layers: object, info: ValidationInfo) -> object:
        """Check the architecture, where the reader of the deck gave a check for it."""
        check: CheckLayers | None = (info.context or {}).get("check_layers")
        problems = check(layers) if check else ()
        if problems:
            raise PydanticCustomError("architecture", "layers", {"problems": problems})
        return layers


class PredictSection(Section):
    """What is predicted beside the means."""

    variance: Flag = Field(
        default=False,
        description="predictive variance of every test row, for kind nngp: the test columns are "
        "solved as further systems",
    )


class CompareSection(Section):
    """What `hpcnk compare` fits: methods x training-set sizes x budgets."""

    methods: Methods = Field(
        default=("cg", "nystrom", "subset_of_regressors", "block_diagonal", "bayesian_committee"),
        description="cg, dense: the exact solution; nystrom, subset_of_regressors: from inducing "
        "rows; block_diagonal, bayesian_committee: from exact solutions on blocks of rows",
        json_schema_extra={"default": "all but dense"},
    )
    sizes: Sizes = Field(
        default=(),
        description="training-set sizes, each the leading rows",
        json_schema_extra={"default": "an eighth, a quarter, a half and all of the rows"},
    )
    budgets: Sizes = Field(
        default=(),
        description="inducing rows, and rows of a block; where a size has fewer rows, a budget is "
        "left out",
        json_schema_extra={"default": "1/32, 1/16, 1/8 and 1/4 of the largest size"},
    )
    inducing: Annotated[Literal["leading", "random"], Expected("leading or random")] = Field(
        default="leading",
        description="inducing rows: the leading rows that are not held out, or the pivots of a "
        "randomly pivoted Cholesky factorisation, drawn from data.seed",
    )


class StoreSection(Section):
    """How tiles are written to disk."""

    driver: Annotated[Literal["auto", "mpio", "posix"], Expected("auto, mpio or posix")] = Field(
        default="auto",
        description="mpio: all ranks through parallel HDF5; posix: each rank by itself; auto takes "
        "mpio if HDF5 has it",
    )


class WatchdogSection(Section):
    """What ends a job that stands still."""

    minutes: Annotated[
        float, Strict(), Field(ge=0.01, le=1e6), Expected("a number from 0.01 to 1e6")
    ] = Field(
        default=120.0,
        description="how long nothing may move on any rank; then all write their stacks down and "
        "the job ends, to be started again; parts of a tile of 8192 rows may take 10 minutes",
    )


class Deck(Section):
    """One experiment: data, kernel, solution and where the results go."""

    name: Name = Field(
        description="the experiment's name",
        json_schema_extra={"default": "the deck file's name without its ending"},
    )
    output: Folder = Field(
        description="folder of the results, relative to the working directory",
        json_schema_extra={"default": "runs/<name>"},
    )
    data: DataSection = Field(description="the data")
    kernel: KernelSection = Field(description="the kernel")
    solve: SolveSection = Field(description="the linear system")
    predict: PredictSection = Field(default=PredictSection(), description="the predictions")
    compare: CompareSection = Field(
        default=CompareSection(), description="what `hpcnk compare` does"
    )
    store: StoreSection = Field(default=StoreSection(), description="the files")
    watchdog: Annotated[
        WatchdogSection | None,
        BeforeValidator(none_as_text),
        Expected("{minutes: 120} or none"),
    ] = Field(default=WatchdogSection(), description="what ends a job that stands still")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @field_validator("predict")
    @classmethod
    def _variance_fits(cls, predict: PredictSection, info: ValidationInfo) -> PredictSection:
        kernel = info.data.get("kernel")
        if predict.variance and kernel is not None and kernel.kind != "nngp":
            raise refused(
                "kernel.kind nngp where predict.variance is true",
                f"{kernel.kind}: the variance of a network trained by gradient descent is not that "
                "of a Gaussian process with its tangent kernel",
            )
        return predict

    def model_post_init(self, context: Any) -> None:
        """Remember where the deck stands, if a reader gives it."""
        self._origin = (context or {}).get("origin", Origin())

    @property
    def source(self) -> Path:
        """The deck's file; `.` for a deck that was not read from one."""
        return self._origin.source

    def error_at(self, path: KeyPath, what: str, advice: str = "") -> DeckError:
        """Make the error for a problem that shows only when the data are known.

        `path` is that of the key, such as `("kernel", "layers", 3)`; the message has the file, the
        line and the path, as all others of the deck.
        """
        origin = self._origin
        problem = Problem(
            origin.line(path), origin.existing(path) or path, with_advice(what, advice)
        )
        return deck_error(origin.source, [problem])

    def flat(self) -> dict[str, object]:
        """Give every key as `section.key` with a plain JSON value, to compare two decks."""
        values = self.model_dump(mode="json")
        plain = {key: item for key, item in values.items() if not isinstance(item, dict)}
        for section in values.keys() - plain.keys():
            plain |= {f"{section}.{key}": item for key, item in values[section].items()}
        return dict(sorted(plain.items()))
