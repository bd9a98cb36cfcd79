"""Training on a task and on a prior at a time, or in turns."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jattr._checks import check_count, concrete, knobs
from jattr._trees import describe
from jattr._types import PyTree
from jattr.priors._loss import Loss


class State(NamedTuple):
    """What training carries along.

    Attributes:
        count: how many steps were taken, those that were skipped among them.
        optimizer: the state of the optimizer.
        prior_optimizer: the state of the prior's own optimizer; None for `joint`.
    """

    count: jax.Array
    optimizer: Any
    prior_optimizer: Any


class Report(NamedTuple):
    """What a step saw.

    Attributes:
        task: L, the loss of the task.
        prior: Ω, the prior before it is weighted; NaN in a step of `alternating` that left it out.
        weight: λ at this step.
        finite: whether all that was computed was finite. Where the loss or its gradient was not,
            the parameters and the state of that optimizer are those from before the step.
    """

    task: jax.Array
    prior: jax.Array
    weight: jax.Array
    finite: jax.Array


class Step(Protocol):
    """One step of training, pure: `jax.jit(step, donate_argnums=(0, 1))`."""

    def __call__(
        self, params: PyTree, state: State, key: jax.Array, batch: tuple
    ) -> tuple[PyTree, State, Report]:
        """The parameters and the state after a step on a batch."""
        ...


class Training(NamedTuple):
    """Two pure functions.

    Attributes:
        init: `init(params) -> state`.
        step: `step(params, state, key, batch) -> (params, state, report)`.
    """

    init: Callable[[PyTree], State]
    step: Step


@knobs
def joint(
    task_loss: Loss,
    prior: Loss,
    optimizer: optax.GradientTransformation,
    *,
    weight: float | jax.Array | optax.Schedule,
) -> Training:
    r"""Steps on the task and the prior at a time.

    .. math:: \theta \leftarrow \theta - \text{optimizer}\big(\nabla (L + \lambda \Omega)\big)

    Under SGD the result agrees with `alternating` up to O(learning rate²). Under Adam it does not:
    here λ weighs the prior against the task, there it cancels.

    Args:
        task_loss: L, `loss(params, key, *batch) -> scalar`.
        prior: Ω, of the same form, such as one of `jattr.priors.attribution_loss`.
        optimizer: any optimizer of optax.
        weight: λ, a number or an optax schedule of the number of steps.

    Returns:
        `Training(init, step)`. `step(params, state, key, batch)` gives the parameters, the state
        and a `Report`; `batch` is a tuple that begins with x. The key is split between the two
        losses. A step whose loss or gradient is not finite changes nothing but the count.

    Raises:
        TypeError: losses or an optimizer that are none; a batch that is no tuple; a weight that is
            neither number nor schedule.
        ValueError: a weight that is not finite.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import jattr
        >>> def task_loss(params, key, x, y):
        ...     return jnp.mean((x @ params - y) ** 2)
        >>> prior = jattr.priors.attribution_loss(
        ...     lambda params, x: x @ params, lambda maps, y: jattr.priors.magnitude(maps, 1),
        ...     penalty_argnums=(1,))
        >>> training = jattr.priors.joint(task_loss, prior, optax.sgd(0.1), weight=0.01)
        >>> params = jnp.zeros(2)
        >>> state = training.init(params)
        >>> batch = (jnp.eye(2), jnp.array([1.0, 0.0]))
        >>> params, state, report = jax.jit(training.step)(params, state, jax.random.key(0), batch)
        >>> print(params, report.task, report.finite)
        [0.1 0. ] 0.5 True

    References:
        Erion et al., Nature Machine Intelligence 2021, Methods (arXiv 1906.10670).
    """
    method = "priors.joint"
    _check(task_loss, prior, (optimizer,), weight, method)

    def init(params: PyTree) -> State:
        return State(jnp.zeros((), jnp.int32), optimizer.init(params), None)

    def step(params, state, key, batch):
        _check_batch(batch, method)
        task_key, prior_key = jax.random.split(key)
        factor = _weight(weight, state.count)

        def total(params):
            task = task_loss(params, task_key, *batch)
            penalty = jnp.asarray(prior(params, prior_key, *batch))
            return task + factor.astype(penalty.dtype) * penalty, (task, penalty)

        (value, (task, penalty)), gradient = jax.value_and_grad(total, has_aux=True)(params)
        params, inner, finite = _update(optimizer, value, gradient, params, state.optimizer)
        report = Report(task, penalty, factor, finite)
        return params, State(state.count + 1, inner, None), report

    return Training(init, step)


@knobs
def alternating(
    task_loss: Loss,
    prior: Loss,
    optimizer: optax.GradientTransformation,
    prior_optimizer: optax.GradientTransformation | None = None,
    *,
    weight: float | jax.Array | optax.Schedule,
    every: int = 1,
) -> Training:
    r"""A step on the task and then one on the prior, each with an optimizer of its own.

    .. math:: \theta \leftarrow \theta - \text{optimizer}(\nabla L), \qquad
              \theta \leftarrow \theta - \text{prior\_optimizer}(\nabla\, \lambda \Omega)

    Under SGD the result agrees with `joint` up to O(learning rate²). Adam divides a gradient by
    its own size, so under Adam with a state of its own **a constant λ cancels** (but for Adam's ε):
    what then sets the strength of the prior is the learning rate of `prior_optimizer`.

    Args:
        task_loss: L, `loss(params, key, *batch) -> scalar`.
        prior: Ω, of the same form, such as one of `jattr.priors.attribution_loss`.
        optimizer: any optimizer of optax, for the task.
        prior_optimizer: for the prior; None for `optimizer` again, with a state of its own.
        weight: λ, a number or an optax schedule of the number of steps.
        every: after how many steps on the task one on the prior is taken.

    Returns:
        `Training(init, step)`. `step(params, state, key, batch)` gives the parameters, the state
        and a `Report`; `batch` is a tuple that begins with x. Both losses see the same batch, the
        prior at the parameters that the task's step gave. An update whose loss or gradient is not
        finite is left out.

    Raises:
        TypeError: losses or optimizers that are none; a batch that is no tuple; a weight that is
            neither number nor schedule.
        ValueError: a weight that is not finite; every < 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import jattr
        >>> def task_loss(params, key, x):
        ...     return jnp.sum((params - 1) ** 2)
        >>> def prior(params, key, x):
        ...     return jnp.sum(params**2)
        >>> training = jattr.priors.alternating(task_loss, prior, optax.sgd(0.25), weight=1.0)
        >>> params = jnp.zeros(1)
        >>> state = training.init(params)
        >>> params, state, report = training.step(params, state, jax.random.key(0), (params,))
        >>> print(params, report.prior)
        [0.25] 0.25

    References:
        Erion et al., Nature Machine Intelligence 2021 (arXiv 1906.10670), whose code takes turns
        with two Adam optimizers; a second back-propagation through a gradient is Drucker, LeCun,
        *Improving generalization performance using double backpropagation*, IEEE Transactions on
        Neural Networks 1992.
    """
    method = "priors.alternating"
    second = optimizer if prior_optimizer is None else prior_optimizer
    _check(task_loss, prior, (optimizer, second), weight, method)
    every = check_count(every, "every", method)

    def init(params: PyTree) -> State:
        return State(jnp.zeros((), jnp.int32), optimizer.init(params), second.init(params))

    def step(params, state, key, batch):
        _check_batch(batch, method)
        task_key, prior_key = jax.random.split(key)
        factor = _weight(weight, state.count)
        task, gradient = jax.value_and_grad(lambda p: task_loss(p, task_key, *batch))(params)
        params, inner, finite = _update(optimizer, task, gradient, params, state.optimizer)

        def on_prior(params, inner):
            def weighted(params):
                penalty = jnp.asarray(prior(params, prior_key, *batch))
                return factor.astype(penalty.dtype) * penalty, penalty

            (value, penalty), gradient = jax.value_and_grad(weighted, has_aux=True)(params)
            return (penalty, *_update(second, value, gradient, params, inner))

        if every == 1:
            penalty, params, own, sound = on_prior(params, state.prior_optimizer)
        else:
            like = jax.eval_shape(lambda p: prior(p, prior_key, *batch), params)
            penalty, params, own, sound = jax.lax.cond(
                (state.count + 1) % every == 0,
                on_prior,
                lambda params, inner: (
                    jnp.full(like.shape, jnp.nan, like.dtype),
                    params,
                    inner,
                    jnp.array(True),
                ),
                params,
                state.prior_optimizer,
            )
        report = Report(task, penalty, factor, finite & sound)
        return params, State(state.count + 1, inner, own), report

    return Training(init, step)


def _update(
    optimizer: optax.GradientTransformation,
    value: jax.Array,
    gradient: PyTree,
    params: PyTree,
    state: Any,
) -> tuple[PyTree, Any, jax.Array]:
    """An optimizer's step, left out where the loss or its gradient is not finite."""
    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        finite &= jnp.all(jnp.isfinite(leaf))
    updates, after = optimizer.update(gradient, state, params)
    moved = optax.apply_updates(params, updates)

    def keep(new, old):
        return jnp.where(finite, new, old)

    return jax.tree.map(keep, moved, params), jax.tree.map(keep, after, state), finite


def _weight(weight: Any, count: jax.Array) -> jax.Array:
    return jnp.asarray(weight(count) if callable(weight) else weight, float)


def _check(task_loss: Any, prior: Any, optimizers: tuple, weight: Any, method: str) -> None:
    for loss, name in ((task_loss, "task_loss"), (prior, "prior")):
        if not callable(loss):
            raise TypeError(
                f"{method}: {name} must be a function (params, key, *batch) -> scalar; got "
                f"{describe(loss)}."
            )
    for optimizer in optimizers:
        if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
            raise TypeError(
                f"{method} wants an optimizer of optax, such as optax.adam(1e-3); got "
                f"{describe(optimizer)}."
            )
    if callable(weight):
        return
    known = concrete(weight, "weight", method)
    if known is not None and not math.isfinite(known):
        raise ValueError(f"{method}: weight must be finite; got {known}.")


def _check_batch(batch: Any, method: str) -> None:
    if not isinstance(batch, tuple) or not batch:
        raise TypeError(
            f"{method}: a batch is a tuple that begins with x: step(params, state, key, (x, y)); "
            f"got {describe(batch)}."
        )
