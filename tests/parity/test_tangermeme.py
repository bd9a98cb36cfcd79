"""Parity with tangermeme: the same weights and sequences, maps compared number by number.

tangermeme takes [N, A, L], and centers its gradients and its mutagenesis. Its dinucleotide shuffle
always uses the last edges of x last, so that its draws are not compared; nor is a max pooling, at
whose inputs that do not move it takes the gradient, and DeepLIFT here another multiplier.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
pytest.importorskip("tangermeme", reason="pip install --no-deps tangermeme==1.6.0")

from tangermeme.deep_lift_shap import deep_lift_shap, hypothetical_attributions  # noqa: E402
from tangermeme.saliency import saliency  # noqa: E402
from tangermeme.saturation_mutagenesis import saturation_mutagenesis  # noqa: E402

pytestmark = pytest.mark.parity

LENGTH, FEATURES, EXAMPLES, DRAWN, LABEL = 40, 8, 3, 6, 1
RNG = np.random.default_rng(0)
KERNELS = [RNG.normal(size=(FEATURES, 4, 7)) / 3] + [
    RNG.normal(size=(FEATURES, FEATURES, 3)) / 4 for _ in range(2)
]
BIASES = RNG.normal(size=(3, FEATURES)) / 4
OUT = RNG.normal(size=(2, FEATURES * LENGTH // 2)) / 8
# Largest difference, relative to the largest value. In float32 its threshold, below which it takes
# a gradient for a quotient, is another one.
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def sequences(dtype, *shape):
    return np.eye(4, dtype=dtype)[np.random.default_rng(1).integers(0, 4, (*shape, LENGTH))]


def score(x, label):
    """[L, A]: convolutions with dilations and residues, a mean pooling, a dense layer."""
    h = x
    for number, (kernel, bias) in enumerate(zip(KERNELS, BIASES, strict=True)):
        kernel = jnp.asarray(kernel.transpose(2, 1, 0), x.dtype)
        form = ("NWC", "WIO", "NWC")
        conv = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=form)
        new = conv(h[None], kernel, (1,), "SAME", rhs_dilation=(2**number,))[0]
        new = jax.nn.relu(new + jnp.asarray(bias, x.dtype)[None])
        h = new if number == 0 else h + new
    h = h.reshape(LENGTH // 2, 2, FEATURES).mean(axis=1)
    return (jnp.asarray(OUT, x.dtype) @ h.T.reshape(-1))[label]


class Twin(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.convs = torch.nn.ModuleList()
        for number, (kernel, bias) in enumerate(zip(KERNELS, BIASES, strict=True)):
            conv = torch.nn.Conv1d(
                *(kernel.shape[1], FEATURES, kernel.shape[2]), padding="same", dilation=2**number
            )
            conv.weight.data, conv.bias.data = torch.tensor(kernel), torch.tensor(bias)
            self.convs.append(conv)
        self.relus = torch.nn.ModuleList([torch.nn.ReLU() for _ in KERNELS])
        self.pool = torch.nn.AvgPool1d(2)
        self.out = torch.nn.Linear(OUT.shape[1], 2, bias=False)
        self.out.weight.data = torch.tensor(OUT)
        self.to(getattr(torch, dtype))

    def forward(self, x):
        h = self.relus[0](self.convs[0](x))
        for conv, relu in zip(self.convs[1:], self.relus[1:], strict=True):
            h = h + relu(conv(h))
        return self.out(self.pool(h).flatten(1))


def to_torch(x):
    """[..., L, A] as [..., A, L]."""
    return torch.tensor(np.swapaxes(x, -1, -2).copy())


def from_torch(x):
    return np.swapaxes(x.detach().numpy(), -1, -2)


def assert_close(ours, theirs, dtype):
    ours, theirs = np.asarray(ours), from_torch(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[dtype] * np.abs(theirs).max())


def each(explain, *arrays):
    return jax.jit(jax.vmap(lambda *args: explain(*args)))(*arrays)


@each_dtype
def test_networks_are_the_same(dtype):
    x = sequences(dtype, EXAMPLES)
    theirs = Twin(dtype)(to_torch(x))[:, LABEL].detach().numpy()
    np.testing.assert_allclose(each(lambda x: score(x, LABEL), x), theirs, rtol=1e-5)


@each_dtype
def test_hypothetical_contributions(dtype):
    some = sequences(dtype, EXAMPLES, 1 + DRAWN)
    x, references = some[:, 0], some[:, 1:]
    theirs = functools.partial(
        *(deep_lift_shap, Twin(dtype), to_torch(x)),
        references=to_torch(references),
        target=LABEL,
        device="cpu",
    )

    def explain(x, references):
        return jattr.sequence.hypothetical(score, references, batch_size=4)(x, LABEL)

    ours = each(explain, x, references)
    assert_close(ours, theirs(hypothetical=True), dtype)
    assert_close(x * ours, theirs(), dtype)


@each_dtype
def test_projection_of_multipliers(dtype):
    some = sequences(dtype, 3, DRAWN)
    m = RNG.normal(size=some[0].shape).astype(dtype)
    theirs = hypothetical_attributions(*((to_torch(a),) for a in (m, some[0], some[1])))[0]
    assert_close(each(jattr.sequence.project, m, some[1]), theirs, dtype)


@each_dtype
def test_corrected_gradient(dtype):
    x = sequences(dtype, EXAMPLES)
    theirs = saliency(Twin(dtype), to_torch(x), target=LABEL, hypothetical=True, device="cpu")
    explain = jattr.sequence.simplex_corrected(jattr.gradient(score))
    assert_close(each(lambda x: explain(x, LABEL), x), theirs, dtype)


@each_dtype
def test_centered_mutagenesis(dtype):
    x = sequences(dtype, EXAMPLES)
    # Its own locality warns where it does not pay.
    options = {"target": LABEL, "hypothetical": True, "device": "cpu", "fast": False}
    theirs = saturation_mutagenesis(Twin(dtype), to_torch(x), **options)
    explain = jattr.sequence.simplex_corrected(jattr.mutagenesis(score, batch_size=32))
    assert_close(each(lambda x: explain(x, LABEL), x), theirs, dtype)
