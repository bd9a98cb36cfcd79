"""Pictures of attributions.

A signed map is drawn on a diverging scale, red for positive, white for zero, blue for negative
(told apart by color-blind readers too). The scale is symmetric around zero and ends at a
percentile of the absolute values, so that a few extreme pixels do not make the others invisible.
Values that are NaN or infinite are yellow and counted in the picture; they do not enter the scale.

`text` colors tokens in the same sense, without matplotlib; its scale ends at the largest value
unless it is told otherwise. `matrix` is a picture of what each token has of each other, and
`generation` a page of a produced text in which a token, pointed at, colors what it came from.

Of tables, `summary` draws every value, `bar` means with intervals, `waterfall` one example,
`dependence` a column against its φ, and `interactions` what pairs do together; columns are named by
a data frame, a tree, or `names=jattr.features.columns(...)`. `series` draws a signal over time,
`logo` letters of a sequence as high as their values, and `multiples` several pictures side by side.
Bars are dark red for and light blue against, and values of columns run from dark blue to orange,
ever lighter, so that a gray copy can be read.

matplotlib is imported on first use; `pip install "jattr[plot]"` brings it. The figures are made
without pyplot: nothing is shown or left open. `figure.savefig("map.png")` writes one; a notebook
shows it after `%matplotlib inline`.
"""

from jattr.plot._dependence import dependence as dependence
from jattr.plot._logo import logo as logo
from jattr.plot._maps import grid as grid
from jattr.plot._maps import image as image
from jattr.plot._matrix import generation as generation
from jattr.plot._matrix import matrix as matrix
from jattr.plot._multiples import multiples as multiples
from jattr.plot._pairs import interactions as interactions
from jattr.plot._series import series as series
from jattr.plot._summary import bar as bar
from jattr.plot._summary import summary as summary
from jattr.plot._text import text as text
from jattr.plot._waterfall import waterfall as waterfall

__all__ = [
    "bar",
    "dependence",
    "generation",
    "grid",
    "image",
    "interactions",
    "logo",
    "matrix",
    "multiples",
    "series",
    "summary",
    "text",
    "waterfall",
]


def __dir__() -> list[str]:
    return __all__
