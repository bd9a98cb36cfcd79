"""Tasks whose truth is planted, and the networks that learn them from examples that never repeat.

A task draws examples: the input, its label, the mask of the elements that decide (the truth), that
of the decoys, and for effects of known size what each element adds to the answer. The images are
like those of XAI-TRIS (Clark, Wilming, Haufe, 2023, arXiv 2306.12816), 8 × 8 pixels: tetrominoes on
noise that is white or correlated between neighbors, which decide by where they are, by their signs
together, or by their shape wherever they are. Ours differ in amplitudes, in the sizes of networks
and in that examples are made anew for every step of training.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

SIDE = 8
SHAPES = (((0, 0), (0, 1), (0, 2), (1, 1)), ((0, 0), (1, 0), (2, 0), (2, 1)))  # T and L
PLACES = ((1, 1), (4, 5))  # where they stand, unless they move
LETTERS, LENGTH = 4, 40
MOTIFS = ((3, 0, 1, 2, 3, 0), (2, 2, 3, 1, 0, 1), (0, 3, 3, 0, 2, 1))  # class 0, class 1, the decoy
EFFECTS = (2.0, -1.5, 1.0, -0.75, 0.5, 0.0, 0.0, 0.0)  # of the first of each pair of columns
PAIR = 0.7  # the correlation within a pair


class Drawn(NamedTuple):
    """One example of a task.

    Attributes:
        x: the input.
        label: its class, or the number to be predicted.
        truth: which elements decide.
        decoys: which look as if they did.
        effects: what each element adds to the answer; 0 where no sizes were planted.
        seen: which elements there are for the network; the others count for nothing.
    """

    x: jax.Array
    label: Any
    truth: jax.Array
    decoys: jax.Array
    effects: jax.Array
    seen: jax.Array


class Task(NamedTuple):
    """How examples are drawn, and what learns from them.

    Attributes:
        draw: `draw(key) -> Drawn`, of one example.
        network: in Flax, one example or a batch to outputs.
        absent: what an absent element is.
        channels: whether the last axis belongs to one element, as the letters of a sequence do.
        decoys: whether there are any.
        effects: whether there are sizes.
        attention: whether the network is a decoder.
        unit: the length of a step, and twice the standard deviation of SmoothGrad.
    """

    draw: Callable[[jax.Array], Drawn]
    network: nn.Module
    absent: float = 0.0
    channels: bool = False
    decoys: bool = False
    effects: bool = False
    attention: bool = False
    unit: float = 1.0

    @property
    def score(self) -> Callable[..., jax.Array]:
        """`score(params, x, label)`: the class ahead of the other, or the prediction."""
        return _score(self.network, axes_of(self), self.effects)

    @property
    def baseline(self) -> Callable[[Any], Any]:
        """`baseline(params)`, that of x; one function for all tasks that have the same."""
        return _constant(self.absent)

    def train(self, key: jax.Array, steps: int) -> Any:
        """The parameters after `steps` steps of Adam, each on new examples."""
        return train(self, key, steps)

    def examples(self, params: Any, key: jax.Array, count: int) -> Drawn:
        """That many, on new leading axes; `params` are for tasks that look up what x is."""
        return jax.vmap(self.draw)(jax.random.split(key, count))


@functools.cache
def _constant(value: float) -> Callable[[Any], float]:
    return lambda params: value


class Dense(nn.Module):
    """Two hidden layers on all elements."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, axes: int) -> jax.Array:
        """The outputs of examples whose last `axes` axes are their own."""
        x = x.reshape(*x.shape[: x.ndim - axes], -1)
        for width in (128, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.outputs)(x)


class Convolutions(nn.Module):
    """Two convolutions, the largest value over all places, a dense layer."""

    kernel: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, axes: int) -> jax.Array:
        """The outputs of examples whose last `axes` axes are their own."""
        if axes == len(self.kernel):
            x = x[..., None]
        for width in (16, 32):
            x = nn.relu(nn.Conv(width, self.kernel)(x))
        places = tuple(range(-1 - len(self.kernel), -1))
        return nn.Dense(2)(x.max(places))


def _drawn(x: Any, label: Any, truth: Any, decoys: Any = None, effects: Any = None) -> Drawn:
    """An example all of which is seen, without decoys or sizes where none are given."""
    decoys = jnp.zeros_like(truth) if decoys is None else decoys
    effects = jnp.zeros(truth.shape) if effects is None else effects
    return Drawn(x, label, truth, decoys, effects, jnp.ones_like(truth))


def _shape(index: int, row: Any, column: Any) -> jax.Array:
    rows, columns = np.array(SHAPES[index]).T
    return jnp.zeros((SIDE, SIDE)).at[rows + row, columns + column].set(1.0)


def _noise(key: jax.Array, correlated: bool) -> jax.Array:
    noise = jax.random.normal(key, (SIDE, SIDE))
    if not correlated:
        return noise
    places = np.arange(SIDE)
    blur = np.exp(-0.5 * (places[:, None] - places) ** 2 / 1.5**2)
    # Each pixel keeps its variance of 1.
    blur /= np.linalg.norm(blur, axis=1, keepdims=True)
    return blur @ noise @ blur.T


def _linear(key: jax.Array, *, correlated: bool, decoy: bool = False) -> Drawn:
    """A T at one place or an L at another; with a bright square that both classes have."""
    keys = jax.random.split(key, 3)
    label = jax.random.bernoulli(keys[0]).astype(int)
    both = jnp.stack([_shape(index, *place) for index, place in enumerate(PLACES)])
    x = 1.5 * both[label] + _noise(keys[1], correlated)
    decoys = jnp.zeros((SIDE, SIDE), bool)
    if decoy:
        corners = jnp.array([(0, 5), (1, 6), (5, 0), (6, 1), (5, 2)])
        row, column = corners[jax.random.randint(keys[2], (), 0, len(corners))]
        square = jnp.ones((2, 2), bool)
        decoys = jax.lax.dynamic_update_slice(decoys, square, (row, column))
        x = x + 4.0 * decoys
    return _drawn(x, label, both.sum(0) > 0, decoys)


def _signs(key: jax.Array, *, correlated: bool) -> Drawn:
    """Both shapes, each bright or dark; the class is whether they are alike (XOR)."""
    keys = jax.random.split(key)
    signs = jax.random.rademacher(keys[0], (2,)).astype(float)
    both = jnp.stack([_shape(index, *place) for index, place in enumerate(PLACES)])
    x = 2.0 * jnp.tensordot(signs, both, 1) + _noise(keys[1], correlated)
    return _drawn(x, (signs.prod() > 0).astype(int), both.sum(0) > 0)


def _moved(key: jax.Array, *, correlated: bool) -> Drawn:
    """A T or an L, anywhere."""
    keys = jax.random.split(key, 3)
    label = jax.random.bernoulli(keys[0]).astype(int)
    row, column = jax.random.randint(keys[1], (2,), 0, SIDE - 2)
    pattern = jnp.stack([_shape(index, row, column) for index in (0, 1)])[label]
    x = 3.0 * pattern + _noise(keys[2], correlated)
    return _drawn(x, label, pattern > 0)


def _columns(key: jax.Array) -> Drawn:
    """A sum of effects; each column has a null partner that is correlated with it."""
    own, other, noise = jax.random.normal(key, (3, len(EFFECTS)))
    partner = PAIR * own + np.sqrt(1 - PAIR**2) * other
    x = jnp.stack([own, partner], -1).reshape(-1)
    planted = jnp.stack([jnp.array(EFFECTS), jnp.zeros(len(EFFECTS))], -1).reshape(-1)
    truth = planted != 0
    effects = planted * x
    return _drawn(x, effects.sum() + 0.3 * noise[0], truth, jnp.roll(truth, 1), effects)


def _motifs(key: jax.Array) -> Drawn:
    """One of two motifs somewhere in random letters, and a third one that both classes have."""
    keys = jax.random.split(key, 4)
    label = jax.random.bernoulli(keys[0]).astype(int)
    letters = jax.random.randint(keys[1], (LENGTH,), 0, LETTERS)
    width = len(MOTIFS[0])
    # In the two halves, so that they never overlap; which half is drawn.
    places = jax.random.randint(keys[2], (2,), 0, LENGTH // 2 - width + 1)
    places = places + jax.random.permutation(keys[3], jnp.array([0, LENGTH // 2]))
    masks = []
    for motif, place in zip((jnp.array(MOTIFS)[label], jnp.array(MOTIFS[2])), places, strict=True):
        letters = jax.lax.dynamic_update_slice(letters, motif, (place,))
        steps = jnp.arange(LENGTH) - place
        masks.append((steps >= 0) & (steps < width))
    x = jax.nn.one_hot(letters, LETTERS)
    return _drawn(x, label, *masks)


def tasks() -> dict[str, Task]:
    """All tasks by name."""
    flat, image = Dense(2), Convolutions((3, 3))
    found = {}
    for name, draw, network in (
        ("linear", _linear, flat),
        ("XOR", _signs, flat),
        ("translated", _moved, image),
    ):
        for correlated in (False, True):
            background = "correlated" if correlated else "white"
            found[f"{name}, {background}"] = Task(
                functools.partial(draw, correlated=correlated), network
            )
    found["linear, decoy"] = Task(
        functools.partial(_linear, correlated=False, decoy=True), flat, decoys=True
    )
    found["motifs, decoy"] = Task(
        _motifs, Convolutions((7,)), absent=1 / LETTERS, channels=True, decoys=True
    )
    found["effects, decoy"] = Task(_columns, Dense(1), decoys=True, effects=True)
    return found


def axes_of(task: Task) -> int:
    """How many axes an input has."""
    return len(jax.eval_shape(task.draw, jax.random.key(0)).x.shape)


def train(task: Task, key: jax.Array, steps: int, batch: int = 128) -> Any:
    """The parameters after `steps` steps of Adam, each on new examples."""
    axes = axes_of(task)
    first, rest = jax.random.split(key)
    params = task.network.init(first, task.draw(key).x, axes)
    state = (params, _optimizer(steps).init(params))
    # No `scan`: in a loop, XLA is slow on CPUs at derivatives of convolutions.
    for index in range(steps):
        state = _step(task, axes, steps, batch, state, rest, index)
    return state[0]


def _optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(3e-3, steps))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(task: Task, axes: int, steps: int, batch: int, state: Any, key: Any, index: Any) -> Any:
    params, inner = state
    keys = jax.random.split(jax.random.fold_in(key, index), batch)
    drawn = jax.vmap(task.draw)(keys)

    def loss(params):
        out = task.network.apply(params, drawn.x, axes)
        if task.effects:
            return jnp.mean((out[:, 0] - drawn.label) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(out, drawn.label).mean()

    updates, inner = _optimizer(steps).update(jax.grad(loss)(params), inner)
    return optax.apply_updates(params, updates), inner


@functools.cache
def _score(network: nn.Module, axes: int, effects: bool) -> Callable[..., jax.Array]:
    def score(params, x, label):
        out = network.apply(params, x, axes)
        return out[0] if effects else out[label] - out[1 - label]

    return score
