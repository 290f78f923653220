"""What every algorithm has to do, whatever it learns: each property raises `AssertionError`."""

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.testing.subject import ENV_PARAMS, NUM_UPDATES, POISONED, Subject
from purejax_po.testing.trees import (
    as_numpy,
    assert_close,
    assert_equal,
    differs,
    lane_of,
    repeated,
)
from purejax_po.training import Result, seed_keys
from purejax_po.types import AlgorithmState, PyTree


def jit_equals_eager(subject: Subject) -> None:
    """An update that is compiled does what the same code does line by line."""
    states, logs = subject.run(num_updates=1)
    eager, log = subject.trainer.step(subject.hyperparams, states[0], ENV_PARAMS)
    assert_close(eager, states[1])
    assert_close(log, logs[0])


def vmap_equals_a_loop(subject: Subject, seeds: Result) -> None:
    """A lane among others learns what it learns alone."""
    for seed in (0, seeds.state.diverged_at.shape[0] // 3):
        states, logs = subject.run(seed)
        assert_close(lane_of(seeds.state, seed), states[-1])
        for update, log in enumerate(logs):
            assert_close(lane_of(lane_of(seeds.log, seed), update), log)


def seeds_differ(seeds: Result) -> None:
    """No two seeds learn the same."""
    params = seeds.state.algorithm.params
    for lane in range(1, seeds.state.diverged_at.shape[0]):
        assert differs(lane_of(params, lane), lane_of(params, 0)), f"seeds 0 and {lane} agree"


def one_trace_serves_all(
    subject: Subject, changes: Mapping[str, float], unused: Collection[str] = ()
) -> None:
    """Any hyperparameters and parameters of the environment run in the program of the first.

    Args:
        changes: another value of each hyperparameter, which has to change what is learned.
        unused: hyperparameters that may have no effect.
    """
    base = subject.hyperparams
    params = subject.run()[0][-1].algorithm.params
    for name, value in changes.items():
        other = subject.run(hyperparams=base.replace(**{name: value}))[0][-1]
        if name not in unused:
            assert differs(other.algorithm.params, params), f"{name} has no effect"
    for name in ("gravity", "force_mag", "theta_threshold_radians", "max_steps_in_episode"):
        value = 5 if name == "max_steps_in_episode" else getattr(ENV_PARAMS, name) / 50
        env_params = ENV_PARAMS.replace(**{name: value})  # type: ignore[attr-defined]
        other = subject.run(env_params=env_params)[0][-1]
        assert differs(other.algorithm.params, params), f"env_params.{name} has no effect"
    traced = subject.traces["init"], subject.traces["step"]
    assert traced == (1, 1), f"init and step were traced {traced} times, not once each"


def lanes_have_hyperparameters_of_their_own(
    subject: Subject,
    changes: Mapping[str, float],
    unused: Collection[str],
    num_lanes: int,
    agree: Callable[[PyTree, PyTree], None] = assert_equal,
) -> None:
    """Each lane of one program learns with its own value, and lanes left alone agree.

    Args:
        agree: raises `AssertionError` unless two lanes left alone do; to the bit where the number
            of lanes is a multiple of a CPU's vectors, else the last lane may round otherwise.
    """
    fields = set(subject.hyperparams.__dataclass_fields__)
    assert set(changes) == fields, f"changes must name {', '.join(sorted(fields))}"
    assert len(changes) < num_lanes
    changed = {name: (i + 1, value) for i, (name, value) in enumerate(changes.items())}
    result = subject.run_lanes(
        seed_keys(np.zeros(num_lanes, int)),
        repeated(subject.hyperparams, num_lanes, **changed),
        repeated(ENV_PARAMS, num_lanes),
    )
    params = result.state.algorithm.params
    for name, (lane, value) in changed.items():
        has_effect = differs(lane_of(params, lane), lane_of(params, 0))
        assert has_effect == (name not in unused), f"{name}: effect {has_effect}"
        if name in ("learning_rate", "max_kl", "critic_learning_rate"):
            states, _ = subject.run(hyperparams=subject.hyperparams.replace(**{name: value}))
            assert_close(lane_of(params, lane), states[-1].algorithm.params)
    assert subject.traces["run_lanes"] == 1, "lanes were traced more than once"
    if len(changed) + 1 < num_lanes:
        agree(lane_of(result.state, num_lanes - 1), lane_of(result.state, 0))


def state_is_stable(subject: Subject) -> None:
    """The state keeps structure, shapes and dtypes from update to update; logs are scalars."""
    states, logs = subject.run()
    for state in states[1:]:
        assert jax.tree.structure(state) == jax.tree.structure(states[0]), "structure changes"
        for before, after in zip(*map(jax.tree.leaves, (states[0], state)), strict=True):
            assert (before.shape, before.dtype) == (after.shape, after.dtype), "leaves change"
    assert hasattr(states[0].algorithm, "params"), "the state must have a field params"
    # A weak type in the first state alone would make every later step a second program.
    for path, leaf in jax.tree.leaves_with_path(states[0]._replace(key=())):
        assert leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_), f"{path}: {leaf.dtype}"
        assert not leaf.weak_type, f"{path} has a weak type"
    for name, value in logs[0].info.mean.items():
        assert value.shape == (), f"info {name} must be a scalar, got {value.shape}"
        assert value.dtype == jnp.float32, f"info {name} must be float32, got {value.dtype}"


def results_are_finite(subject: Subject, seeds: Result) -> None:
    """Nothing is infinite or NaN, and every network moves."""
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(as_numpy(seeds))), "not finite"
    np.testing.assert_array_equal(seeds.state.diverged_at, -1)
    np.testing.assert_array_equal(seeds.log.info.count, 1.0)
    first, *_, last = subject.run()[0]
    for before, after in zip(first.algorithm.params, last.algorithm.params, strict=True):
        pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
        assert all(differs(x, y) for x, y in pairs), "a part of the parameters never moves"


def updates_are_functions(subject: Subject) -> None:
    """The same key gives the same, to the bit."""
    for once, again in zip(subject.run(), subject.run(), strict=True):
        assert_equal(once, again)


def without_counters(state: AlgorithmState) -> AlgorithmState:
    """Return a state without what goes on after a divergence."""
    return state._replace(num_done=(), diverged_at=())


def divergence_is_contained(subject: Subject) -> None:
    """Rewards that are no numbers never reach the state, which stays at its last finite one."""
    (_, healthy), _ = subject.run(num_updates=1)
    state, log = subject.step(subject.hyperparams, healthy, POISONED)
    assert_equal(without_counters(state), without_counters(healthy))
    assert state.diverged_at == 1
    assert state.num_done == 2
    assert_equal(log, jax.tree.map(jnp.zeros_like, log))
    # Once diverged it stays where it was, and remembers when.
    after, log = subject.step(subject.hyperparams, state, ENV_PARAMS)
    assert_equal(without_counters(after), without_counters(healthy))
    assert after.diverged_at == 1
    assert log.info.count == 0


__all__ = [
    "NUM_UPDATES",
    "divergence_is_contained",
    "jit_equals_eager",
    "lanes_have_hyperparameters_of_their_own",
    "one_trace_serves_all",
    "results_are_finite",
    "seeds_differ",
    "state_is_stable",
    "updates_are_functions",
    "vmap_equals_a_loop",
    "without_counters",
]
