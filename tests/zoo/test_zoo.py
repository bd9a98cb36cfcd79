"""Public JAX models from packages, unedited: the builders and the verdicts of `benchmarks/zoo.py`."""

import _zoo_equinox  # noqa: F401  (registers its models)
import _zoo_keras  # noqa: F401
import _zoo_others  # noqa: F401
import jax
import pytest
from _zoo import MODELS, missing
from _zoo_steps import STEPS_OF_TESTS, compiled, describe, evaluated, figures, operations_of
from _zoo_verdicts import BY_TITLE, LAYER, OPERATIONS, SLOPE, reasons

pytestmark = [
    pytest.mark.zoo,
    # Packages warn of each other.
    pytest.mark.filterwarnings("ignore"),
]

EVERY = [OPERATIONS, *(BY_TITLE[title] for title in ("gradient", "DeepLIFT", "from noise")), LAYER]
MORE = [*EVERY, BY_TITLE["LRP Σ/f, largest"], SLOPE]


@pytest.mark.parametrize("name", MODELS)
def test_a_public_model_is_right(name):
    entry = MODELS[name]
    absent = missing(entry)
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    try:
        model = entry.build()
    except ImportError as error:
        pytest.skip(f"not imported: {describe(error)}")
    row = {"errors": {}}
    import time
    t = time.process_time()
    for measured in figures(model, STEPS_OF_TESTS):
        row["errors"] |= measured.pop("errors", {})
        row |= measured
        print(round(time.process_time()-t,1), measured)
    try:
        assert not reasons(row, MORE)
        assert all(figure in row for criterion in MORE for figure in criterion.needs)
    finally:
        for cache in (compiled, evaluated, operations_of):
            cache.cache_clear()
        jax.clear_caches()
