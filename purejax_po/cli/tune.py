"""The command that searches for settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from purejax_po.cli.commands import Train, run_search
from purejax_po.experiment import compare, tuning
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.tune import space as spaces
from purejax_po.experiment.tune.search import Search
from purejax_po.types import JSONObject


def _budget() -> ExperimentConfig:
    return ExperimentConfig(num_seeds=4, total_steps=100_000)


@dataclass(frozen=True, kw_only=True)
class Tune(Train):
    """Search for an algorithm's settings; trials are lanes of a few programs."""

    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=_budget)
    search: Annotated[Search, tyro.conf.arg(name="")] = field(default_factory=Search)
    space: str = "shipped"
    """The space to search: shipped (the algorithm's), none, or a TOML file's table [space]."""
    axes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="search", metavar="NAME=LOW..HIGH|log:LOW..HIGH|V,V,…"),
    ] = ()
    """Add a dimension to the space, or change one: learning_rate=log:1e-4..1e-2, num_envs=4,8,16,
    hidden=64x64,128x128, normalize_observations=true,false. Repeat --search for each further
    name."""
    in_file: tyro.conf.Suppress[tyro.conf.Fixed[dict[str, Any]]] = field(default_factory=dict)
    """The table [space] of the configuration file."""

    def execute(self) -> int:
        """Search, then print the best trials and the score of what was chosen."""
        config = self.config()
        self._check_file(config)
        name = f"tune-{compare.place_of(config.algorithm.name, config.env_name)}"
        host = replace(self.host, overwrite=self.overwrite)
        out = self.out or Path("runs") / name
        return run_search(tuning.prepare(config, out, self._space(), self.search, host), host)

    def _space(self) -> JSONObject:
        """What is searched: the space, with the dimensions that are given one by one."""
        if self.in_file and self.space == "shipped":
            base: JSONObject = dict(self.in_file)
        else:
            base = tuning.space_of(self.space, self.algorithm.name)
        return {**base, **spaces.parse_assignments(self.axes)}
