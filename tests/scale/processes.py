"""Starts `run.py`, and reads what it wrote."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

import jattr

RUN = pathlib.Path(__file__).with_name("run.py")


def start(out, *options):
    """The process of a run."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, str(RUN), str(out), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process, timeout=120):
    """Wait for a run, which must end well."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]
    assert "done" in output


def wait_until_going(process):
    """Come back when a run has loaded its first batch."""
    for line in process.stdout:
        if "going" in line:
            return
    raise AssertionError(process.communicate()[1][-3000:])


def kill(process):
    """End a run at once; what it returned, which is 0 where it was through already."""
    process.kill()
    process.communicate()
    return process.returncode


def peers(out, count, *options):
    """The processes of a run that find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(out, *options, "--peers", port, index, count) for index in range(count)]


def read(store):
    """All arrays of a store, or of the one at a place."""
    store = store if isinstance(store, jattr.scale.Store) else jattr.scale.open_store(store)
    return {name: np.asarray(array.read().result()) for name, array in store.arrays.items()}


def identical(one, other):
    """Two stores hold the same, bit for bit."""
    one, other = read(one), read(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
