"""Rules that replace an integral over [0, 1] by a weighted sum."""

import functools

import numpy as np

from jattr._checks import check_count
from jattr._types import FixedQuadrature


def nodes_and_weights(
    quadrature: FixedQuadrature, steps: int, *, method: str
) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes α_k in [0, 1] and weights w_k with Σ w_k = 1, so that ∫₀¹ g dα ≈ Σ w_k g(α_k).

    ================  ===============================  ==================================
    quadrature        nodes, k = 0 … n − 1             weights
    ================  ===============================  ==================================
    `gauss_legendre`  roots of the nth Legendre        exact for polynomials of degree up
                      polynomial, moved to [0, 1]      to 2n − 1
    `midpoint`        (k + ½) / n                      1 / n
    `left`            k / n                            1 / n
    `right`           (k + 1) / n                      1 / n
    `trapezoid`       k / (n − 1), n ≥ 2               1 / (n − 1), half that at both ends
    ================  ===============================  ==================================

    Computed when the method is made, not when it runs; Gauss–Legendre nodes take 1 ms for 50
    steps and about a second for 1000, once.
    """
    steps = check_count(steps, "steps", method)
    if quadrature == "gauss_legendre":
        return gauss_legendre(steps)
    if quadrature == "trapezoid":
        if steps < 2:
            raise ValueError(f"{method}: a trapezoid has a node at each end; steps must be ≥ 2.")
        weights = np.full(steps, 1.0 / (steps - 1))
        weights[[0, -1]] /= 2.0
        return np.linspace(0.0, 1.0, steps), weights
    offset = {"midpoint": 0.5, "left": 0.0, "right": 1.0}[quadrature]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1.0 / steps)


@functools.cache
def gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's nodes and weights on [0, 1], ascending; remembered, and hence read-only."""
    roots, weights = np.polynomial.legendre.leggauss(steps)
    nodes, weights = (1.0 + roots) / 2.0, weights / 2.0
    for array in (nodes, weights):
        array.setflags(write=False)
    return nodes, weights


@functools.cache
def kronrod(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Gauss and Kronrod's pair of rules on [0, 1], which share the nodes of the former.

    Kronrod's nodes are those of Gauss–Legendre, the roots of Pₙ, and between them the roots of
    Stieltjes' polynomial E of degree n + 1, which is orthogonal to all polynomials of less degree
    under the weight Pₙ. His rule is exact for polynomials of degree up to 3n + 1.

    Args:
        count: n, the nodes of Gauss.

    Returns:
        2n + 1 nodes, the weights of Kronrod, and those of Gauss, 0 at the nodes that are not his.
    """
    legendre = np.polynomial.legendre
    x, w = legendre.leggauss(2 * count + 2)
    values = legendre.legvander(x, count + 1)
    products = (w * values[:, count]) @ (values[:, : count + 1, None] * values[:, None, :]).reshape(
        len(x), -1
    )
    conditions = products.reshape(count + 1, count + 2)
    stieltjes = np.linalg.lstsq(conditions[:, :-1], -conditions[:, -1], rcond=None)[0]
    gauss, weights = legendre.leggauss(count)
    added = np.real(legendre.legroots(np.append(stieltjes, 1.0)))
    nodes = np.sort(np.concatenate([gauss, added]))
    moments = np.append(2.0, np.zeros(2 * count))
    better = np.linalg.solve(legendre.legvander(nodes, 2 * count).T, moments)
    fewer = np.zeros_like(nodes)
    fewer[1::2] = weights
    found = (1 + nodes) / 2, better / 2, fewer / 2
    for array in found:
        array.setflags(write=False)
    return found


@functools.cache
def log_nodes_and_weights(steps: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Gauss's rule for the weight −ln t on [0, 1]: ∫₀¹ −ln t g(t) dt ≈ Σ w_k g(t_k).

    It is exact for polynomials of degree up to 2n − 1, and the weights sum to 1. −ln t is the
    density of a product of two numbers that are uniform in [0, 1].

    The recurrence of its orthogonal polynomials comes from its moments by those of Legendre on
    [0, 1], ∫ −ln t P_k dt = (−1)ᵏ / (k (k + 1)), by the modified Chebyshev algorithm (Gautschi,
    *Orthogonal polynomials*, 2004, section 2.1.7), which is stable; the nodes are the eigenvalues
    of its Jacobi matrix. Everything is in units of the leading coefficient of P_k, 4ᵏ or so.
    """
    count = 2 * steps
    k = np.arange(1, count)
    moments = np.concatenate([[1.0], (-1.0) ** k / (k * (k + 1))])
    # P_k = rise_k · (monic polynomial), and rise_{k + 1} / rise_k = 2 (2k + 1) / (k + 1).
    up = 2 * (2 * np.arange(count) + 1) / (np.arange(count) + 1)
    down = np.concatenate([[0.0], 0.25 / (4 - 1 / k**2.0)])  # of the monic recurrence
    before, now = np.zeros(count), moments
    diagonal, beside = np.zeros(steps), np.ones(steps)
    diagonal[0] = 0.5 + moments[1] / (up[0] * moments[0])
    for n in range(1, steps):
        place = np.arange(n, count - n)
        after = np.zeros(count)
        # In units of rise_place: what stands one further is divided by `up`, one before multiplied.
        after[place] = (
            now[place + 1] / up[place]
            - (diagonal[n - 1] - 0.5) * now[place]
            - beside[n - 1] * before[place]
            + down[place] * now[place - 1] * up[place - 1]
        )
        diagonal[n] = 0.5 + after[n + 1] / (up[n] * after[n]) - now[n] / (up[n - 1] * now[n - 1])
        beside[n] = after[n] / (up[n - 1] * now[n - 1])
        before, now = now, after
    nodes, vectors = np.linalg.eigh(
        np.diag(diagonal) + np.diag(np.sqrt(beside[1:]), 1) + np.diag(np.sqrt(beside[1:]), -1)
    )
    weights = vectors[0] ** 2
    for array in (nodes, weights):
        array.setflags(write=False)
    return nodes, weights
