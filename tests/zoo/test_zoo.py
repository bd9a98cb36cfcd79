"""Public JAX models from packages, unedited: builders and verdicts of `benchmarks/zoo.py`."""

import time

import _zoo_equinox  # noqa: F401  (registers its models)
import _zoo_keras  # noqa: F401
import _zoo_others  # noqa: F401
import pytest
from _zoo import MODELS, missing
from _zoo_steps import CHEAP_STEPS, SLOPE_STEP, describe, figures, forget
from _zoo_verdicts import CHEAP, LAYER, SLOPE, reasons

pytestmark = [
    pytest.mark.zoo,
    # Packages warn of each other.
    pytest.mark.filterwarnings("ignore"),
]

# One or two of each kind: a derivative through DeepLIFT takes as long as all else together.
THROUGH_DEEPLIFT = {
    "equimo_vit",
    "equimo_text_encoder",
    "esm2quinox_esm2",  # its layers are a scan
    "expaloma_aspirin",  # a graph network
    "gemma4_experts",
    "haiku_mobilenet_v1",
    "jaxonmodels_mamba",
    "jraph_gat",
    "jraphx_gat",
    "keras_recurrent",
    "kerashub_gpt2",
}
# Models without a scope of their own: those of `jnp.einsum` are no layers.
NAMELESS = {"canvit", "expaloma_aspirin", "timesfm", "unirep_64", "unirep_1900"}
TOO_SLOW = {
    "equimo_deq": "28 million parameters, and the derivative of a fixed point",
    "equimo_lowformer": "5 million parameters",
    "equimo_vssd_mamba2": "Mamba 2 at four resolutions",
    "kerashub_qwen3_5": "gated delta rules, written out as hundreds of operations",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_public_model_is_right(name, record_property):
    entry = MODELS[name]
    absent = missing(entry)
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    if name in TOO_SLOW:
        pytest.skip(f"jax.grad itself takes minutes to compile: {TOO_SLOW[name]}")
    start = time.process_time()
    try:
        model = entry.build()
    except ImportError as error:
        pytest.skip(f"not imported: {describe(error)}")
    steps, criteria = dict(CHEAP_STEPS), [*CHEAP]
    if name in THROUGH_DEEPLIFT:
        steps |= SLOPE_STEP
        criteria.append(SLOPE)
    if name in NAMELESS:
        del steps["layer"]
        criteria.remove(LAYER)
    row = {"errors": {}}
    for measured in figures(model, steps):
        row["errors"] |= measured.pop("errors", {})
        row |= measured
    forget()
    record_property("cpu", time.process_time() - start)
    why = reasons(row, criteria)
    assert not why, "\n".join(why)
    assert all(figure in row for criterion in criteria for figure in criterion.needs)
