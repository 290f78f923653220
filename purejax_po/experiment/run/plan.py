"""The plan: which lanes make up which block, and in which windows each of them runs.

Lanes are numbered point by point of a sweep, and seed by seed within each; blocks are K of them in
that order, the last one filled with copies of the last lane. Nothing else knows these numbers.
"""

import bisect
import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.environments import parameters
from purejax_po.experiment.config import ENV_PARAMS, ExperimentConfig, sweep
from purejax_po.experiment.run.devices import xla_threads
from purejax_po.experiment.run.program import Lanes
from purejax_po.training import window_lengths
from purejax_po.types import EnvParams, Hyperparams, JSONObject, Trainer


class Labels(NamedTuple):
    """What tells the lanes of a block apart."""

    columns: dict[str, list[float]]
    """`seeds`, and a list for each axis of a sweep."""
    names: list[str]
    """`seed-3`, of a sweep `clip_eps=0.1,discount=0.9/seed-3`."""


@dataclass(frozen=True)
class Plan:
    """An experiment cut into blocks."""

    config: ExperimentConfig
    lanes_per_device: int
    """K."""
    device_kind: str
    """Of the workers; on another kind the last bits would be other ones."""

    @property
    def num_lanes(self) -> int:
        """All of them."""
        return self.config.num_lanes

    @property
    def keeps_states(self) -> bool:
        """Whether a block's result holds its last state, from which others go on."""
        return False

    @property
    def num_blocks(self) -> int:
        """Blocks of K lanes, the last one padded."""
        return math.ceil(self.num_lanes / self.lanes_per_device)

    def num_real(self, block: int) -> int:
        """How many lanes of a block are no padding."""
        return min(self.lanes_per_device, self.num_lanes - block * self.lanes_per_device)

    def numbers(self, block: int) -> np.ndarray:
        """The numbers of a block's lanes among all lanes, `[num_real]`."""
        return block * self.lanes_per_device + np.arange(self.num_real(block))

    def lanes(self, block: int, trainer: Trainer) -> Lanes:
        """Make the lanes of a block, leaves `[K]`."""
        numbers = block * self.lanes_per_device + np.arange(self.lanes_per_device)
        return self.make(np.minimum(numbers, self.num_lanes - 1), trainer)

    def make(self, numbers: np.ndarray, trainer: Trainer) -> Lanes:
        """Make the lanes that have these numbers."""
        return make_lanes(self.config, numbers, trainer)

    def labels(self, block: int) -> Labels:
        """Name the lanes of a block."""
        numbers = self.numbers(block)
        return Labels(sweep.columns(self.config, numbers), sweep.names(self.config, numbers))

    @cached_property
    def lengths(self) -> list[int]:
        """Updates of each window."""
        return window_lengths(self.config.num_updates, self.config.log_every).tolist()

    @cached_property
    def updates(self) -> list[int]:
        """Updates done by the end of each window."""
        return list(itertools.accumulate(self.lengths))

    @cached_property
    def evaluated(self) -> list[int]:
        """The windows, from 0, that an evaluation follows."""
        every, last = self.config.evaluate_every, len(self.lengths) - 1
        if not every:
            return []
        return [i for i in range(last + 1) if (i + 1) % every == 0 or i == last]

    def num_evaluations(self, num_windows: int) -> int:
        """Evaluations that some windows, from the first one on, have been followed by."""
        return bisect.bisect_left(self.evaluated, num_windows)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one update of a lane."""
        return self.config.algorithm.num_envs * self.config.algorithm.num_steps

    def to_dict(self, versions: dict[str, str]) -> JSONObject:
        """Return what `plan.json` holds, besides the configuration in `config.json`."""
        return {
            "lanes_per_device": self.lanes_per_device,
            "device_kind": self.device_kind,
            "versions": versions,
            "threads": xla_threads(),
        }


def make_lanes(config: ExperimentConfig, numbers: np.ndarray, trainer: Trainer) -> Lanes:
    """Make the lanes that have these numbers: a seed, and the values at a point of the sweep."""
    places, seeds = sweep.split(config, numbers)
    everywhere = repeat(seeds, trainer.algorithm.hyperparams, trainer.env_params)
    changes: dict[bool, dict[str, np.ndarray]] = {False: {}, True: {}}
    table = list(itertools.product(*config.sweep.values()))
    for i, name in enumerate(config.sweep):
        is_env, bare = name.startswith(ENV_PARAMS), name.removeprefix(ENV_PARAMS)
        like = getattr(everywhere.env_params if is_env else everywhere.hyperparams, bare)
        column = np.asarray([float(row[i]) for row in table], like.dtype)
        changes[is_env][bare] = column[places]
    swept = everywhere.env_params.replace(**changes[True])
    return everywhere._replace(
        hyperparams=everywhere.hyperparams.replace(**changes[False]),
        env_params=parameters.follow(config.env_name, swept, {*config.env_params, *changes[True]}),
    )


def repeat(seeds: np.ndarray, hyperparams: Hyperparams, env_params: EnvParams) -> Lanes:
    """Give every seed the same hyperparameters and environment parameters."""
    seeds = np.asarray(seeds)
    hints = get_type_hints(type(hyperparams))
    given = {name: getattr(hyperparams, name) for name, hint in hints.items() if hint is float}
    # A 0 in place of 0.0 would make whole numbers of what is swept.
    floats = {name: float(x) for name, x in given.items() if isinstance(x, int | np.integer)}
    hyperparams = replace(hyperparams, **floats)

    def repeated(x: np.ndarray) -> np.ndarray:
        x = np.asarray(jnp.asarray(x))
        return np.broadcast_to(x, (len(seeds), *x.shape))

    return Lanes(seeds, jax.tree.map(repeated, hyperparams), jax.tree.map(repeated, env_params))
