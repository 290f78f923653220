"""Trials: Optuna's samplers propose batches of them, and its storage keeps what came of each.

A study in memory proposes a batch: it is told all finished trials before it, and its sampler has a
seed of that batch. So a proposal depends on the results before it alone, and a search that was
killed continues with the trials that it would have had.
"""

import importlib.util
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from purejax_po.checks import check_choice
from purejax_po.experiment.tune.space import Params, Range, Space, params_of, shape_names
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from purejax_po.experiment.tune.search import Tuning

OWNER = "purejax_po"
"""The attribute of a study that tells whose it is."""
FIXED = "fixed_params"
"""The attribute of a trial that was given parameters: no note of a sampler's."""
NEEDS = {"gp": "torch", "cmaes": "cmaes"}
"""Packages that samplers need besides."""
INSTALL = "pip install 'purejax-po[tune]'"
BATCHES_PER_SEED = 1000
"""Each batch has a sampler's seed of its own."""
MOST_SEED = (2**32 - 1) // BATCHES_PER_SEED - 100
"""The highest seed of a search: samplers take seeds below 2³²."""


class Trial(NamedTuple):
    """A point, and what became of it."""

    params: Params
    attributes: JSONObject
    """A sampler's own notes."""
    reports: dict[int, float] = {}  # noqa: RUF012 - never changed
    """IQM over seeds of the return, by environment steps of a seed; none once a seed diverged."""
    is_complete: bool = False
    """Whether it was trained to the end, and no seed diverged or ended no episode."""
    returns: Sequence[float] = ()
    """Of each seed, at the last rung that it took part in."""
    steps: int = 0
    """Environment steps of each seed."""

    @property
    def value(self) -> float | None:
        """The score of a complete trial."""
        return self.reports[max(self.reports)] if self.is_complete else None


SAMPLERS = ("tpe", "random", "quasi-random", "cmaes", "gp")


def _sampler(name: str, seed: int, batch: int) -> "BaseSampler":
    """Make one of `SAMPLERS`."""
    samplers = _optuna().samplers
    apart = samplers.RandomSampler(seed=seed)
    others = {"independent_sampler": apart, "warn_independent_sampling": False}
    match name:
        case "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case "random":
            return apart
        case "quasi-random":
            return samplers.QMCSampler(
                seed=seed - batch,  # one sequence, of which each batch has a part
                scramble=True,
                warn_asynchronous_seeding=False,
                **others,
            )
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, consider_pruned_trials=True, **others)
        case _:
            return samplers.GPSampler(seed=seed)


def check(sampler: str) -> None:
    """Raise `ValueError` for an unknown sampler, or one whose packages are not installed."""
    check_choice("sampler", sampler, SAMPLERS)
    if importlib.util.find_spec("optuna") is None:
        raise ValueError(f"tune needs optuna, which is not installed: {INSTALL}")
    if (package := NEEDS.get(sampler)) and importlib.util.find_spec(package) is None:
        raise ValueError(f"sampler {sampler} needs {package}, which is not installed")


def propose(
    tuning: "Tuning", batch: int, history: Sequence[Trial], attributes: Mapping[str, object]
) -> tuple[list[Trial], JSONObject]:
    """Propose a batch of points; returns them, and the sampler's notes about the study.

    Args:
        tuning: the search. Of what shapes programs a batch has `programs` combinations at most: the
            sampler chooses them for the first points, and the others take them by turns. The
            experiment's own point is the first of all, if the space holds it.
        batch: its number.
        history: all trials before.
        attributes: notes of the sampler that the last batch left.
    """
    optuna, space, search = _optuna(), tuning.space, tuning.search
    shape = shape_names(space, tuning.config.algorithm)
    first = params_of(tuning.config, space) if batch == 0 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental samplers
        made = _sampler(search.sampler, BATCHES_PER_SEED * search.search_seed + batch, batch)
        study = optuna.create_study(direction="maximize", sampler=made)
        for name, value in attributes.items():
            study._storage.set_study_system_attr(study._study_id, name, value)
        study.add_trials([_frozen(space, trial) for trial in history])
        asked = []
        for i in range(search.size_of(batch)):
            if i == 0 and first is not None:
                study.enqueue_trial(first)
            elif i >= search.programs and shape:
                leader = asked[i % search.programs].params
                study.enqueue_trial({name: leader[name] for name in shape})
            asked.append(study.ask(_distributions(space)))
        found = []
        for trial in asked:
            notes = {k: v for k, v in trial.system_attrs.items() if k != FIXED}
            found.append(Trial(dict(trial.params), notes))
        return found, dict(study.system_attrs)


def _distributions(space: Space) -> dict[str, "BaseDistribution"]:
    from optuna import distributions

    return {
        name: distributions.FloatDistribution(d.low, d.high, log=d.is_log)
        if isinstance(d, Range)
        else distributions.CategoricalDistribution(d.values)
        for name, d in space.items()
    }


def _frozen(space: Space, trial: Trial, is_running: bool = False) -> Any:
    optuna = _optuna()
    has_value = trial.reports and not is_running
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING if is_running else _state(trial),
        value=trial.reports[max(trial.reports)] if has_value else None,
        params=trial.params,
        distributions=_distributions(space),
        system_attrs=trial.attributes,
        intermediate_values=trial.reports,
    )


def _state(trial: Trial) -> "optuna.trial.TrialState":
    """What has become of a trial, as Optuna has it."""
    states = _optuna().trial.TrialState
    return states.COMPLETE if trial.is_complete else states.PRUNED


class Record:
    """The study that others look at: Optuna's dashboard, `optuna.load_study`."""

    def __init__(self, place: str | os.PathLike[str], name: str, identity: str) -> None:
        """Open or create the study.

        Args:
            place: a file, which a journal is kept in, or a URL of a database.
            name: of the study.
            identity: of the search.

        Raises:
            ValueError: if the storage cannot be opened, or its study is another search's.
        """
        optuna = _optuna()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.study = optuna.create_study(
                    storage=_storage(place),
                    study_name=name,
                    load_if_exists=True,
                    direction="maximize",
                )
        except Exception as error:  # whatever a database raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"storage must be a file or a database, got {place}: {reason}"
            ) from None
        owner = self.study.user_attrs.get(OWNER)
        if owner not in (None, identity) or (owner is None and len(self.study.trials)):
            raise ValueError(
                f"storage must be of this search, got {place}, whose study {name!r} is another's; "
                "choose another storage or name (--study)"
            )
        self.study.set_user_attr(OWNER, identity)

    def begin(self, space: Space, first: int, trials: Sequence[Trial]) -> None:
        """Add trials that are under way, unless they are there; `first` is their first number."""
        there = len(self.study.get_trials(deepcopy=False))
        for trial in trials[max(0, there - first) :]:
            self.study.add_trial(_frozen(space, trial, is_running=True))

    def report(self, first: int, trials: Sequence[Trial]) -> None:
        """Tell what is known of trials; again does no harm."""
        frozen = self.study.get_trials(deepcopy=False)[first : first + len(trials)]
        for known, trial in zip(frozen, trials, strict=True):
            for step, value in trial.reports.items():
                if not known.state.is_finished() and step not in known.intermediate_values:
                    storage, number = self.study._storage, known._trial_id
                    storage.set_trial_intermediate_value(number, step, value)

    def finish(self, first: int, trials: Sequence[Trial]) -> None:
        """Tell what became of trials; again does no harm."""
        self.report(first, trials)
        for number, trial in enumerate(trials, first):
            self.study.tell(number, trial.value, _state(trial), skip_if_finished=True)


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Return each name's share in what tells the best trials from the others; PED-ANOVA.

    A trial that was not trained to the end counts with its last score.

    Source: Watanabe, Bansal & Hutter 2023, PED-ANOVA.
    """
    optuna = _optuna()
    scored = [t._replace(is_complete=True) for t in trials if t.reports]
    study = optuna.create_study(direction="maximize")
    study.add_trials([_frozen(space, trial) for trial in scored])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError, ZeroDivisionError):  # too few trials, or all alike
            return {}
    return {k: float(v) for k, v in found.items() if math.isfinite(v)}


def _storage(place: str | os.PathLike[str]) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if "://" in str(place):
        return str(place)
    if not Path(place).parent.is_dir():
        raise ValueError("its folder is not there")
    return optuna.storages.JournalStorage(JournalFileBackend(os.fspath(place)))


def _optuna() -> ModuleType:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
