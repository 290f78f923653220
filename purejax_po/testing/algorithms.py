"""All properties of one algorithm in one call, as a test of its author's."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import get_type_hints

import numpy as np

from purejax_po.checks import Range
from purejax_po.experiment.config import AlgorithmConfig, ExperimentConfig
from purejax_po.testing import probes, properties
from purejax_po.testing.subject import ENV, ENV_PARAMS, subject
from purejax_po.testing.trees import assert_close
from purejax_po.types import Hyperparams

PROPERTIES = {
    "jit": "a compiled update equals an eager one",
    "vmap": "a lane among others equals a run of its own",
    "seeds": "seeds differ",
    "trace": "one trace serves any hyperparameters",
    "lanes": "each lane has hyperparameters of its own, and each changes what is learned",
    "state": "the state keeps its structure and dtypes",
    "finite": "results are finite, and every network moves",
    "function": "the same key gives the same",
    "divergence": "a divergence is contained",
    "wrong": "wrong hyperparameters are named",
    "stored": "config.json names the class, and gives it back",
    "probes": "environments of known values are solved",
}
"""The checks, by the names that `skip` takes."""
WRONG = (np.nan, np.inf, "much", None)


def check_algorithm(
    config: AlgorithmConfig,
    *,
    changes: Mapping[str, float] | None = None,
    unused: Collection[str] = (),
    probe: AlgorithmConfig | None = None,
    solves: Collection[str] = tuple(probes.PROBES),
    skip: Collection[str] = (),
) -> None:
    """Check what every algorithm must do; see `PROPERTIES`. It takes about a minute on a core.

    Args:
        config: of the algorithm, best with small networks, few environments and few steps.
        changes: another value of each hyperparameter, which has to change what is learned within
            three updates (default: one that its range allows).
        unused: hyperparameters that have no effect under the options of `config`.
        probe: settings that solve the probe environments in 100 updates of 8 × 16 steps with a
            discount of 0.5 (default: `config` with learning rates of 0.01).
        solves: the probes to solve: `value`, `observation`, `discount`, `action`, `policy`.
        skip: names of `PROPERTIES` to leave out.

    Raises:
        AssertionError: naming every property that fails, and how.
        ValueError: for a configuration that is wrong, or a name that is none of `PROPERTIES`.
    """
    if unknown := set(skip) - set(PROPERTIES):
        raise ValueError(f"skip must name some of {', '.join(PROPERTIES)}, got {sorted(unknown)}")
    config.check()
    hyperparams = config.hyperparams
    others = {**_others(hyperparams), **(changes or {})}
    number = max(4, len(others) + 2)
    algorithm = config.build(ENV, ENV_PARAMS)
    shape = {"num_envs": config.num_envs, "num_steps": config.num_steps}
    to_rounding = functools.partial(assert_close, rtol=1e-5, atol=1e-7)
    under_test = subject(algorithm, hyperparams, **shape)
    seeds = under_test.seeds(number)
    calls = {
        "jit": (properties.jit_equals_eager, under_test),
        "vmap": (properties.vmap_equals_a_loop, under_test, seeds),
        "seeds": (properties.seeds_differ, seeds),
        "trace": (properties.one_trace_serves_all, under_test, others, unused),
        "lanes": (
            properties.lanes_have_hyperparameters_of_their_own,
            *(under_test, others, unused, number, to_rounding),
        ),
        "state": (properties.state_is_stable, under_test),
        "finite": (properties.results_are_finite, under_test, seeds),
        "function": (properties.updates_are_functions, under_test),
        "divergence": (properties.divergence_is_contained, under_test),
        "wrong": (wrong_hyperparameters_are_named, config),
        "stored": (configuration_is_stored, config),
        "probes": (probes_are_solved, probe or _probe(config), solves),
    }
    failures = []
    for name, (check, *arguments) in calls.items():
        if name in skip:
            continue
        try:
            check(*arguments)
        except AssertionError as error:
            failures.append(f"{name}: not so: {PROPERTIES[name]}: {' '.join(str(error).split())}")
    if failures:
        raise AssertionError("\n".join(failures))


def wrong_hyperparameters_are_named(config: AlgorithmConfig) -> None:
    """Every hyperparameter refuses what is no number in its range, by its name."""
    for name in config.hyperparams.__dataclass_fields__:
        for value in WRONG:
            wrong = config.hyperparams.replace(**{name: value})
            told = _told(dataclasses.replace(config, hyperparams=wrong))
            assert told is not None, (
                f"{name} = {value!r} is not refused; annotate it with a range of checks, such as "
                "Positive"
            )
            assert f"hyperparams.{name} must be" in told, f"{name} = {value!r}: {told}"


def _told(config: AlgorithmConfig) -> str | None:
    """What the check of a configuration says of it; None if nothing is wrong."""
    try:
        config.check()
    except ValueError as error:
        return str(error)
    return None


def configuration_is_stored(config: AlgorithmConfig) -> None:
    """A run of this configuration can be stored, so that it is resumed and evaluated."""
    steps = config.num_envs * config.num_steps
    try:
        ExperimentConfig(algorithm=config, total_steps=steps).check_stored()
    except ValueError as error:
        raise AssertionError(str(error)) from None


def probes_are_solved(config: AlgorithmConfig, solves: Collection[str]) -> None:
    """The policy does what is best, and the critic knows the values, on each probe."""
    config.check()
    build = config.build(probes.Probe(), probes.VALUE)
    found = probes.train(build, config.hyperparams)
    for name in solves:
        for obs, (value, probability) in found[name].items():
            best = probes.ACTIONS.get(name, {}).get(obs)
            if best is not None:
                chance = float(probability[best])
                assert chance > 0.9, f"probe {name}, seeing {obs}: P(best action) = {chance:.2f}"
            expected = probes.VALUES.get(name, {}).get(obs)
            if expected is not None and value is not None:
                error = abs(value - expected)
                assert error < 0.1, f"probe {name}, seeing {obs}: V = {value:.2f}, not {expected}"


def _others(hyperparams: Hyperparams) -> dict[str, float]:
    """Another value of each hyperparameter, within its range."""
    hints = get_type_hints(type(hyperparams), include_extras=True)
    found = {}
    for name in hyperparams.__dataclass_fields__:
        value = float(getattr(hyperparams, name))
        metadata = getattr(hints.get(name), "__metadata__", ())
        allowed = next((m for m in metadata if isinstance(m, Range)), Range())
        candidates = (0.5 * value, 0.3, 3.0 * value, value + 0.5, value - 0.5)
        found[name] = next((x for x in candidates if x in allowed and x != value), value)
    return found


def _probe(config: AlgorithmConfig) -> AlgorithmConfig:
    """The configuration as it solves the probes, in most cases."""
    hyperparams = config.hyperparams
    fields = hyperparams.__dataclass_fields__
    changes = {name: 1e-2 for name in fields if name.endswith("learning_rate")}
    if "discount" in fields:
        changes["discount"] = probes.DISCOUNT
    return dataclasses.replace(config, hyperparams=hyperparams.replace(**changes))
