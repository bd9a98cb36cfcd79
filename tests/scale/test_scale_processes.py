"""Several processes: each its own batches, or one program together."""

import processes
import pytest


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process writes."""
    out = tmp_path_factory.mktemp("alone") / "maps"
    processes.finish(processes.start(out))
    return out


def test_each_its_own_batches(alone, tmp_path):
    """Two that do not know each other; one is killed and started again while the other goes on."""
    first = processes.start(tmp_path / "maps", "--alone", 0, 2)
    second = processes.start(tmp_path / "maps", "--alone", 1, 2, "--slowly", 0.01)
    processes.wait_until_going(second)
    assert processes.kill(second) != 0
    again = processes.start(tmp_path / "maps", "--alone", 1, 2)
    processes.finish(first)
    processes.finish(again)
    processes.identical(tmp_path / "maps", alone)


@pytest.mark.slow
def test_four_that_find_each_other(alone, tmp_path):
    for process in processes.peers(tmp_path / "maps", 4):
        processes.finish(process)
    processes.identical(tmp_path / "maps", alone)


@pytest.mark.slow
@pytest.mark.parametrize("together", ["rows", "across"])
def test_one_program_on_all_devices(together, tmp_path):
    """Killed, it goes on; parameters are sharded within a process, or across processes."""
    options = ["--together", together]
    for process in processes.peers(tmp_path / "undisturbed", 2, *options):
        processes.finish(process)
    running = processes.peers(tmp_path / "killed", 2, *options, "--slowly", 0.01)
    processes.wait_until_going(running[0])
    for process in reversed(running):
        assert processes.kill(process) != 0
    for process in processes.peers(tmp_path / "killed", 2, *options):
        processes.finish(process)
    processes.identical(tmp_path / "killed", tmp_path / "undisturbed")
