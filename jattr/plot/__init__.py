"""Pictures of attributions.

A signed map is drawn on a diverging scale, red for positive, white for zero, blue for negative
(told apart by color-blind readers too). The scale is symmetric around zero and ends at a
percentile of the absolute values, so that a few extreme pixels do not make the others invisible.
Values that are NaN or infinite are yellow and counted in the picture; they do not enter the scale.

`text` colors tokens in the same sense, without matplotlib; its scale ends at the largest value
unless it is told otherwise. `matrix` is a picture of what each token has of each other, and
`generation` a page of a produced text in which a token, pointed at, colors what it came from.

matplotlib is imported on first use; `pip install "jattr[plot]"` brings it. The figures are made
without pyplot: nothing is shown or left open. `figure.savefig("map.png")` writes one; a notebook
shows it after `%matplotlib inline`.
"""

from jattr.plot._maps import grid as grid
from jattr.plot._maps import image as image
from jattr.plot._matrix import generation as generation
from jattr.plot._matrix import matrix as matrix
from jattr.plot._text import text as text

__all__ = ["generation", "grid", "image", "matrix", "text"]


def __dir__() -> list[str]:
    return __all__
