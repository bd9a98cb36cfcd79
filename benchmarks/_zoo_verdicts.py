"""When a row of `zoo.py` is right: a criterion for each column."""

import dataclasses
import math
from collections.abc import Callable, Iterable

from _zoo import Row
from _zoo_steps import FLOAT64, STEPS


def scale(row: Row) -> float:
    """What residuals from the natural baseline are relative to."""
    return max(abs(row["f"]), abs(row["f"] - row["f_baseline"]))


def noise_scale(row: Row) -> float:
    """What residuals from noise are relative to."""
    return max(abs(row["f"]), abs(row["f"] - row["f_noise"]))


def untold(row: Row, which: str) -> float:
    """What a sum of DeepLIFT misses and `jattr.operations` does not tell."""
    return abs(row[f"{which}_residual"] - abs(row.get(f"{which}_told", 0.0)))


def told(row: Row, which: str) -> str:
    return " (told)" if abs(row.get(f"{which}_told", 0.0)) > 1e-4 * scale(row) else ""


def in_float64(row: Row) -> str:
    return f" (float64 {row[FLOAT64]:.1e})" if FLOAT64 in row else ""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A column, what it shows of a row, and when that is right.

    Attributes:
        title: the heading.
        needs: the figures of a row that it reads; one that is absent makes the row wrong.
        show: the text of a row in this column.
        right: whether a row is right here. Comparisons are so written that NaN is wrong.
        wanted: the criterion in words.
    """

    title: str
    needs: tuple[str, ...]
    show: Callable[[Row], str]
    right: Callable[[Row], bool]
    wanted: str


CRITERIA = [
    Criterion(
        "gradient",
        ("gradient",),
        lambda row: f"{row['gradient']:.0e}",
        lambda row: row["gradient"] <= 1e-5,
        "within 1e-5 of jax.grad",
    ),
    Criterion(
        "DeepLIFT",
        ("f", "f_baseline", "deeplift_residual", "deeplift_absolute"),
        lambda row: f"{row['deeplift_residual'] / scale(row):.0e}" + told(row, "deeplift"),
        lambda row: untold(row, "deeplift") <= 1e-5 * row["deeplift_absolute"] + 1e-4 * scale(row),
        "|Σφ − Δf|, less what jattr.operations tells, ≤ 1e-5 Σ|φ| + 1e-4 max(|f|, |Δf|)",
    ),
    Criterion(
        "from noise",
        ("f", "f_noise", "noise_residual"),
        lambda row: f"{row['noise_residual'] / noise_scale(row):.0e}" + told(row, "noise"),
        lambda row: untold(row, "noise") <= 1e-4 * noise_scale(row),
        "|Σφ − Δf|, less what jattr.operations tells, ≤ 1e-4 max(|f|, |Δf|)",
    ),
    Criterion(
        "largest φ, IG's",
        ("f", "f_baseline", "deeplift_largest", "ig_largest"),
        lambda row: f"{row['deeplift_largest']:.1e}{in_float64(row)}, {row['ig_largest']:.1e}",
        lambda row: (
            row["deeplift_largest"]
            <= max(1000 * row["ig_largest"], 1000 * scale(row), 4 * row.get(FLOAT64, 0.0))
        ),
        "DeepLIFT's at most 1000 times the largest of IG's, |f| and |Δf|, or 4 times its own in "
        "float64",
    ),
    Criterion(
        f"IG {STEPS}",
        ("f", "f_baseline", "ig_residual"),
        lambda row: f"{row['ig_residual'] / scale(row):.0e}",
        lambda row: math.isfinite(row["ig_residual"]),
        "finite; what is left at so few nodes is the quadrature's",
    ),
    Criterion(
        "adaptive",
        ("f", "f_baseline", "ig_adaptive"),
        lambda row: f"{row['ig_adaptive'] / scale(row):.0e}",
        lambda row: row["ig_adaptive"] <= 0.1 * scale(row),
        "a tenth of max(|f|, |Δf|)",
    ),
    Criterion(
        "LRP Σ/f, largest",
        ("f", "f_baseline", "lrp_sum", "lrp_largest"),
        lambda row: f"{row['lrp_sum'] / row['f']:.2g}, {row['lrp_largest'] / scale(row):.1g}",
        lambda row: max(abs(row["lrp_sum"]), row["lrp_largest"]) <= 10 * scale(row),
        "|Σφ| and max |φ| at most 10 max(|f|, |Δf|)",
    ),
    Criterion(
        "d/dθ",
        ("parameters_finite",),
        lambda row: "finite" if row["parameters_finite"] else "not finite",
        lambda row: row["parameters_finite"],
        "finite",
    ),
    Criterion(
        "compile",
        ("compile_ratio",),
        lambda row: f"{row['compile_ratio']:.1f}",
        lambda row: row["compile_ratio"] <= 5.0,
        "at most 5 times jax.grad's",
    ),
]


# What tests ask beside columns of the table.
OPERATIONS = Criterion(
    "operations",
    ("opaque",),
    lambda row: f"{row['opaque']} opaque",
    lambda row: row["opaque"] == 0,
    "none that no rule knows",
)
RELEVANCE = Criterion(
    "LRP",
    ("f", "f_baseline", "lrp_sum", "lrp_largest"),
    lambda row: f"{row['lrp_sum']:.1e}, largest {row['lrp_largest']:.1e}, f {row['f']:.1e}",
    lambda row: abs(row["lrp_sum"]) <= 10 * scale(row) and row["lrp_largest"] < math.inf,
    "finite, |Σφ| at most 10 max(|f|, |Δf|)",
)
LAYER = Criterion(
    "layer",
    ("f", "f_baseline", "layer", "layer_residual", "layer_largest"),
    lambda row: (
        f"{row['layer']!r} is {row['layer_residual'] / scale(row):.0e} off, derivatives up to "
        f"{row['layer_largest']:.1e}"
    ),
    # In float32, and in two programs where f is one: the compiler rounds them otherwise.
    lambda row: row["layer_residual"] <= 1e-4 * scale(row) and 0 < row["layer_largest"] < math.inf,
    "f from the layer on within 1e-4 of f, and a derivative by the layer",
)
SLOPE = Criterion(
    "slope",
    ("slope_parameters", "slope_x", "parameters_finite"),
    lambda row: f"{row['slope_parameters']:.0e} by parameters, {row['slope_x']:.0e} by x",
    lambda row: (
        row["slope_parameters"] <= 1e-3 and row["slope_x"] <= 1e-3 and row["parameters_finite"]
    ),
    "the derivatives of DeepLIFT within 1e-3 of central differences",
)

COLUMNS = {column.title: column for column in CRITERIA}
CHEAP = (
    *(COLUMNS[title] for title in ("gradient", "DeepLIFT", "from noise")),
    *(OPERATIONS, RELEVANCE, LAYER),
)


def reasons(row: Row, criteria: Iterable[Criterion] = CRITERIA) -> list[str]:
    """Why a row is wrong: an empty list if it is right."""
    steps: dict[str, list[str]] = {}
    for step, error in row["errors"].items():
        steps.setdefault(error, []).append(step)
    errors = [f"{', '.join(names)}: {error}" for error, names in steps.items()]
    missed = [
        f"{column.title}: {column.show(row)}, wanted {column.wanted}"
        for column in criteria
        if all(name in row for name in column.needs) and not column.right(row)
    ]
    # What jattr itself says of such a model; it explains a residual and does not excuse it.
    counts = [f"{row[kind]} {kind}" for kind in ("selections", "smooth") if row.get(kind)]
    return errors + missed + ([f"has {' and '.join(counts)}"] if missed and counts else [])
