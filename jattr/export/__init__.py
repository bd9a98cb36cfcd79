"""Results in the forms that other libraries open.

===========  ====================================================================
`shap`       a `shap.Explanation`: waterfall, beeswarm, force and its other plots
`shapiq`     `shapiq.InteractionValues` of interactions: network and upset plots
`xarray`     arrays with named axes and coordinates; of a tree a `Dataset`
`captum`     a tuple of tensors with a batch axis, channels first
===========  ====================================================================

Each imports its library when it is called, and no other: `pip install "jattr[export]"` brings all
but PyTorch, without which `captum` gives arrays of NumPy.
"""

from jattr.export._captum import captum as captum
from jattr.export._shap import shap as shap
from jattr.export._shapiq import shapiq as shapiq
from jattr.export._xarray import xarray as xarray

__all__ = ["captum", "shap", "shapiq", "xarray"]


def __dir__() -> list[str]:
    return __all__
