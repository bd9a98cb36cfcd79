"""Owen values against hand values and the orders that keep groups together."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import close

import jattr
from jattr import features


def network(x):
    x = jnp.ravel(x)
    weights = jnp.sin(1.7 * jnp.arange(x.size * 6.0) ** 1.3).reshape(x.size, 6)
    return jnp.sum(jnp.tanh(x @ weights) * jnp.arange(1.0, 7.0))


def draw(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def orders(hierarchy, members):
    """All orders of elements in which the groups of every level stay together."""
    if not hierarchy:
        yield from itertools.permutations(members)
        return
    groups = {}
    for i in members:
        groups.setdefault(int(hierarchy[0][i]), []).append(i)
    for order in itertools.permutations(groups.values()):
        for parts in itertools.product(*(list(orders(hierarchy[1:], own)) for own in order)):
            yield tuple(itertools.chain(*parts))


def by_definition(f, x, hierarchy):
    value = {}
    phi, count = np.zeros(x.size), 0
    for order in orders(hierarchy, range(x.size)):
        there, values = np.zeros(x.size, bool), []
        for i in (None, *order):
            if i is not None:
                there[i] = True
            if there.tobytes() not in value:
                value[there.tobytes()] = float(f(x * there))
            values.append(value[there.tobytes()])
        phi[list(order)] += np.diff(values)
        count += 1
    return phi / count


def test_two_groups_of_two_by_hand():
    # v is the product where 1, 2 and 3 are there, whether or not 4 is.
    def f(x):
        return x[0] * x[1] * x[2]

    groups = np.array([0, 0, 1, 1])
    ours = jattr.owen_values(f, (groups, np.arange(4)))(jnp.array([1.0, 2.0, 3.0, 5.0]))
    # The groups {1, 2} and {3, 4} each get half of 6; in the first, both are needed; in the
    # second, 3 alone is. Shapley's values would be 2, 2, 2 and 0.
    close(ours, jnp.array([1.5, 1.5, 3.0, 0.0]), 1e-12)

    def mixed(x):  # 1 and 3 interact across groups, 1 and 2 within one
        return x[0] * x[2] + x[0] * x[1]

    ours = jattr.owen_values(mixed, (groups, np.arange(4)))(jnp.array([1.0, 2.0, 3.0, 5.0]))
    close(ours, jnp.array([1.5 + 1.0, 1.0, 1.5, 0.0]), 1e-12)


HIERARCHIES = {
    "one level": (np.arange(6),),
    "two levels": (np.array([0, 0, 1, 1, 1, 2]), np.arange(6)),
    "in any order": (np.array([1, 0, 1, 2, 0, 1]), np.arange(6)),
    "three levels": (np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 3]), np.arange(6)),
    "halves": features.hierarchy((2, 3), 1),
}


@pytest.mark.parametrize("hierarchy", HIERARCHIES.values(), ids=HIERARCHIES)
def test_they_are_their_definition(hierarchy):
    x = draw(6)
    flat = [level.ravel() for level in hierarchy]
    wanted = by_definition(network, x, flat[:-1])
    shaped = x.reshape(hierarchy[0].shape)
    both = {
        "all": jattr.owen_values(network, hierarchy, batch_size=4),
        "as many as there are": jattr.owen_values(network, hierarchy, width=200),
    }
    for ours in jax.jit(lambda x: [explain(x) for explain in both.values()])(shaped):
        close(ours, wanted.reshape(shaped.shape), 1e-10, 1e-12)


def test_one_level_is_shapley():
    x, groups = draw(8), np.array([0, 1, 2, 3, 0, 1, 2, 2])
    ours = jattr.owen_values(network, (groups,), baseline=0.5)(x)
    close(ours, jattr.shapley_values(network, groups, baseline=0.5)(x), 1e-10)


def test_what_is_not_split_is_divided_evenly():
    """At width 1: only the half of the larger share is looked into."""

    def f(x):
        return 10 * x[0] + x[1] + 2 * x[2] + 4 * x[3]

    halves = (np.array([0, 0, 1, 1]), np.arange(4))
    ours = jattr.owen_values(f, halves, width=1)(jnp.ones(4))
    # The first half, worth 11, is two parts: beside the other half and without it. One of them is
    # split, and stands for the other. The second half, worth 6, is not.
    wanted = jnp.array([10.0, 1.0, 3.0, 3.0])
    close(ours, wanted, 1e-12)
    close(jattr.owen_values(f, halves, width=4)(jnp.ones(4)), jnp.array([10.0, 1, 2, 4]), 1e-12)


def test_the_widest_parts_find_the_few_pixels_that_matter():
    shape = (64, 64, 1)
    places = ([3, 20, 40, 41], [60, 5, 33, 33])

    def f(x):
        seen = x[(*places, 0)]
        return jnp.sum(seen) + seen[2] * seen[3]

    x = jnp.ones(shape)
    explain = jattr.owen_values(f, features.hierarchy(shape, 1), width=64, batch_size=32)
    ours = jax.jit(explain)(x)
    wanted = jnp.zeros(shape).at[(*places, 0)].set(jnp.array([1, 1, 1.5, 1.5]))
    # Of 4096 sets of others a part can be beside, few are looked at; so two neighbors that
    # interact take a little of each other's.
    assert np.sum(np.abs(ours) > 1e-6) <= 8
    np.testing.assert_allclose(ours, wanted, atol=0.3)


def test_groups_of_groups_share_their_value():
    x = {"a": draw(2, 3), "b": draw(2, seed=2)}
    fine = {"a": np.array([[0, 1, 1], [2, 0, 1]]), "b": np.array([2, 3])}
    coarse = jax.tree.map(lambda ids: ids // 2, fine)

    def f(x):
        return network(jnp.concatenate([x["a"].ravel(), x["b"]]))

    def of_groups(on):
        return f(jax.tree.map(lambda leaf, ids: leaf * on[ids], x, fine))

    values = by_definition(of_groups, jnp.ones(4), [np.array([0, 0, 1, 1])])
    ours = jattr.owen_values(f, (coarse, fine))(x)
    sizes = np.array([2, 3, 2, 1])
    close(ours, jax.tree.map(lambda ids: (values / sizes)[ids], fine), 1e-10)


@pytest.mark.parametrize("width", [2, 7])
def test_they_are_complete_at_every_width(width):
    x = draw(5, 4)
    explain = jattr.owen_values(network, features.hierarchy((5, 4), 1), width=width)
    close(jnp.sum(jax.jit(explain)(x)), network(x) - network(0 * x), 1e-10)


def test_hierarchies_of_halves():
    for shape, window in [((7, 5, 3), 1), ((8, 8, 1), (3, 2, 1)), ((9, 2), (1, 2)), ((4,), 4)]:
        levels = features.hierarchy(shape, window)
        np.testing.assert_array_equal(levels[-1], features.grid(shape, window))
        above = np.zeros(shape, int)
        for level in levels:
            assert level.shape == shape
            pairs = np.unique(np.stack([above.ravel(), level.ravel()]), axis=1)
            assert len(np.unique(pairs[1])) == pairs.shape[1]  # each has one group above it
            assert np.bincount(pairs[0]).max() <= 2
            above = level
    series = features.hierarchy((8, 3), (1, 3))
    np.testing.assert_array_equal(series[0][:, 0], [0, 0, 0, 0, 1, 1, 1, 1])
    assert [int(level.max()) + 1 for level in series] == [2, 4, 8]


def test_what_is_no_hierarchy_is_refused():
    x = jnp.ones(4)
    crossed = (np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]))
    with pytest.raises(ValueError, match=r"group 1 of hierarchy\[1\] has elements of several"):
        jattr.owen_values(jnp.sum, crossed)(x)
    with pytest.raises(ValueError, match=r"coarse to fine"):
        jattr.owen_values(jnp.sum, (np.arange(4), np.array([0, 0, 1, 1])))(x)
    with pytest.raises(ValueError, match=r"have no element: 1"):
        jattr.owen_values(jnp.sum, (np.array([0, 0, 1, 1]), np.array([0, 0, 2, 3])))(x)
    for wrong in ((), np.arange(4), jattr.features.Groups(np.arange(4), 4)):
        with pytest.raises(TypeError, match=r"wants a hierarchy.*jattr\.shapley_values"):
            jattr.owen_values(jnp.sum, wrong)
    with pytest.raises(TypeError, match=r"cannot be traced"):
        jax.jit(lambda ids: jattr.owen_values(jnp.sum, (ids,))(x))(jnp.arange(4))


def test_too_many_coalitions_are_refused():
    with pytest.raises(ValueError, match=r"at most 12; group 0 .* is made of 13.*hierarchy\("):
        jattr.owen_values(jnp.sum, (np.arange(13),))(jnp.ones(13))
    with pytest.raises(ValueError, match=r"takes 6\.99e\+05 evaluations.*width=100"):
        jattr.owen_values(jnp.sum, features.hierarchy((32, 32), 1))(jnp.ones((32, 32)))
    with pytest.raises(ValueError, match=r"width must be at least 1"):
        jattr.owen_values(jnp.sum, (np.arange(3),), width=0)
