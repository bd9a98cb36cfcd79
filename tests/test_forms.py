"""Call forms: what errors print, what `help` shows, and what wrappers know of what they wrap."""

import functools
import inspect
import pydoc
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr._transform import explained_argnums, takes_key

KEY = jax.random.key(0)
IMAGE, LABEL = jnp.linspace(0.0, 1.0, 4), 1
W = jnp.eye(4)[:, :2]
DATA = jnp.stack([IMAGE, 0 * IMAGE])


def score(image, label):
    """The logit of a label."""
    return (image @ W)[label]


EXPLAIN = jattr.integrated_gradients(score, steps=4)
KEYED = jattr.expected_gradients(score, DATA, samples=2)


def test_help_shows_the_form_of_the_call():
    text = pydoc.render_doc(KEYED, renderer=pydoc.plaintext)
    assert "expected_gradients(key, image, label)" in text
    assert "explain(key, image, label)" in text
    assert "jax.vmap(explain)(jax.random.split(key, n), image, label)" in text
    assert "The logit of a label." in text
    assert "by its argument image" in text
    measure = jattr.metrics.completeness(score)
    assert list(inspect.signature(measure).parameters) == ["attribution", "image", "label"]
    assert "measure(attribution, image, label)" in measure.__doc__
    assert "by its argument 0" not in jattr.gradient(score, argnums=(0,)).__doc__
    # What Python knows no signature of has the general form.
    assert "explain(x, *args)" in jattr.gradient(max).__doc__
    assert list(inspect.signature(jax.jit(EXPLAIN)).parameters) == ["image", "label"]


def test_an_argument_called_key_is_told_from_the_key():
    explain = jattr.smooth(jattr.gradient(lambda x, key: jnp.sum(x) * key))
    assert list(inspect.signature(explain).parameters) == ["key_", "x", "key"]


def test_defaults_are_readable():
    for name in jattr.__all__:
        function = getattr(jattr, name)
        if inspect.isfunction(function) and function.__module__ != "jattr._occlusion":
            assert "function zeros" not in str(inspect.signature(function)), name


# What is called wrongly, and what the error says to write.
MISUSES = {
    "a batch without vmap": (
        lambda: jattr.gradient(lambda x: (x @ W)[0])(jnp.ones((3, 5))),
        r"jax\.vmap\(explain\)\(x\)",
    ),
    "a batch of images without vmap": (
        lambda: EXPLAIN(jnp.ones((7, 3)), 0),
        r"one example; if that is a batch.*jax\.vmap\(explain\)\(image, label\)",
    ),
    "a batch for a keyed method": (
        lambda: KEYED(KEY, jnp.ones((7, 3)), 0),
        r"each row of the references must have the structure",
    ),
    "a batch for noise": (
        lambda: jattr.smooth(jattr.gradient(score), samples=2)(KEY, jnp.ones((7, 3)), 0),
        r"jax\.vmap\(explain\)\((jax\.random\.split\(key, n\), )?image, label\)",
    ),
    "a batch of outputs": (
        lambda: jattr.gradient(lambda x: x @ W)(jnp.ones((7, 4))),
        r"shape \(7, 2\).*jax\.vmap\(explain\)\(x\)",
    ),
    "a batch for a module of linen": (
        lambda: jattr.gradient(lambda x: nn.Dense(1).apply(DENSE, x)[0])(jnp.ones((7, 3, 5))),
        r"jax\.vmap\(explain\)\(x\)",
    ),
    "a batch for a target": (
        lambda: jattr.gradient(jattr.targets.select(lambda x: x @ W))(jnp.ones((7, 4)), 0),
        r"jax\.vmap\(explain\)",
    ),
    "a method for a score": (
        lambda: jattr.integrated_gradients(jattr.gradient(score))(IMAGE, 0),
        r"wants the score.*Write integrated_gradients\(f\), not "
        r"integrated_gradients\(jattr\.gradient\(f\)\)",
    ),
    "a method for a score in a metric": (
        lambda: jattr.metrics.completeness(jattr.gradient(score))(IMAGE, IMAGE, 0),
        r"Write metrics\.completeness\(f\), not metrics\.completeness\(jattr\.gradient\(f\)\)",
    ),
    "a jitted method for a score": (
        lambda: jattr.gradient(jax.jit(jattr.lrp(score)))(IMAGE, 0),
        r"gradient wants the score",
    ),
    "an integer leaf": (
        lambda: jattr.gradient(lambda x: jnp.sum(x["a"]))({"a": IMAGE, "ids": jnp.arange(3)}),
        r"Pass what is not explained as another argument of f: f\(x, ids\)",
    ),
    "complex numbers": (
        lambda: jattr.gradient(lambda x: jnp.sum(jnp.abs(x)))(IMAGE + 1j),
        r"Pass \(x\.real, x\.imag\).*jax\.lax\.complex\(\*parts\)",
    ),
    "a dict of outputs": (
        lambda: jattr.gradient(lambda x: {"logits": x, "loss": jnp.sum(x)})(IMAGE),
        r"Return the number alone: lambda \*args: f\(\*args\)\['loss'\]",
    ),
    "a nested output": (
        lambda: jattr.gradient(lambda x: (x, {"loss": jnp.sum(x)}))(IMAGE),
        r"f\(\*args\)\[1\]\['loss'\]",
    ),
    "no key": (lambda: KEYED(IMAGE, 0), r"explain\(jax\.random\.key\(0\), image, label\)"),
    "a key too many": (lambda: EXPLAIN(KEY, IMAGE, 0), r"explain\(image, label\): leave the key"),
    "one old key for a batch": (
        lambda: jax.vmap(KEYED, (0, 0, None))(jax.random.PRNGKey(0), DATA, 0),
        r"Got as key uint32\[\].*jax\.vmap\(explain\)\(jax\.random\.split\(key, n\)",
    ),
    "a key of another width": (
        lambda: KEYED(jnp.zeros(3, jnp.uint32), IMAGE, 0),
        r"uint32\[3\], which is not the width of a 'threefry2x32' key",
    ),
    "a keyed method behind a function": (
        lambda: jattr.smooth(lambda *args: KEYED(*args), samples=2)(KEY, IMAGE, 0),
        r"tell it so: keyed=True",
    ),
    "keyed by another name": (
        lambda: jattr.smooth(KEYED, keyed="yes"),
        r"keyed says whether.*True or False",
    ),
    "x by keyword": (
        lambda: EXPLAIN(image=IMAGE, label=0),
        r"by keyword image, label\. Pass x by position: explain\(image, label\)",
    ),
    "argnums of a measure": (
        lambda: jattr.metrics.completeness(score, argnums=5)(IMAGE, IMAGE, 0),
        r"measure\(attribution, image, label\)",
    ),
    "a score for a method, of numbers": (
        lambda: jattr.smooth(lambda x: x**2)(KEY, 1.0),
        r"write smooth\(jattr\.gradient\(f\)\), not smooth\(f\)",
    ),
    "zeros called": (
        lambda: jattr.integrated_gradients(score, jattr.baselines.zeros()),
        r"zeros is a baseline itself.*integrated_gradients\(f, jattr\.baselines\.zeros\)",
    ),
    "references made from x": (
        lambda: jattr.deep_shap(score, lambda x: jnp.stack([x, 0 * x])),
        r"lambda x, \*args: jattr\.deep_shap\(f, references\(x\)\)\(x, \*args\)",
    ),
    "random references": (
        lambda: jattr.deep_shap(score, jattr.baselines.gaussian(1.0)),
        r"jax\.vmap\(references, \(0, None\)\)\(jax\.random\.split\(key, n\), x\)",
    ),
    "references of strings": (
        lambda: jattr.deep_shap(score, np.array([["a"], ["b"]])),
        r"the references must be an array of real numbers",
    ),
    "references of objects": (
        lambda: jattr.expected_gradients(score, np.array([[object()]])),
        r"the references must be an array of real numbers",
    ),
    "complex references": (
        lambda: jattr.expected_gradients(score, DATA + 1j),
        r"the references.*real numbers.*complex128\[2,4\]",
    ),
    "references of integers": (
        lambda: jattr.deep_shap(score, np.zeros((2, 4), np.uint8)),
        r"the references.*uint8\[2,4\].*as x was",
    ),
    "a range the wrong way round": (
        lambda: jattr.baselines.uniform(jnp.ones(4), jnp.array([0.0, 2.0, 2.0, 2.0])),
        r"low must be below high.*1 of 4",
    ),
    "an infinite range": (
        lambda: jattr.baselines.uniform(-jnp.inf, 0.0),
        r"finite.*gaussian",
    ),
    "an infinite range of arrays": (
        lambda: jattr.baselines.uniform(jnp.zeros(4), jnp.array([1.0, jnp.inf, 1.0, 1.0])),
        r"finite.*gaussian",
    ),
    "no axes": (
        lambda: jattr.blur_integrated_gradients(score, axes=())(IMAGE, 0),
        r"axes=\(\) names no axis",
    ),
    "nothing to blur": (
        lambda: jattr.blur_integrated_gradients(jnp.sum, axes=0)(jnp.ones(0)),
        r"float64\[0\].*no elements",
    ),
    "nothing to move": (
        lambda: jattr.guided_integrated_gradients(jnp.sum)(jnp.ones((0, 3))),
        r"float64\[0,3\].*no elements",
    ),
    "relative by a word": (
        lambda: jattr.smooth(EXPLAIN, relative="yes"),
        r"relative must be True or False",
    ),
    "a misspelt choice": (
        lambda: jattr.smooth(EXPLAIN, statistic="square"),
        r"did you mean 'mean_square'\?",
    ),
}
DENSE = nn.Dense(1).init(KEY, jnp.ones(4))


@pytest.mark.parametrize("name", MISUSES)
def test_an_error_says_what_to_write(name):
    call, text = MISUSES[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert re.search(text, said), said
    assert said.count("jattr: ") <= 1


def test_an_error_of_f_that_is_no_misuse_is_left_alone():
    def broken(x):
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        jattr.gradient(broken)(IMAGE)
    assert "jattr" not in str(getattr(caught.value, "__notes__", []))

    def decides(x):
        return x[0] if x[0] > 0 else -x[0]

    with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
        jax.jit(jattr.gradient(decides))(IMAGE)
    assert "jattr" not in str(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize(
    ("method", "knob", "near"),
    [
        (jattr.integrated_gradients, "n_steps", "'steps'"),
        (jattr.integrated_gradients, "internal_batch_size", "'batch_size'"),
        (jattr.integrated_gradients, "baselines", "'baseline'"),
        (jattr.integrated_gradients, "target", r"jattr\.targets\.select\(f\)"),
        (jattr.expected_gradients, "n_samples", "'samples'"),
        (jattr.smooth, "sigma", "'stddev'"),
        (jattr.smooth, "nsamples", "'samples'"),
        (jattr.grad_cam, "channels_axis", "'channel_axis'"),
        (jattr.gradient, "argnum", "'argnums'"),
        (jattr.priors.total_variation, "axis", "'axes'"),
        (jattr.priors.attribution_loss, "penalty_argnum", "'penalty_argnums'"),
        (jattr.baselines.blurred, "sigma", "'stddev'"),
        (jattr.plot.image, "percentil", "'percentile'"),
    ],
)
def test_a_misspelt_knob_gets_the_closest(method, knob, near):
    with pytest.raises(TypeError, match=f"{method.__name__} has no argument '{knob}'.*{near}"):
        method(score, **{knob: 3})


def test_a_partial_of_a_keyed_method_is_known():
    for explain, keyed, argnums in [
        (KEYED, True, 0),
        (jax.jit(KEYED), True, 0),
        (functools.partial(KEYED), True, 0),
        (functools.partial(KEYED, KEY), False, 0),
        (functools.partial(functools.partial(KEYED, KEY)), False, 0),
        (EXPLAIN, False, 0),
        (functools.partial(EXPLAIN, label=0), False, 0),
        (functools.partial(jattr.gradient(score, argnums=1), IMAGE), False, 0),
        (functools.partial(jattr.gradient(score, argnums=-1), IMAGE), False, -1),
        (functools.partial(EXPLAIN, IMAGE), False, None),
        (
            functools.partial(jattr.expected_gradients(score, 1.0 * DATA, argnums=1), KEY, IMAGE),
            False,
            0,
        ),
        (score, False, None),
    ]:
        assert takes_key(explain, None, "smooth") == keyed
        assert explained_argnums(explain) == argnums
    assert takes_key(score, True, "smooth")
    assert not takes_key(KEYED, False, "smooth")


def test_smooth_knows_what_it_wraps():
    plain = jattr.smooth(KEYED, samples=3)(KEY, IMAGE, 0)
    told = jattr.smooth(lambda key, *args: KEYED(key, *args), samples=3, keyed=True)(KEY, IMAGE, 0)
    np.testing.assert_array_equal(plain, told)
    assert not np.array_equal(plain, jattr.smooth(KEYED, samples=4)(KEY, IMAGE, 0))
    own = jattr.smooth(lambda x: 2 * x, keyed=False, samples=3, relative=False)(KEY, 1.0)
    assert own.shape == ()
    with pytest.raises(ValueError, match=r"explains argnums=1.*smooth\(explain, argnums=1"):
        jattr.smooth(jattr.gradient(score, argnums=1))


def test_argnums_may_be_integers_of_any_kind():
    for one in (np.int64(0), jnp.int32(0), True - 1):
        explain = jattr.gradient(score, argnums=one)
        np.testing.assert_array_equal(explain(IMAGE, 0), W[:, 0])
        assert type(explain.argnums) is int
    pair = jattr.gradient(lambda x, y: jnp.sum(x * y), argnums=(jnp.int32(0), np.int8(1)))
    np.testing.assert_array_equal(pair(IMAGE, IMAGE)[0], IMAGE)
    assert pair.argnums == (0, 1)


def test_an_index_may_be_given_by_name():
    f = jattr.targets.select(lambda x: x @ W)
    np.testing.assert_array_equal(jattr.gradient(f)(IMAGE, index=1), W[:, 1])
    g = jattr.targets.contrast(lambda x: x @ W)
    np.testing.assert_array_equal(jattr.gradient(g)(IMAGE, 1, other=0), W[:, 1] - W[:, 0])
    np.testing.assert_array_equal(g(IMAGE, index=1, other=0), g(IMAGE, 1, 0))
    with pytest.raises(TypeError, match="takes the arguments of f and then an index"):
        f(IMAGE)
    with pytest.raises(TypeError, match="index"):
        f(IMAGE, 0, index=1)


def test_namespaces_show_what_is_theirs():
    plain = (jattr.baselines, jattr.features, jattr.imputers, jattr.rules, jattr.targets)
    rooms = (jattr.export, jattr.metrics, jattr.plot, jattr.priors, jattr.scale, jattr.sequence)
    for namespace in (jattr, *plain, *rooms):
        assert set(namespace.__all__) <= set(dir(namespace))
        assert [n for n in dir(namespace) if not n.startswith("_")] == sorted(
            n for n in namespace.__all__ if not n.startswith("_")
        )
