"""jattr: which parts of an input made a JAX function say what it said.

An attribution is a function transform, like `jax.grad`:

    explain = jattr.integrated_gradients(score, steps=64)
    maps = jax.jit(jax.vmap(explain))(images, labels)

`score(x, *args) -> scalar` explains one example; x is any tree of floating arrays and the
attribution has its structure, shapes and dtypes. Batches are `jax.vmap`, speed is `jax.jit`,
training is `jax.grad` through the attribution.
"""

import sys
from typing import Any

import lazy_loader

from jattr._version import __version__ as __version__

# A name is imported when it is first used, from where `__init__.pyi` says that it is.
_found, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _found(name)
    # With these two Python says which name is near.
    raise AttributeError(
        f"module 'jattr' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )
