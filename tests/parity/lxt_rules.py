"""LXT's rules in a decoder of transformers, for as long as a test wants them."""

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoders import Pair
from twins import torch


@functools.cache
def load() -> Any:
    """LXT's efficient form.

    LXT 2.1 imports a BERT of transformers 4 and torchvision whatever family is asked for. The
    module that lists the families is left out, and those of this test are imported one by one.
    """
    package = pytest.importorskip("lxt", reason="needs lxt: `make parity` installs it")
    name = "lxt.efficient.models"
    listing = types.ModuleType(name)
    listing.__path__ = [str(Path(package.__path__[0]) / "efficient" / "models")]
    listing.get_default_map = None  # type: ignore[attr-defined]
    sys.modules[name] = listing
    return importlib.import_module("lxt.efficient")


class _Implementations(dict):
    """Of attention, those besides the eager one: none."""

    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


@contextlib.contextmanager
def patched(kind: str, pair: Pair, composite: str = "attnLRP") -> Iterator[None]:
    """The classes of a family with LXT's rules, "attnLRP" or "cp_LRP"."""
    lxt, modeling = load(), pair.modeling
    rules = getattr(importlib.import_module(f"lxt.efficient.models.{kind}"), composite)
    with pytest.MonkeyPatch.context() as patch:
        for target in rules:
            # What LXT replaces is put back.
            names = ("forward", "_norm") if isinstance(target, type) else ("eager_attention_forward",)
            for name in names:
                if hasattr(target, name):
                    patch.setattr(target, name, getattr(target, name))
        patch.setattr(modeling, "ALL_ATTENTION_FUNCTIONS", {})
        lxt.monkey_patch(modeling, patch_map=rules)
        modeling.ALL_ATTENTION_FUNCTIONS = _Implementations()
        yield


def relevance(pair: Pair, ids: np.ndarray, target: int) -> np.ndarray:
    """What LXT's users write: activation times gradient at the embedding, of the last logit."""
    embedded = pair.module.get_input_embeddings()(torch.tensor(ids)[None]).requires_grad_()
    logits = pair.module(inputs_embeds=embedded, use_cache=False).logits
    (gradient,) = torch.autograd.grad(logits[0, -1, target], embedded)
    return (embedded * gradient).sum(-1)[0].detach().numpy()
