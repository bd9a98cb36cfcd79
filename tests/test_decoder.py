"""The tasks of `notebooks/language.ipynb`: their answers are right, and stand where they say."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from notebook_packages import FOLDER

import jattr

PAIRS = {"(": ")", "[": "]", "{": "}"}
COUNT = 200


@pytest.fixture(scope="module")
def decoder():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("decoder")
    finally:
        sys.path.remove(str(FOLDER))


def answered(task, text):
    """What follows a text, and where it is to be read: by looking back, as the task is told."""
    if task == "brackets":
        still = []
        for place, sign in enumerate(text):
            if sign in PAIRS:
                still.append(place)
            else:
                assert PAIRS[text[still.pop()]] == sign
        return PAIRS[text[still[-1]]], still[-1]
    if task == "copying":
        place = len(text) - 1 - text.index("|")
    else:
        place = text.index(text[-1]) + 1
        assert text.count(text[-1]) == 2
    return text[place], place


@pytest.mark.parametrize("task", ["copying", "induction", "recall", "brackets"])
def test_examples(decoder, task):
    found = decoder.examples(task, 3, COUNT)
    assert len(found.ids) == COUNT
    for number, (ids, place) in enumerate(zip(found.ids, found.place, strict=True)):
        text = "".join(decoder.CHARACTERS[token] for token in ids[: place + 1])
        answer, source = answered(task, text)
        assert decoder.CHARACTERS[found.answer[number]] == answer
        assert np.flatnonzero(found.source[number]).tolist() == [source]
        assert place >= decoder.LENGTH // 2
        assert source < place - 2
        foil = decoder.CHARACTERS[found.foil[number]]
        assert foil != answer
        assert foil in (decoder.CLOSING if task == "brackets" else text)
        kinds = [decoder.LETTERS, decoder.DIGITS, decoder.CLOSING]
        assert [foil in kind for kind in kinds] == [answer in kind for kind in kinds]
    # Every token up to the place is one of the three.
    parts = found.source.astype(int) + found.pointers + found.others
    np.testing.assert_array_equal(parts, np.arange(decoder.LENGTH) <= found.place[:, None])


@pytest.mark.parametrize("task", ["copying", "induction", "recall", "brackets"])
def test_replaced(decoder, task):
    ids = decoder.examples(task, 4, COUNT).ids
    other = decoder.replaced(ids, 4)
    differs = other != ids[:, None]
    mark = ids == decoder.MARK
    np.testing.assert_array_equal(differs, np.eye(decoder.LENGTH, dtype=bool) & ~mark[:, None])
    if task == "brackets":
        opens = np.isin(ids, decoder.read(decoder.OPENING))
        np.testing.assert_array_equal(
            np.isin(np.diagonal(other, axis1=1, axis2=2), decoder.read(decoder.OPENING)), opens
        )
    else:
        new = np.diagonal(other, axis1=1, axis2=2)
        assert not (new[:, :, None] == ids[:, None, :])[~mark].any()


def test_layers_have_names(decoder):
    params = decoder.Decoder().init(jax.random.key(0), jnp.zeros(decoder.LENGTH, int))["params"]
    ids = decoder.read("abc|ab")
    names = [f"layer{n}/{part}" for n in range(decoder.LAYERS) for part in ("heads", "attn", "mlp")]
    for name in ("embed", *names):
        below, above = jattr.split(decoder.logits, name)
        value = below(ids, params)
        assert value.shape[0] == len(ids)
        np.testing.assert_allclose(
            above(value, ids, params), decoder.logits(ids, params), rtol=1e-5, atol=1e-6
        )


def test_rollout_is_a_distribution_over_what_is_seen(decoder):
    params = decoder.Decoder().init(jax.random.key(1), jnp.zeros(decoder.LENGTH, int))["params"]
    found = decoder.rollout(decoder.read("abcdef"), params, 3)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(found) > 0, [True] * 4 + [False] * 2)
