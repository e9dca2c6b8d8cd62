"""Reading and checking architectures."""

import json
import math

import pytest

from hpcnk.errors import ArchitectureError
from hpcnk.kernels import find_problems, parse
from hpcnk.kernels.layers import Conv, Dense, Flatten, GlobalAvgPool, Relu
from hpcnk.kernels.plan import Form, make_plan

CONV = {"conv": {"filter": 3}}
NAN = float("nan")


def conv(**options):
    return {"conv": {"filter": 3, **options}}


# ---- what is wrong, and where

BROKEN = [
    ([], (), "the list is empty"),
    (7, (), "expected a preset's name"),
    (None, (), "expected a preset's name"),
    (["flatten", "rellu"], (1,), "unknown layer 'rellu'"),
    ([CONV, 3], (1,), "expected a layer's name"),
    ([{"conv": {"filter": 3}, "relu": None}], (0,), "mapping with one key"),
    ([{"conv": 3}, "flatten"], (0, "conv"), "expected a mapping of options"),
    (["conv"], (0, "conv"), "needs filter"),
    ([conv(stride=2)], (0, "conv", "stride"), "unknown option 'stride'"),
    ([{"relu": {"slope": 1}}], (0, "relu", "slope"), "unknown option 'slope'"),
    ([{"conv": {"filter": 0}}], (0, "conv", "filter"), "integer >= 1, got 0"),
    ([{"conv": {"filter": True}}], (0, "conv", "filter"), "got True"),
    ([{"conv": {"filter": 3.0}}], (0, "conv", "filter"), "got 3.0"),
    ([{"conv": {"filter": "3"}}], (0, "conv", "filter"), "got '3'"),
    ([{"conv": {"filter": [3, 0]}}], (0, "conv", "filter", 1), "got 0"),
    ([{"conv": {"filter": [3, 3, 3]}}], (0, "conv", "filter"), "a list of 1 or 2"),
    ([{"conv": {"filter": []}}], (0, "conv", "filter"), "a list of 1 or 2"),
    ([conv(strides=0)], (0, "conv", "strides"), "got 0"),
    ([conv(w_std=NAN)], (0, "conv", "w_std"), "finite number of at least 0"),
    ([conv(w_std=math.inf)], (0, "conv", "w_std"), "finite number of at least 0"),
    ([conv(b_std=-0.1)], (0, "conv", "b_std"), "got -0.1"),
    ([conv(b_std=False)], (0, "conv", "b_std"), "expected a number, got False"),
    ([conv(b_std="0.1")], (0, "conv", "b_std"), "expected a number"),
    ([conv(padding="circular")], (0, "conv", "padding"), "one of same, valid"),
    ([conv(padding=None)], (0, "conv", "padding"), "one of same, valid"),
    ([{"dense": {"bias": 0.1}}], (0, "dense", "bias"), "unknown option"),
    ([CONV, {"avg_pool": 0}], (1, "avg_pool"), "got 0"),
    ([CONV, "avg_pool"], (1, "avg_pool"), "got None"),
    ([CONV, {"residual": {"branch": []}}], (1, "residual"), "at least one layer"),
    ([CONV, {"residual": {"branch": "relu"}}], (1, "residual", "branch"), "a list of layers"),
    (
        [CONV, {"residual": {"branch": ["relu", {"conv": {}}]}}],
        (1, "residual", "branch", 1, "conv"),
        r"layers\[1\].residual.branch\[1\].conv: needs filter",
    ),
    (["relu", "flatten"], (0,), "not Gaussian"),
    (["flatten", "layer_norm"], (1,), "not Gaussian"),
    ([CONV, "relu", "erf", "flatten"], (2,), "not Gaussian"),
    ([CONV, "flatten", "gelu"], (2,), "not Gaussian"),
    ([CONV, "relu", "global_avg_pool", "relu"], (3,), "not Gaussian"),
    (
        [CONV, {"residual": {"branch": ["relu"]}}, "flatten"],
        (1, "residual", "branch"),
        "needs Gaussian terms",
    ),
    (
        [CONV, "relu", {"residual": {"branch": [CONV]}}, "flatten"],
        (2, "residual", "shortcut"),
        "needs Gaussian terms",
    ),
    (
        [CONV, {"residual": {"branch": ["flatten", "dense"]}}],
        (1,),
        "has passed a readout",
    ),
    ([CONV, "flatten", "dense", "flatten"], (3,), "second readout"),
    ([CONV, "global_avg_pool", "flatten"], (2,), "second readout"),
    ([CONV, "flatten", CONV], (2,), "after the readout"),
    ([CONV, "global_avg_pool", {"avg_pool": 2}], (2,), "after the readout"),
    ([CONV, "relu", "dense"], (2,), "no readout"),
    ("myrtle9", (), "unknown preset 'myrtle9'"),
    ("fc", (), "needs a depth"),
    ("cv0", (), "unknown preset"),
    ("gntk", (), "graphs are not supported"),
    ({"preset": "gntk", "layers": 3}, ("preset",), "graphs are not supported"),
    ({"depth": 3}, (), "a preset's name under `preset`"),
    ({"preset": 3}, (), "a preset's name under `preset`"),
    ({"preset": "fd", "depth": 3}, ("preset",), "unknown preset 'fd'"),
    ({"preset": "fc", "depth": 0}, ("depth",), "got 0"),
    ({"preset": "fc", "depth": True}, ("depth",), "got True"),
    ({"preset": "fc", "depth": 10**9}, ("depth",), "from 1 to 1000"),
    ({"preset": "fc", "dept": 3}, ("dept",), "unknown option 'dept'"),
    ({"preset": "cv8", "depth": 8}, ("depth",), "unknown option 'depth'"),
    ({"preset": "myrtle5", "depth": 8}, ("depth",), "unknown option 'depth'"),
    ({"preset": "myrtle5", "w_std": -1}, ("w_std",), "at least 0"),
    ({"preset": "tuned", "hidden_dense": 3}, ("hidden_dense",), "from 0 to 2"),
    ({"preset": "tuned", "readout": "max"}, ("readout",), "one of gap, flatten"),
    ({"preset": "tuned", 3: 4}, (), "names that are text"),
]


@pytest.mark.parametrize(("spec", "path", "match"), BROKEN)
def test_broken_spec(spec, path, match):
    with pytest.raises(ArchitectureError, match=match) as caught:
        parse(spec)
    assert caught.value.path == path
    assert find_problems(spec)[0].what == caught.value.what


def test_the_nearest_name_is_advised():
    for spec, advice in [
        (["rellu"], "'relu'"),
        ([{"cnv": {}}], "'conv'"),
        ([conv(stride=2)], "'strides'"),
        ("myrtle9", "'myrtle"),
        ([conv(padding="sane")], "'same'"),
    ]:
        assert advice in find_problems(spec)[0].advice


def test_all_problems_are_found():
    spec = ["rellu", conv(filter=0), {"residual": {"branch": ["erff", {"dense": {"b": 1}}]}}]
    assert [problem.path for problem in find_problems(spec)] == [
        (0,),
        (1, "conv", "filter"),
        (2, "residual", "branch", 0),
        (2, "residual", "branch", 1, "dense", "b"),
    ]
    broken_rules = ["relu", "flatten", CONV, "flatten"]
    assert [problem.path for problem in find_problems(broken_rules)] == [(0,), (2,), (3,)]


# ---- what is right


def test_defaults():
    assert parse([CONV, "relu", "flatten", "dense"]).layers == (
        Conv(3, math.sqrt(2), 0.1, 1, "same"),
        Relu(),
        Flatten(),
        Dense(math.sqrt(2), 0.1),
    )


VALID = [
    "fc3",
    "cv8",
    "myrtle5",
    "myrtle7",
    "myrtle10",
    "tuned",
    {"preset": "tuned", "first_filter": 5, "readout": "flatten", "hidden_dense": 2},
    {"preset": "fc", "depth": 3, "w_std": 1.2, "b_std": 0.0},
    [conv(filter=[3, 5], strides=[1, 2]), "relu", {"avg_pool": [2, 1]}, "flatten", "dense"],
    [CONV, {"residual": {"branch": ["relu", CONV], "shortcut": []}}, "global_avg_pool"],
    [CONV, {"residual": {"branch": ["relu", CONV]}}, "layer_norm", "gelu", "flatten"],
    [CONV, {"residual": {"branch": ["flatten", "dense"], "shortcut": ["global_avg_pool"]}}],
    ["dense", "erf", "dense"],
    [{"dense": None}, {"relu": {}}, {"dense": {}}],
]


@pytest.mark.parametrize("spec", VALID)
def test_the_canonical_list_reads_back_to_the_same(spec):
    architecture = parse(spec)
    text = json.dumps(architecture.canonical())
    assert parse(json.loads(text)) == architecture
    assert parse(architecture) is architecture
    assert hash(architecture) == hash(parse(json.loads(text)))


def test_canonical_has_every_default():
    assert parse(["dense", "relu", {"dense": {"w_std": 1}}]).canonical() == [
        {"dense": {"w_std": math.sqrt(2), "b_std": 0.1}},
        "relu",
        {"dense": {"w_std": 1.0, "b_std": 0.1}},
    ]


def test_presets():
    assert parse("fc3") == parse({"preset": "fc", "depth": 3})
    assert parse("cv8") == parse({"preset": "cv", "depth": 8})
    assert parse("tuned") == parse("myrtle10")
    counts = {"myrtle5": 4, "myrtle7": 6, "myrtle10": 9}
    for name, count in counts.items():
        layers = parse({"preset": name, "w_std": 1.3, "b_std": 0.2}).layers
        convs = [layer for layer in layers if isinstance(layer, Conv)]
        assert convs == [Conv(3, 1.3, 0.2)] * count
        assert layers[-2:] == (GlobalAvgPool(), Dense(1.3, 0.2))


def test_tuned_options():
    options = {"first_filter": 5, "convs_per_block": 2, "readout": "flatten", "hidden_dense": 1}
    layers = parse({"preset": "tuned", **options}).layers
    assert [layer.filter for layer in layers if isinstance(layer, Conv)] == [5, 3, 3, 3, 3, 3]
    assert layers[-4:] == (Flatten(), Dense(), Relu(), Dense())


# ---- against the shape of the data

MISFITS = [
    (["flatten", "dense"], (0,), (), "none of them 0"),
    (["flatten", "dense"], (2, 2, 2, 2), (), "no vectors, sequences or images"),
    ([CONV, "flatten"], (5,), (0,), "without spatial axes"),
    (["dense", {"avg_pool": 2}, "flatten"], (5,), (1,), "without spatial axes"),
    (["dense", "global_avg_pool"], (5,), (1,), "without spatial axes"),
    ([CONV, {"avg_pool": 4}, "flatten"], (8, 3, 1), (1,), "larger than its input of 8 x 3"),
    ([CONV, {"avg_pool": 4}, {"avg_pool": 4}, "flatten"], (8, 8, 1), (2,), "of 2 x 2 pixels"),
    ([conv(padding="valid"), "flatten"], (2, 1), (0,), "larger than its input of 2 pixels"),
    ([conv(filter=[3, 3]), "flatten"], (9, 1), (0,), "for 2 spatial axes, the data have 1"),
    ([conv(strides=[2]), "flatten"], (9, 9, 1), (0,), "for 1 spatial axes, the data have 2"),
    ([CONV, {"avg_pool": [2, 2]}, "flatten"], (9, 1), (1,), "for 2 spatial axes"),
    (["dense", "relu", "dense"], (4, 4, 1), (2,), "no readout"),
    (
        [CONV, {"residual": {"branch": ["relu", conv(strides=2)]}}, "flatten"],
        (8, 8, 1),
        (1,),
        "ends with 4 x 4 pixels, the shortcut with 8 x 8",
    ),
    (
        [CONV, {"residual": {"branch": ["relu", conv(padding="valid")]}}, "flatten"],
        (2, 2, 1),
        (1, "residual", "branch", 1),
        "larger than its input",
    ),
    ("cv8", (5,), (), r"preset 'cv8': layers\[0\] \(conv\)"),
    ("myrtle10", (3, 3, 1), (), r"preset 'myrtle10': layers\[13\] \(avg_pool\)"),
]


@pytest.mark.parametrize(("spec", "shape", "path", "match"), MISFITS)
def test_misfit_with_the_data(spec, shape, path, match):
    with pytest.raises(ArchitectureError, match=match) as caught:
        parse(spec).check(shape)
    assert caught.value.path == path
    assert caught.value.advice


def test_tangent_kernel_without_trainable_layers():
    architecture = parse(["flatten"])
    architecture.check_kind("nngp")
    with pytest.raises(ArchitectureError, match="no conv or dense layer"):
        architecture.check_kind("ntk")


def test_operations():
    assert parse("myrtle10").operations((32, 32, 3)) == 3 * (32**4 + 16**4 + 8**4)
    assert parse("cv8").operations((32, 32, 3)) == 8192
    assert parse("fc3").operations((3072,)) == parse("fc3").operations((32, 32, 3)) == 3
    assert parse([conv(strides=2), "relu", "flatten"]).operations((8, 9, 1)) == 4 * 5
    assert parse(["flatten"]).operations((4,)) == 1


def test_forms_are_full_only_before_the_last_pool():
    layers = parse([CONV, "relu", {"avg_pool": 2}, CONV, "relu", "flatten", "dense"]).layers
    forms = [step.form for step in make_plan(layers, (8, 8, 1)).steps]
    assert forms == [Form.FULL] * 3 + [Form.DIAGONAL] * 3 + [Form.NONE]
    assert make_plan(parse("cv8").layers, (8, 8, 1)).form == Form.DIAGONAL
    assert make_plan(parse("fc3").layers, (8, 8, 1)).form == Form.NONE
    short = [
        CONV,
        {
            "residual": {
                "branch": ["relu", CONV, {"avg_pool": 2}, "dense"],
                "shortcut": [conv(strides=2)],
            }
        },
        "flatten",
    ]
    step = make_plan(parse(short).layers, (8, 8, 1)).steps[1]
    assert (step.form, step.shortcut[0].form, step.out_form) == (
        Form.FULL,
        Form.DIAGONAL,
        Form.DIAGONAL,
    )
