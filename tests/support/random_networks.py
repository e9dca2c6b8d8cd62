"""Random networks of every kind that the spec admits, with rows that they can take.

A chain is drawn layer by layer with the spatial sizes and with what each layer demands of its
input. The shortcut of a residual sum that changes the sizes repeats the layers that do so.
"""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

POINTWISE = ("relu", "relu", "relu", "erf", "gelu", "layer_norm")


@dataclass(frozen=True)
class Flow:
    """Sizes after a layer (empty after the readout), and whether the signal is Gaussian there."""

    sizes: tuple[int, ...]
    gaussian: bool
    bones: tuple = ()  # the layers so far that changed the sizes


@dataclass(frozen=True)
class Problem:
    layers: list
    shape: tuple[int, ...]
    rows: tuple[int, int]
    seed: int


@st.composite
def problems(draw):
    axes = draw(st.sampled_from([0, 1, 2, 2, 2]))
    most = {0: 1, 1: 30, 2: 9}[axes]
    sizes = tuple(draw(st.lists(st.integers(1, most), min_size=axes, max_size=axes)))
    channels = draw(st.integers(1, 5))
    # Without biases, pixels of one channel are parallel: there arccos halves the digits of T.
    options = Options(biases=(0.1, 0.7) if channels == 1 else (0.0, 0.1, 0.7))
    layers, flow = draw(chains(Flow(sizes, False), options, longest=6, depth=2))
    if flow.sizes:
        layers = [*layers, draw(st.sampled_from(["flatten", "global_avg_pool"]))]
        gaussian = flow.gaussian and layers[-1] != "flatten"
        flow = Flow((), gaussian)
        more, _ = draw(chains(flow, options, longest=2, depth=1))
        layers += more
    elif axes == 0 and draw(st.booleans()):  # flatten does nothing to vectors
        more, _ = draw(chains(Flow((), False), options, longest=2, depth=1))
        layers = [*layers, "flatten", *more]
    layers.append(draw(options.dense()))
    rows = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    return Problem(layers, (*sizes, channels), rows, draw(st.integers(0, 10**6)))


@dataclass(frozen=True)
class Options:
    """What convolutions and dense layers are drawn from."""

    biases: tuple[float, ...]

    def weights(self):
        return {"w_std": st.floats(0.7, 2.0), "b_std": st.sampled_from(self.biases)}

    def dense(self):
        return st.fixed_dictionaries(self.weights()).map(lambda chosen: {"dense": chosen})


@st.composite
def convs(draw, options, sizes):
    padding = draw(st.sampled_from(["same", "same", "same", "valid"]))
    highest = [min(7, size) if padding == "valid" else 7 for size in sizes]
    filters = [min(most, draw(st.sampled_from([3, 3, *range(1, 8)]))) for most in highest]
    strides = [draw(st.sampled_from([1, 1, 1, 1, 2, 3])) for _ in sizes]
    layer = {
        "filter": one_or_list(filters),
        "strides": one_or_list(strides),
        "padding": padding,
        **draw(st.fixed_dictionaries(options.weights())),
    }
    if padding == "same":
        after = [-(-size // step) for size, step in zip(sizes, strides, strict=True)]
    else:
        axes = zip(sizes, filters, strides, strict=True)
        after = [(size - chosen) // step + 1 for size, chosen, step in axes]
    return {"conv": layer}, tuple(after)


def one_or_list(numbers):
    return numbers[0] if len(set(numbers)) == 1 else numbers


@st.composite
def pools(draw, sizes):
    windows = [draw(st.integers(1, min(4, size))) for size in sizes]
    after = tuple(size // window for size, window in zip(sizes, windows, strict=True))
    return {"avg_pool": one_or_list(windows)}, after


@st.composite
def chains(draw, flow, options, longest, depth):
    """Draw layers from `flow` on; return them and the flow behind them."""
    layers = []
    for _ in range(draw(st.integers(1, longest))):
        choices = ["dense"]
        choices += ["conv"] * 4 + ["pool"] * 2 if flow.sizes else []
        choices += ["point"] * 4 if flow.gaussian else []
        choices += ["residual"] * 2 if depth else []
        name = draw(st.sampled_from(choices))
        layer, flow = draw(STEPS[name](flow, options, depth))
        layers.append(layer)
    return layers, flow


@st.composite
def conv_step(draw, flow, options, depth):
    layer, sizes = draw(convs(options, flow.sizes))
    return layer, Flow(sizes, True, (*flow.bones, layer))


@st.composite
def pool_step(draw, flow, options, depth):
    layer, sizes = draw(pools(flow.sizes))
    return layer, replace(flow, sizes=sizes, bones=(*flow.bones, layer))


@st.composite
def dense_step(draw, flow, options, depth):
    return draw(options.dense()), replace(flow, gaussian=True)


@st.composite
def point_step(draw, flow, options, depth):
    layer = draw(st.sampled_from(POINTWISE))
    return layer, replace(flow, gaussian=layer == "layer_norm")


@st.composite
def residual_step(draw, flow, options, depth):
    """A branch of any layers, a readout among them at times, and a shortcut that fits to it."""
    start = replace(flow, bones=())
    branch, end = draw(chains(start, options, longest=4, depth=depth - 1))
    if end.sizes and draw(st.integers(0, 7)) == 0:
        readout = draw(st.sampled_from(["flatten", "global_avg_pool"]))
        branch, end = [*branch, readout], Flow((), False, (*end.bones, readout))
    if not end.gaussian:
        branch, end = [*branch, draw(options.dense())], replace(end, gaussian=True)
    same = end.sizes == flow.sizes and bool(end.sizes) == bool(flow.sizes)
    kind = draw(st.sampled_from(["empty", "point", "bones"]))
    if kind == "empty" and same and flow.gaussian:
        shortcut = []
    elif kind == "point" and same:
        shortcut = [{"conv": {"filter": 1}} if flow.sizes else "dense"]
    else:
        bare = still_gaussian(flow.gaussian, end.bones) and draw(st.booleans())
        shortcut = [*end.bones] if bare and end.bones else [*end.bones, "dense"]
    layer = {"residual": {"branch": branch, "shortcut": shortcut}}
    changes = () if same else (*end.bones, "dense")
    return layer, Flow(end.sizes, True, (*flow.bones, *changes))


def still_gaussian(gaussian, bones):
    for layer in bones:
        gaussian = layer != "flatten" and (gaussian or layer == "dense" or "conv" in layer)
    return gaussian


STEPS = {
    "conv": conv_step,
    "pool": pool_step,
    "dense": dense_step,
    "point": point_step,
    "residual": residual_step,
}
