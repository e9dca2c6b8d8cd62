"""Networks that tests have in common."""

CONV = {"conv": {"filter": 3}}
FIVE = {"conv": {"filter": [5, 3]}}
STRIDED = {"conv": {"filter": 3, "strides": 2}}
BRANCH = ["relu", CONV, "relu", CONV]
POOLED = [CONV, "relu", {"avg_pool": 2}, CONV, "relu", "global_avg_pool", "dense"]
# A fully connected one, one without pools, one with them.
NETWORKS = {"fc": {"preset": "fc", "depth": 3}, "cv": {"preset": "cv", "depth": 3}, "gap": POOLED}
# One for every way through the compiled engine.
PATHS = {
    **NETWORKS,
    "five": [FIVE, "relu", CONV, "relu", "global_avg_pool", "dense"],
    "strided": [CONV, "relu", STRIDED, "relu", {"avg_pool": [2, 1]}, "flatten", "dense"],
    "residual": [CONV, {"residual": {"branch": BRANCH}}, "relu", "global_avg_pool", "dense"],
    "pooled residual": [
        CONV,
        {
            "residual": {
                "branch": ["relu", CONV, {"avg_pool": 2}],
                "shortcut": ["relu", STRIDED],
            }
        },
        "relu",
        "global_avg_pool",
        "dense",
    ],
    "residual after a pool": [
        CONV,
        {"avg_pool": 2},
        {"residual": {"branch": ["relu", CONV, "layer_norm"]}},
        {"residual": {"branch": ["dense"], "shortcut": ["relu", CONV, "layer_norm"]}},
        "relu",
        "flatten",
        "dense",
    ],
    "bare pools in sides": [
        CONV,
        {"residual": {"branch": [{"avg_pool": 2}], "shortcut": ["relu", STRIDED]}},
        {"residual": {"branch": ["relu", CONV, {"avg_pool": 2}], "shortcut": [{"avg_pool": 2}]}},
        "relu",
        "global_avg_pool",
        "dense",
    ],
    "gelu": [CONV, "gelu", {"avg_pool": 2}, CONV, "erf", "global_avg_pool", "dense"],
    "normed": [CONV, "layer_norm", "relu", {"avg_pool": 3}, "global_avg_pool", "dense"],
    "linear": [CONV, {"avg_pool": 2}, {"avg_pool": 2}, "flatten", "dense"],
}
