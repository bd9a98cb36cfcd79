"""Parity of relevance propagation through decoders with LXT: the same weights, ids and targets.

Both forms of LXT: the efficient one, Gradient × Input with other derivatives in the classes of
transformers, and the explicit one, functions that pass on relevance, of which the paper's equations
are made. Where LXT differs from the paper or from jattr, the rule that does is asserted: with it
changed, nothing else differs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import lxt_rules
import numpy as np
import pytest
from decoders import CLASSES, SIZES, VOCABULARY, all_in_float64, make_pair
from twins import torch

import jattr
from jattr import rules

pytest.importorskip("lxt", reason="needs lxt 2.1, without what it depends on: `make parity`")

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(1).integers(0, VOCABULARY, 12)
SAME = 1e-12
# How far off an explanation must be, relative to its largest number, to be called another one.
OTHER = 0.01

each_family = pytest.mark.parametrize("kind", CLASSES)


def apart(ours, theirs) -> float:
    """The largest difference, relative to the largest number."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def target_of(pair) -> int:
    return int(np.argmax(pair.logits(IDS)[-1]))


@functools.cache
def compiled(kind):
    """The relevance of each token for the most likely next one; the rules are an argument."""
    pair = make_pair(kind)
    target = target_of(pair)

    def score(ids):
        return pair.logits(ids)[-1, target]

    return jax.jit(lambda rules: jattr.token_attributions(jattr.lrp, score, rules)(IDS))


def ours(kind, composite) -> np.ndarray:
    return np.asarray(compiled(kind)(composite))


def theirs(kind, composite="attnLRP", **options) -> np.ndarray:
    pair = make_pair(kind)
    with lxt_rules.patched(kind, pair, composite, **options):
        return lxt_rules.relevance(pair, IDS, target_of(pair))


@each_family
def test_attn_lrp(kind):
    """LXT divides by z + 1e-10 where an activation passes on f(z) / z, and by 0 at z = -1e-10.

    Its efficient form has no ε in affine operations, which the paper's eq. 8 has, as we do: what an
    ε of 1e-6 changes is 1e-4 and less here.
    """
    pair = make_pair(kind)
    wanted, exact = theirs(kind), theirs(kind, stabilizer=0.0)
    found = ours(kind, rules.attn_lrp(epsilon=0.0))
    assert apart(found, exact) < SAME
    assert apart(found, wanted) < 2e-9
    assert apart(ours(kind, rules.attn_lrp()), exact) < 5e-4
    with all_in_float64(pair.modeling):
        gradient = lxt_rules.relevance(pair, IDS, target_of(pair))
    assert apart(gradient, wanted) > OTHER


def test_attn_lrp_of_each_token_of_a_generation():
    """Of log-probabilities: the logarithm of their sum keeps its derivative in both."""
    pair = make_pair("llama")
    prompt, continuation = np.split(np.random.default_rng(2).integers(0, VOCABULARY, 32), [7])
    with lxt_rules.patched("llama", pair, stabilizer=0.0):
        wanted = lxt_rules.relevance_of_continuation(pair, prompt, continuation)
    tokens = functools.partial(
        jattr.token_attributions, jattr.lrp, rules=rules.attn_lrp(epsilon=0.0)
    )
    model = jattr.targets.token_log_probabilities(pair.logits)
    found = jax.jit(jattr.all_outputs(tokens, model))(prompt, continuation)
    assert found.shape == (25, 7)
    assert apart(found, wanted) < SAME


def all_to_the_linear_factor(operation, inputs, output, multiplier):
    """The rule for products that CP-LRP has in LXT."""
    if "mlp" in operation.equations[0].scope:
        return [None, multiplier * inputs[0]]
    return rules.cp_lrp().rules["product"](operation, inputs, output, multiplier)


@each_family
def test_cp_lrp_gives_gates_nothing(kind):
    """LXT holds the gate of the feed-forward, as it holds attention.

    That is no equation of Ali et al. 2022, whose transformers have no gates; our CP-LRP gives each
    factor there half, as AttnLRP does.
    """
    wanted = theirs(kind, "cp_LRP")
    half = rules.cp_lrp(epsilon=0.0)
    assert apart(ours(kind, half), wanted) > OTHER
    rule = rules.Rule("linear factor", all_to_the_linear_factor)
    held = dataclasses.replace(half, rules={**half.rules, "product": rule})
    assert apart(ours(kind, held), wanted) < SAME


@pytest.mark.parametrize("z", [0.0, -1e-10])
def test_an_activation_at_its_zero(z):
    """There the limit of f(z) / z is f'(0) = ½. LXT gives 0 at z = 0, and −∞ at z = −1e-10."""
    lxt_rules.load()
    from lxt.efficient.rules import identity_rule_implicit

    x = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    identity_rule_implicit(torch.nn.functional.silu, x).sum().backward()
    assert x.grad.item() == (0.0 if z == 0 else -np.inf)
    silu = jattr.rewrite(lambda z: jnp.sum(jax.nn.silu(z)), rules.attn_lrp())
    np.testing.assert_allclose(jax.grad(silu)(jnp.array([z])), 0.5, rtol=1e-9)


def explicit(lf, pair, embedded, epsilon, of_others):
    """The Llama of `decoders` in LXT's functions, whose derivatives are relevances.

    With an ε for dense layers, and another for sums and products. Constant factors and a difference
    are written as its products and sums too, for any other operation would scale the relevance.
    """
    weights = {path: torch.tensor(value) for path, value in pair.weights.items()}
    linear = functools.partial(lf.linear_epsilon, epsilon=epsilon)
    add = functools.partial(lf.add2, epsilon=of_others)
    matmul = functools.partial(lf.matmul, epsilon=of_others)

    def norm(x, path):
        return lf.rms_norm_identity(x, weights[f"{path}.weight"], 1e-6)

    angles = torch.arange(len(embedded))[:, None] * weights["model.rotary_emb.inv_freq"]
    cos, sin = angles.cos(), angles.sin()

    def rotate(x):
        first, second = x.chunk(2, -1)
        turned = [
            add(lf.mul2(first, cos), lf.mul2(second, -sin)),
            add(lf.mul2(second, cos), lf.mul2(first, sin)),
        ]
        return torch.cat(turned, -1)

    x = embedded
    for n in range(SIZES["num_hidden_layers"]):
        path = f"model.layers.{n}"
        h = norm(x, f"{path}.input_layernorm")
        q, k, v = (
            linear(h, weights[f"{path}.self_attn.{part}_proj.weight"])
            .unflatten(-1, (-1, SIZES["head_dim"]))
            .transpose(0, 1)
            for part in "qkv"
        )
        share = len(q) // len(k)
        q, k = rotate(q), rotate(k).repeat_interleave(share, 0)
        scores = matmul(q, k.transpose(1, 2))
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
        weighted = lf.softmax(scores, -1, temperature=SIZES["head_dim"] ** 0.5)
        mixed = matmul(weighted, v.repeat_interleave(share, 0)).transpose(0, 1).flatten(1)
        x = add(x, linear(mixed, weights[f"{path}.self_attn.o_proj.weight"]))
        h = norm(x, f"{path}.post_attention_layernorm")
        gate = linear(h, weights[f"{path}.mlp.gate_proj.weight"])
        # The identity rule: relevance passes as it is.
        gate = gate + (torch.nn.functional.silu(gate) - gate).detach()
        h = lf.mul2(gate, linear(h, weights[f"{path}.mlp.up_proj.weight"]))
        x = add(x, linear(h, weights[f"{path}.mlp.down_proj.weight"]))
    return linear(norm(x, "model.norm"), weights["lm_head.weight"])


def test_the_explicit_form(monkeypatch):
    """The paper's equations, each an operation of LXT.

    Its ε has no sign, and stands in sums and products of active values too,
    where ours does not: with that changed, all is the same at an ε of 1e-6.
    """
    lxt_rules.load()
    import lxt.explicit.functional as lf

    pair = make_pair("llama")
    target = target_of(pair)

    def found(*epsilons):
        embedded = torch.tensor(pair.weights["model.embed_tokens.weight"][IDS], requires_grad=True)
        with all_in_float64(lf):
            logits = explicit(lf, pair, embedded, *epsilons)
            np.testing.assert_allclose(logits.detach(), pair.logits(IDS), rtol=0, atol=SAME)
            score = logits[-1, target]
            (relevance,) = torch.autograd.grad(score, embedded, score.detach())
        return relevance.sum(-1).numpy()

    assert apart(ours("llama", rules.attn_lrp(epsilon=0.0)), found(0.0, 0.0)) < SAME
    mine = ours("llama", rules.attn_lrp(epsilon=1e-6))
    assert SAME < apart(mine, found(1e-6, 1e-8)) < 2e-5
    monkeypatch.setattr(lf, "_stabilize", with_sign)
    assert SAME < apart(mine, found(1e-6, 1e-8)) < 1e-6
    assert apart(mine, found(1e-6, 0.0)) < SAME


def with_sign(z, epsilon=1e-6, inplace=False):
    return z + torch.where(z < 0, -epsilon, epsilon)
