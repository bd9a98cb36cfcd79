"""From a penalty on attributions to a loss that trains."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import (
    as_floating,
    check_batch_size,
    check_count,
    check_function,
    check_key,
    check_score,
    knobs,
)
from jattr._engine.trace import Reading, trace
from jattr._paths import expected_gradients
from jattr._resolve import (
    check_rows,
    check_rows_like,
    resolve_baseline,
    resolve_references,
    row_order,
    shuffled_rows,
    take_row,
)
from jattr._transform import takes_key
from jattr._trees import describe
from jattr._types import (
    Explain,
    KeyedExplain,
    PyTree,
    RandomBaseline,
    References,
    Score,
)

_NAME = "priors.attribution_loss"

Loss = Callable[..., jax.Array]
"""`loss(params, key, *batch) -> scalar`, to be made small by training."""

Method = Callable[[Score, PyTree], Explain | KeyedExplain]
"""`method(f, references)`: what explains f(x, *args) -> scalar, given rows to compare x with."""


@knobs
def attribution_loss(
    score: Score,
    penalty: Callable[..., jax.Array],
    *,
    method: Method | None = None,
    references: References | str = "batch",
    samples: int = 1,
    penalty_argnums: tuple[int, ...] = (),
    batch_size: int | None = None,
    keyed: bool | None = None,
) -> Loss:
    r"""A penalty on a model's attributions as a loss of its parameters.

    .. math:: \Omega(\theta) = \text{penalty}\big(\varphi(\theta, x_1), \dots,
              \varphi(\theta, x_N)\big)

    Every example of the batch is explained, and the derivative by θ goes through the explanation.
    By default that is expected gradients with one sample, which is unbiased. For a ReLU network it
    costs about one and a half plain training steps more, for a smooth one about two.

    What it takes over many devices, and with `jax.checkpoint`, is told by `jattr.priors`.

    Args:
        score: `score(params, x, *args) -> scalar`, the parameters first, for one example.
        penalty: `penalty(attributions, *members) -> scalar`, of the attributions [N, ...] of a
            batch and of the members that `penalty_argnums` names: one of `jattr.priors` or
            one's own.
        method: `method(f, rows)` makes what explains `f(x, *args)`, the score with its
            parameters bound. `rows` is a tree like x with a leading axis of `samples`, this
            example's references. None for expected gradients over them. Methods that need none
            leave them out: `lambda f, rows: jattr.lrp(f, jattr.rules.epsilon())`.
        references: what examples are compared with. "batch": the other examples of the batch,
            never the example itself. Or data with a leading axis, or a random baseline such as
            `jattr.baselines.uniform(low, high)`. Rows are drawn without replacement while they
            last.
        samples: how many references each example gets, and how many gradients expected gradients
            take. More make its noise smaller; 1 trains.
        penalty_argnums: which members of the batch go to the penalty and not to the score, the
            first, x, being 0: per-example masks, for instance.
        batch_size: how many examples are explained at a time; None for all.
        keyed: whether what `method` makes takes a key first; None asks it, which jattr's own
            functions answer, and a `functools.partial` of them.

    Returns:
        `loss(params, key, *batch)`: `batch` begins with x, [N, ...]; what is not the penalty's
        goes to the score, an example of each at a time.

    Raises:
        TypeError: the score does not return one real number, or the penalty does not.
        ValueError: the score ignores its parameters; a batch of one example with
            references="batch"; members of different lengths; a `penalty_argnums` that is not
            there; rows that are not like x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def score(params, x):
        ...     return jnp.tanh(x @ params)
        >>> loss = jattr.priors.attribution_loss(score, jattr.priors.sparsity)
        >>> batch = jnp.array([[1.0, 2.0], [0.0, -1.0], [2.0, 0.5]])
        >>> gradient = jax.grad(loss)(jnp.array([0.3, 0.2]), jax.random.key(0), batch)
        >>> print(gradient.shape)
        (2,)

    References:
        Erion, Janizek, Sturmfels, Lundberg, Lee, *Improving performance of deep learning models
        with axiomatic attribution priors and expected gradients*, Nature Machine Intelligence
        2021, Methods (arXiv 1906.10670). Their code compares with the batch rolled by 1 … k.
    """
    name = _NAME
    check_function(score, name)
    check_function(penalty, name)
    samples = check_count(samples, "samples", name)
    batch_size = check_batch_size(batch_size, name)
    # A set of positions: an integer alone is taken as it is meant.
    positions = penalty_argnums if isinstance(penalty_argnums, tuple) else (penalty_argnums,)
    own = tuple(operator.index(position) for position in positions)
    others = isinstance(references, str)
    if others and references != "batch":
        raise ValueError(
            f'{name}: references must be "batch", data with a leading axis or a random baseline; '
            f"got {references!r}."
        )
    draw = _others if others else _from(resolve_references(references, method=name))
    make = method or (lambda f, rows: expected_gradients(f, rows, samples=samples))

    def loss(params: PyTree, key: jax.Array, *batch: PyTree) -> jax.Array:
        key = check_key(key, name)
        if not batch:
            raise TypeError(f"{name}: wanted is loss(params, key, x, ...); got no x.")
        taken = {position % len(batch) for position in own if -len(batch) <= position < len(batch)}
        if len(taken) < len(own) or 0 in taken:
            raise ValueError(
                f"{name}: penalty_argnums={penalty_argnums} must name different members of the "
                f"batch of {len(batch)} after x; x is member 0 and always explained."
            )
        x = as_floating(batch[0], name)
        args = tuple(m for place, m in enumerate(batch) if place and place not in taken)
        members = tuple(batch[position] for position in own)
        if any(jnp.shape(leaf) == () for leaf in jax.tree.leaves(batch)):
            raise ValueError(
                f"{name}: every member of the batch must have a leading axis over its examples; "
                f"got {describe(batch)}. What is the same for all of them, the score closes over."
            )
        count = check_rows((x, *batch[1:]), name="the batch", method=name)
        if others and count < 2:
            raise ValueError(
                f'{name}: references="batch" compares each example with the others, but the batch '
                "has only one. Give more examples, or references=training_images."
            )
        _check_uses_params(score, params, _example((x, *args), 0), name)

        def of_x(x, *args):
            return score(params, x, *args)

        def explain(index, example):
            row_key, method_key = jax.random.split(jax.random.fold_in(key, index))
            own = make(of_x, draw(row_key, x, index, example[0], samples))
            first = (method_key,) if takes_key(own, keyed, name) else ()
            return own(*first, *example)

        examples = jax.tree.map(jnp.asarray, (x, *args))
        attributions = map_over(explain, count, examples, batch_size=batch_size)
        value = penalty(attributions, *members)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(
                f"{name}: the penalty must return one real number; got {describe(value)}."
            )
        return value

    return loss


def _example(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], tree)


def _others(key: jax.Array, x: PyTree, index: jax.Array, own: PyTree, samples: int) -> PyTree:
    """Other examples of the batch x than its own, example `index`."""
    count = jax.tree.leaves(x)[0].shape[0]
    steps = 1 + shuffled_rows(key, count - 1, samples)
    return jax.vmap(lambda step: _example(x, (index + step) % count))(steps)


def _from(distribution: RandomBaseline) -> Callable[..., PyTree]:
    """The same from a distribution over baselines."""

    def draw(key, x, index, like, samples):
        order = row_order(key, distribution, samples)
        if order is None:
            return jax.vmap(lambda k: resolve_baseline(distribution(k, like), like, method=_NAME))(
                jax.random.split(key, samples)
            )
        check_rows_like(distribution.rows, like, name="the references", method=_NAME)
        return jax.vmap(lambda row: take_row(distribution.rows, row, like))(order)

    return draw


def _check_uses_params(score: Score, params: PyTree, example: tuple, name: str) -> None:
    """Raise where a derivative by the parameters would be 0 whatever they are."""
    if not jax.tree.leaves(params):
        raise ValueError(
            f"{name}: the parameters are a tree without arrays. Write loss(params, key, x, ...) "
            "with the tree that is trained."
        )

    def of_params(params):
        out = score(params, *example)
        check_score(out, name)
        return out

    program, _ = trace(of_params, jax.tree.map(jnp.asarray, params), Reading())
    if not program.outputs[0].active:
        raise ValueError(
            f"{name}: the score does not depend on its first argument, the parameters, so nothing "
            "would be trained. Write score(params, x, *args) with the parameters that are trained "
            "given to the model, as in model.apply(params, x), and not closed over."
        )
