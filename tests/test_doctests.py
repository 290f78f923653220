"""The examples in docstrings of public functions do what they show."""

import doctest
import importlib

import pytest

MODULES = (
    "advantages",
    "algorithms.ppo",
    "environments",
    "environments.wrappers",
    "experiment.config.experiment",
    "experiment.results.statistics",
    "networks.feedforward",
    "spaces",
    "training",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"purejax_po.{name}")
    done = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert done.attempted
    assert not done.failed
