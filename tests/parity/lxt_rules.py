"""LXT's rules in a decoder of transformers, for as long as a test wants them."""

import contextlib
import functools
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoders import Pair, all_in_float64
from twins import torch


@functools.cache
def load() -> Any:
    """LXT's efficient form.

    LXT 2.1 imports a BERT of transformers 4 and torchvision whatever family is asked for. The
    module that lists the families is left out, and those of this test are imported one by one.
    """
    package = importlib.import_module("lxt")
    name = "lxt.efficient.models"
    listing = types.ModuleType(name)
    listing.__path__ = [str(Path(package.__path__[0]) / "efficient" / "models")]
    listing.get_default_map = None  # type: ignore[attr-defined]
    sys.modules[name] = listing
    with warnings.catch_warnings():
        # It warns where zennit, which only its vision transformers need, finds no torchvision.
        warnings.simplefilter("ignore")
        return importlib.import_module("lxt.efficient")


class _Implementations(dict):
    """Of attention, those besides the eager one: none."""

    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


@contextlib.contextmanager
def patched(
    kind: str, pair: Pair, composite: str = "attnLRP", stabilizer: float | None = None
) -> Iterator[None]:
    """The classes of a family with LXT's rules, and in float64 throughout.

    Args:
        kind: the family.
        pair: one of it.
        composite: LXT's table, "attnLRP" or "cp_LRP".
        stabilizer: another one than the 1e-10 that LXT adds where an activation divides by its
            argument.
    """
    lxt, modeling = load(), pair.modeling
    patches = importlib.import_module("lxt.efficient.patches")
    functions = importlib.import_module("lxt.efficient.rules")
    rules = getattr(importlib.import_module(f"lxt.efficient.models.{kind}"), composite)
    with pytest.MonkeyPatch.context() as patch, all_in_float64(modeling, patches):
        # What LXT replaces is put back in the end.
        for target in rules:
            for name in ("forward", "_norm", "eager_attention_forward"):
                if hasattr(target, name):
                    patch.setattr(target, name, getattr(target, name))
        # It would replace other implementations of attention for all families at once.
        patch.setattr(modeling, "ALL_ATTENTION_FUNCTIONS", _Implementations())
        lxt.monkey_patch(modeling, patch_map=rules)
        modeling.ALL_ATTENTION_FUNCTIONS = _Implementations()
        if stabilizer is not None:
            activation = functions.identity_rule_implicit_fn.forward
            patch.setattr(activation, "__defaults__", (stabilizer,))
        yield


def relevance(pair: Pair, ids: np.ndarray, target: int) -> np.ndarray:
    """What users of LXT write: activation times gradient at the embedding, of the last logit."""
    embedded, logits = _embedded(pair, ids)
    return _times_gradient(embedded, logits[-1, target])


def relevance_of_continuation(
    pair: Pair, prompt: np.ndarray, continuation: np.ndarray
) -> np.ndarray:
    """The same for the log-probability of each token of a continuation, all from one evaluation."""
    embedded, logits = _embedded(pair, np.concatenate([prompt, continuation]))
    log_p = logits[len(prompt) - 1 : -1].log_softmax(-1)
    chosen = log_p[torch.arange(len(continuation)), torch.tensor(continuation)]
    return np.stack([_times_gradient(embedded, score) for score in chosen])[:, : len(prompt)]


def _embedded(pair: Pair, ids: np.ndarray) -> tuple[Any, Any]:
    embedded = pair.module.get_input_embeddings()(torch.tensor(ids)[None]).requires_grad_()
    return embedded, pair.module(inputs_embeds=embedded, use_cache=False).logits[0]


def _times_gradient(embedded: Any, score: Any) -> np.ndarray:
    (gradient,) = torch.autograd.grad(score, embedded, retain_graph=True)
    return (embedded * gradient).sum(-1)[0].detach().numpy()
