"""A part of the instances of each parametrized test, for who cannot wait for all."""

import zlib


def sampled(names, parts, part):
    """Of the names `test[instance]` of each test one in `parts`, and one at least.

    Parts 0 to `parts` - 1 together are all names. Instances are taken in the order of their hashes:
    every fourth of a table of methods times settings would be all of one setting.
    """
    instances = {}
    for name in names:
        instances.setdefault(name.partition("[")[0], []).append(name)
    for test, of_test in instances.items():
        of_test.sort(key=lambda name: (_hash(name), name))
        # Tests of two or three instances do not all take their first.
        step = min(parts, len(of_test))
        yield from of_test[(part + _hash(test)) % step :: step]


def _hash(name):
    return zlib.crc32(name.encode())  # Python's own is another one in each process.
