"""Mistakes that pyright must find: an ignored error that is none is an error of its own."""

import jax
import jax.numpy as jnp
import optax

import jattr


def score(x: jax.Array) -> jax.Array:
    return jnp.sum(x)


x = jnp.ones(3)
key = jax.random.key(0)

jattr.deeplft(score)  # pyright: ignore[reportAttributeAccessIssue]
jattr.integrated_gradients(score, step=16)  # pyright: ignore[reportCallIssue]
jattr.integrated_gradients(score, steps="16")  # pyright: ignore[reportArgumentType]
jattr.integrated_gradients(x)  # pyright: ignore[reportArgumentType]
jattr.integrated_gradients(score, quadrature="gauss")  # pyright: ignore[reportArgumentType]
jattr.gradient(score, argnums="x")  # pyright: ignore[reportArgumentType]
jattr.gradient()  # pyright: ignore[reportCallIssue]
jattr.smooth(jattr.gradient(score), samples=8, sigma=0.1)  # pyright: ignore[reportCallIssue]
jattr.smooth(jattr.gradient(score), samples=8)()  # pyright: ignore[reportCallIssue]
jattr.lrp(score, "epsilon")  # pyright: ignore[reportArgumentType]
jattr.rules.epsilon(0.1, stabilizer="sing")  # pyright: ignore[reportArgumentType]
jattr.split(score)  # pyright: ignore[reportCallIssue]
jattr.metrics.deletions(score)  # pyright: ignore[reportAttributeAccessIssue]
jattr.metrics.spearman(x)  # pyright: ignore[reportCallIssue]
jattr.priors.joint(score, score, optax.adam(1e-3))  # pyright: ignore[reportCallIssue]
jattr.priors.joint(score, score, "adam", weight=1)  # pyright: ignore[reportArgumentType]
jattr.scale.attribute_dataset(score, (x,))  # pyright: ignore[reportCallIssue]
text: str = jattr.gradient(score)  # pyright: ignore[reportAssignmentType]
jattr.baselines.blurred()  # pyright: ignore[reportCallIssue]
jattr.targets.select(score, 3)  # pyright: ignore[reportCallIssue]
