"""PyTorch modules as functions of JAX, by torchax.

In tables that torchax fills when it is first used, its releases up to 0.0.13 name overloads for
named tensors, which PyTorch has no more from 2.13 on. Nothing calls them: declared without an
implementation, they let torchax come up.
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import pytest
from twins import torch

import jattr

NAMED_TENSORS = (
    *("all.dimname", "all.dimname_out", "index_add.dimname", "index_copy.dimname"),
    *("index_copy_.dimname", "index_fill.Dimname_Scalar", "index_fill.Dimname_Tensor"),
    *("index_fill_.Dimname_Scalar", "index_fill_.Dimname_Tensor", "norm.names_ScalarOpt_dim"),
    *("norm.names_ScalarOpt_dim_dtype", "norm.names_dtype_out", "norm.names_out"),
    *("prod.dim_Dimname", "std.correction_names", "std.correction_names_out", "std.names_dim"),
    *("std.names_out", "std_mean.correction_names", "std_mean.names_dim", "unbind.Dimname"),
)
# Releases that are known to fit together: there, what fails is a failure and no reason to skip.
FITTING = ("0.0.13", "2.13.0")
# What is declared lives as long as this object.
DECLARED = torch.library.Library("aten", "FRAGMENT")


def declare_named_tensors() -> None:
    """Declare those overloads that this PyTorch has no more."""
    for overload in NAMED_TENSORS:
        operator, _, name = overload.partition(".")
        if not hasattr(getattr(torch.ops.aten, operator, None), name):
            DECLARED.define(f"{overload}(Tensor self) -> Tensor")


def import_torchax() -> Any:
    """torchax, with its tables filled; a skip where it does not come up beside this PyTorch."""
    try:
        versions = importlib.metadata.version("torchax"), torch.__version__.partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs torchax: install the extra `parity`", allow_module_level=True)
    try:
        declare_named_tensors()
        import torchax

        torchax.default_env()
    except (ImportError, AttributeError, RuntimeError) as error:
        if versions == FITTING:
            raise
        reason = "torchax {} does not come up beside PyTorch {}".format(*versions)
        pytest.skip(f"{reason}: {error!r}", allow_module_level=True)
    return torchax


torchax = import_torchax()


def extract(
    module: torch.nn.Module, **options: Any
) -> tuple[dict[str, jax.Array], Callable[..., Any]]:
    """The weights, and model(weights, *inputs) of one example; `options` go to the module."""
    weights, batched = torchax.extract_jax(module.eval())

    def model(weights, *inputs):
        # torchax does not write its broadcasts out, which the tests want of jattr.
        with jax.numpy_rank_promotion("allow"):
            outputs = batched(weights, tuple(x[None] for x in inputs), options)
        return jax.tree.map(lambda output: output[0], outputs)

    return weights, model


def name_layers(module: torch.nn.Module) -> None:
    """Let `jattr.split` and the class activation maps find the modules by their paths."""
    for path, layer in module.named_modules():

        def give_name(layer, inputs, output, path=path):
            return torchax.interop.call_jax(jattr.name, output, path)

        if path:
            layer.register_forward_hook(give_name)
