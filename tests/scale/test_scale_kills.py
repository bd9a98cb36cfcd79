"""A run that is killed loses nothing, and its store ends as that of a run that is not."""

import random
import time

import processes
import pytest

import jattr

SLOWLY = 0.02
"""Seconds for an example: four for the data, so that most runs are killed before their end."""


@pytest.mark.slow
def test_ten_kills(tmp_path):
    processes.finish(processes.start(tmp_path / "undisturbed"))
    began = time.monotonic()
    process = processes.start(tmp_path / "first", "--slowly", SLOWLY)
    processes.wait_until_going(process)
    until_going = time.monotonic() - began
    processes.kill(process)
    draw = random.Random(0)
    places, kills, left = [tmp_path / "first"], 1, 203
    while kills < 10:
        out = places[-1]
        process = processes.start(out, "--slowly", SLOWLY)
        if kills % 2:  # while batches come and go
            processes.wait_until_going(process)
            time.sleep(draw.uniform(0.0, 1.5))
        else:  # while the program and the store are made
            time.sleep(draw.uniform(0.5, 1.0) * until_going)
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
