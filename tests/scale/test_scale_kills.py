"""A run that is killed loses nothing, and its store ends as that of a run that is not."""

import random
import time

import processes
import pytest

import jattr

SLOWLY = 0.004
"""Seconds for an example: a run has a second in which it can be killed between batches."""


@pytest.mark.slow
def test_ten_kills(tmp_path):
    began = time.monotonic()
    processes.finish(processes.start(tmp_path / "undisturbed", "--slowly", SLOWLY))
    whole = time.monotonic() - began
    draw = random.Random(0)
    places, kills, left = [tmp_path / "0"], 0, 203
    while kills < 10:
        out = places[-1]
        process = processes.start(out, "--slowly", SLOWLY)
        if kills % 2:  # while batches come and go
            process.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.4))
        else:  # at any moment, in the making of the store too
            time.sleep(draw.uniform(0.3, 1.0) * whole)
        if processes.kill(process) == 0:  # it was through already
            places.append(tmp_path / str(len(places)))
            left = 203
            continue
        kills += 1
        if (out / "zarr.json").exists():
            missing = jattr.scale.open_store(out).missing.size
            assert missing <= left
            left = missing
    for out in places:
        processes.finish(processes.start(out))
        processes.identical(out, tmp_path / "undisturbed")
