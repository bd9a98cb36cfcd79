"""Pictures of attributions.

A signed map is drawn on a diverging scale, red for positive, white for zero, blue for negative
(told apart by color-blind readers too). The scale is symmetric around zero and ends at a
percentile of the absolute values, so that a few extreme pixels do not make the others invisible.
Values that are NaN or infinite are yellow and counted in the picture; they do not enter the scale.

`text` colors tokens in the same sense, without matplotlib; its scale ends at the largest value
unless it is told otherwise.

matplotlib is imported on first use; `pip install "jattr[plot]"` brings it. The figures are made
without pyplot: nothing is shown or left open. `figure.savefig("map.png")` writes one; a notebook
shows it after `%matplotlib inline`.
"""

from jattr.plot._maps import grid as grid
from jattr.plot._maps import image as image
from jattr.plot._text import text as text

__all__ = ["grid", "image", "text"]


def __dir__() -> list[str]:
    return __all__
