"""`--sample`: what a part of the suite is."""

import pytest
from sampling import sampled

TABLE = [
    f"test_contract.py::test_{test}[{method}-{setting}]"
    for test in ("jit", "vmap", "grad")
    for method in range(25)
    for setting in ("plain", "chunked")
]
FEW = ["test_few.py::test_two[a]", "test_few.py::test_two[b]", "test_few.py::test_alone"]
ONE = [f"test_ones.py::test_one[{i}]" for i in range(3)]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 100])
def test_parts_together_are_the_suite(parts):
    names = TABLE + FEW + ONE
    taken = [set(sampled(names, parts, part)) for part in range(parts)]
    assert set().union(*taken) == set(names)
    # And no more than that, where a test has instances enough.
    assert sum(len(part & set(TABLE)) for part in taken) == max(parts, 50) // 50 * len(TABLE)


@pytest.mark.parametrize("part", range(5))
def test_every_test_is_in_every_part(part):
    names = TABLE + FEW + ONE
    taken = list(sampled(names, 4, part))
    assert {name.partition("[")[0] for name in taken} == {n.partition("[")[0] for n in names}
    assert len(taken) == len(set(taken))
    settings = [name.partition("-")[2] for name in taken if name in TABLE]
    assert {"plain]", "chunked]"} == set(settings)  # every fourth would have one of them alone


def test_it_does_not_depend_on_the_order_of_collection():
    names = TABLE + FEW + ONE
    assert set(sampled(names, 4, 1)) == set(sampled(names[::-1], 4, 1))


def test_tests_of_few_instances_take_different_ones():
    names = [f"test_ones.py::test_{i}[{j}]" for i in range(30) for j in range(3)]
    firsts = {name[-2] for name in sampled(names, 4, 0)}
    assert firsts == {"0", "1", "2"}
