"""What a search has come to: its table, its summary, and the file that trains what it chose."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from purejax_po.early import PROGRAM
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.config import file as config_file
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import statistics
from purejax_po.experiment.tune.search import Tuning
from purejax_po.experiment.tune.space import Params, describe
from purejax_po.experiment.tune.trials import Trial
from purejax_po.types import JSONObject


class Choice(NamedTuple):
    """The point that a search has chosen."""

    number: int
    """Of its trial."""
    params: Params
    returns: list[float]
    """Of each seed that the search has seen it with."""
    seeds: list[int]

    @property
    def score(self) -> float:
        """IQM over those seeds; it was chosen by this number."""
        return float(statistics.iqm(self.returns))


def best(trials: Sequence[Trial], number: int) -> list[int]:
    """Return the numbers of the best complete trials, the best one first."""
    complete = [i for i, trial in enumerate(trials) if trial.is_complete]
    return sorted(complete, key=lambda i: (-(trials[i].value or 0.0), i))[:number]


OWN = ("trial", "score", "steps", "state")


def column(name: str) -> str:
    """The column of a name of the space: its own, unless every table has one that is called so."""
    return f"space.{name}" if name in OWN else name


def rows(trials: Sequence[Trial]) -> list[JSONObject]:
    """Return a row for each trial: its number, point, last score and how far it was trained."""
    return [
        {
            "trial": number,
            **{column(name): value for name, value in trial.params.items()},
            "score": trial.reports[max(trial.reports)] if trial.reports else None,
            "steps": trial.steps,
            "state": "complete" if trial.is_complete else "stopped",
        }
        for number, trial in enumerate(trials)
    ]


def summary(
    tuning: Tuning,
    trials: Sequence[Trial],
    finalists: Sequence[Trial],
    choice: Choice,
    fresh: Any,
    importances: dict[str, float],
) -> JSONObject:
    """Return what `tuning.json` holds, as JSON-ready values.

    Args:
        tuning, trials, choice: the search, all of its trials, and what it chose.
        finalists: the best trials, trained with further seeds.
        fresh: results of the chosen point with fresh seeds.
        importances: of the names of the space.
    """
    config, final = tuning.config, fresh["final_return"].values
    is_sound = fresh["diverged_at"].values < 0
    return {
        "algorithm": config.algorithm.name,
        "env": config.env_name,
        "total_steps": config.total_steps,
        "num_trials": len(trials),
        "num_complete": sum(trial.is_complete for trial in trials),
        "searched_steps": sum(t.steps for t in trials) * config.num_seeds,
        "finalist_steps": sum(t.steps for t in finalists) * tuning.search.finalist_seeds,
        "finalists": len(finalists),
        "complete_finalists": sum(trial.is_complete for trial in finalists),
        "chosen": {"trial": choice.number, "params": choice.params},
        "search": {"seeds": choice.seeds, "returns": choice.returns, "iqm": choice.score},
        "fresh": {
            "seeds": fresh["seed"].values.tolist(),
            "diverged": int(np.sum(~is_sound)),
            "without_final_episodes": int(np.sum(is_sound & ~np.isfinite(final))),
            **results.over_seeds(results.sound_final_returns(fresh)),
        },
        "importances": importances,
        "versions": results.versions(),
    }


def best_toml(tuning: Tuning, choice: Choice, config: ExperimentConfig, told: JSONObject) -> str:
    """Return the file that `train --config` reads: the chosen point, and what shows it.

    Args:
        tuning, choice: the search, and what it chose.
        config: the experiment with fresh seeds.
        told: the summary.
    """
    fresh, search = told["fresh"], tuning.search
    seeds = f"{config.first_seed} … {config.first_seed + config.num_seeds - 1}"
    comments = [
        f"{config.algorithm.name} on {config.env_name}, {config.total_steps:,} steps",
        f"chosen: trial {choice.number} of {told['num_trials']} ({search.sampler}): "
        f"{describe(choice.params)}",
        f"in the search: IQM {choice.score:.4g} over {len(choice.seeds)} seeds "
        f"({choice.seeds[0]} … {choice.seeds[-1]}), by which it was chosen: that flatters it",
        f"fresh: IQM {_shown(fresh['iqm'])} (95 % CI {_shown(fresh['ci_low'])} … "
        f"{_shown(fresh['ci_high'])}) over {_counted(fresh)} ({seeds}) that the search never saw",
        f"train it: {PROGRAM} train --config best.toml",
    ]
    return config_file.write_toml(config_file.as_settings(config), comments)


def _counted(fresh: JSONObject) -> str:
    """How many of the fresh seeds the statistics are of."""
    number = len(fresh["seeds"])
    left_out = fresh["diverged"] + fresh["without_final_episodes"]
    return f"{number - left_out} of {number} seeds" if left_out else f"{number} seeds"


def _shown(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"
