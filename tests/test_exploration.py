"""What the exploration remedies achieve: the runs of `benchmarks/exploration.py`, judged."""

import importlib.util
from pathlib import Path

import pytest

from purejax_po.experiment.results import statistics

pytestmark = pytest.mark.usefixtures("compile_quickly")

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "exploration.py"


@pytest.fixture(scope="module")
def exploration():
    spec = importlib.util.spec_from_file_location("exploration", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_chain_is_solved_from_its_true_start_with_either_remedy_and_not_without(exploration):
    runs = exploration.chain(64, 102_400, 20)
    solved = {name: (run.episode_return[:, -1] == 1.0).mean() for name, run in runs.items()}
    assert solved["from scratch"] < 0.05
    assert solved["uniform resets"] > 0.95
    assert solved["cloned start"] > 0.95


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_height_potential_solves_mountain_car_in_steps_that_do_not_suffice_without(exploration):
    runs = exploration.mountain_car(64, 131_072, 16)
    final = {name: statistics.iqm(run.episode_return[:, -1]) for name, run in runs.items()}
    assert final["height potential"] >= -130.0
    assert final["unshaped"] < -130.0
