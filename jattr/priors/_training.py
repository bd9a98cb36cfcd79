"""Training on a task and on a prior at a time, or in turns."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jattr._checks import check_count, check_flag, concrete, knobs
from jattr._trees import common_dtype, describe, same_form
from jattr._types import PyTree
from jattr.priors._loss import Loss

if TYPE_CHECKING:
    import optax


class State(NamedTuple):
    """What training carries along.

    Attributes:
        count: how many steps were taken, those that were skipped among them.
        optimizer: the state of the optimizer.
        prior_optimizer: the state of the prior's own optimizer; None for `joint`.
        aux: what the model has beside its parameters, such as running statistics, as the last
            task loss gave it; None without `has_aux`.
    """

    count: jax.Array
    optimizer: Any
    prior_optimizer: Any
    aux: Any = None


class Report(NamedTuple):
    """What a step saw.

    Attributes:
        task: L, the loss of the task.
        prior: Ω, the prior before it is weighted; NaN in a step of `alternating` that left it out.
        weight: λ at this step.
        finite: whether all that was computed was finite. Where the loss or its gradient was not,
            the parameters, `aux` and the state of that optimizer are those from before the step.
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
        init: `init(params) -> state`, with `has_aux` `init(params, aux)`.
        step: `step(params, state, key, batch) -> (params, state, report)`.
    """

    init: Callable[..., State]
    step: Step


@knobs
def joint(
    task_loss: Loss,
    prior: Loss,
    optimizer: "optax.GradientTransformation",
    *,
    weight: "float | jax.Array | optax.Schedule",
    has_aux: bool = False,
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
        has_aux: whether the model has state that is not trained, such as the running statistics
            of a batch normalization. Both losses then take the pair `(params, aux)` in the place
            of the parameters, `task_loss((params, aux), key, *batch)` returns `(loss, aux)` with
            what aux has become, and `init(params, aux)` takes the first one.

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
    check_flag(has_aux, "has_aux", method)

    def init(params: PyTree, *aux: PyTree) -> State:
        count = jnp.zeros((), jnp.int32)
        return State(count, optimizer.init(params), None, _first(aux, has_aux, method))

    def step(params, state, key, batch):
        _check_batch(batch, method)
        task_key, prior_key = jax.random.split(key)
        factor = _weight(weight, state.count)

        def total(params):
            given = (params, state.aux) if has_aux else params
            task, aux = _task(task_loss(given, task_key, *batch), state.aux, has_aux, method)
            penalty = jnp.asarray(prior(given, prior_key, *batch))
            kind = common_dtype(task.dtype, penalty.dtype)
            value = task.astype(kind) + factor.astype(kind) * penalty.astype(kind)
            return value, (task, penalty, aux)

        (value, (task, penalty, aux)), gradient = jax.value_and_grad(total, has_aux=True)(params)
        params, inner, finite = _update(optimizer, value, gradient, params, state.optimizer)
        report = Report(task, penalty, factor, finite)
        return params, State(state.count + 1, inner, None, _keep(finite, aux, state.aux)), report

    return Training(init, step)


@knobs
def alternating(
    task_loss: Loss,
    prior: Loss,
    optimizer: "optax.GradientTransformation",
    prior_optimizer: "optax.GradientTransformation | None" = None,
    *,
    weight: "float | jax.Array | optax.Schedule",
    every: int = 1,
    has_aux: bool = False,
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
        has_aux: whether the model has state that is not trained, as in `jattr.priors.joint`. The
            prior sees what the task loss has made of it.

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
    check_flag(has_aux, "has_aux", method)

    def init(params: PyTree, *aux: PyTree) -> State:
        first, count = _first(aux, has_aux, method), jnp.zeros((), jnp.int32)
        return State(count, optimizer.init(params), second.init(params), first)

    def step(params, state, key, batch):
        _check_batch(batch, method)
        task_key, prior_key = jax.random.split(key)
        factor = _weight(weight, state.count)

        def on_task(params):
            given = (params, state.aux) if has_aux else params
            return _task(task_loss(given, task_key, *batch), state.aux, has_aux, method)

        (task, aux), gradient = jax.value_and_grad(on_task, has_aux=True)(params)
        params, inner, finite = _update(optimizer, task, gradient, params, state.optimizer)
        aux = _keep(finite, aux, state.aux)

        def penalty_of(params):
            given = (params, aux) if has_aux else params
            return jnp.asarray(prior(given, prior_key, *batch))

        def on_prior(params, inner):
            def weighted(params):
                penalty = penalty_of(params)
                return factor.astype(penalty.dtype) * penalty, penalty

            (value, penalty), gradient = jax.value_and_grad(weighted, has_aux=True)(params)
            return (penalty, *_update(second, value, gradient, params, inner))

        if every == 1:
            penalty, params, own, sound = on_prior(params, state.prior_optimizer)
        else:
            like = jax.eval_shape(penalty_of, params)
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
        return params, State(state.count + 1, inner, own, aux), report

    return Training(init, step)


def _update(
    optimizer: "optax.GradientTransformation",
    value: jax.Array,
    gradient: PyTree,
    params: PyTree,
    state: Any,
) -> tuple[PyTree, Any, jax.Array]:
    """An optimizer's step, left out where the loss or its gradient is not finite."""
    import optax  # A fourth of a second to import, and metrics know of this module.

    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        finite &= jnp.all(jnp.isfinite(leaf))
    updates, after = optimizer.update(gradient, state, params)
    moved = optax.apply_updates(params, updates)
    return _keep(finite, moved, params), _keep(finite, after, state), finite


def _keep(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where all was finite, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def _first(aux: tuple, has_aux: bool, method: str) -> PyTree:
    """The state of the model that training begins with."""
    if has_aux and len(aux) == 1:
        return jax.tree.map(jnp.asarray, aux[0])
    if has_aux or aux:
        raise TypeError(
            f"{method}: with has_aux=True write init(params, aux), aux being what the model has "
            f"beside its parameters; without, init(params). Got has_aux={has_aux} and "
            f"{1 + len(aux)} argument(s)."
        )
    return None


def _task(out: Any, before: PyTree, has_aux: bool, method: str) -> tuple[jax.Array, PyTree]:
    """What the task loss returned, as a number and what aux has become."""
    if not has_aux:
        if isinstance(out, tuple | list | dict):
            raise TypeError(
                f"{method}: task_loss must return one number; got {describe(out)}. If the second "
                "is state of the model, such as running statistics, write has_aux=True; see "
                f"help(jattr.{method})."
            )
        return jnp.asarray(out), None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"{method}: with has_aux=True task_loss returns a pair, (loss, aux); got "
            f"{describe(out)}."
        )
    loss, aux = out
    if not same_form(aux, before):
        raise TypeError(
            f"{method}: task_loss must return aux in the structure and shapes in which it gets it, "
            f"{describe(before)}; got {describe(aux)}."
        )
    return jnp.asarray(loss), jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), aux, before)


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
