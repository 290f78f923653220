"""Comparing algorithms: a run for each algorithm on each environment, with the same seeds.

A comparison is a directory: `comparison.json`, a run's directory for each pair below it, and once
all are done the pictures and `report.html`.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from purejax_po import environments
from purejax_po.checks import check_choice
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout, train
from purejax_po.experiment.config import AlgorithmConfig, ExperimentConfig, file, specs, zoo
from purejax_po.experiment.layout import COMPARISON
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import evaluated
from purejax_po.experiment.results import join as runs
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import Observer
from purejax_po.experiment.run.signals import Interrupted
from purejax_po.experiment.run.study import Study
from purejax_po.experiment.store import lock as locks
from purejax_po.experiment.store import run_store as files
from purejax_po.types import EnvName

if TYPE_CHECKING:
    import xarray as xr

Algorithms = Sequence[str | AlgorithmConfig] | Mapping[str, str | AlgorithmConfig]

SETTINGS = tuple(
    field.name
    for field in dataclasses.fields(ExperimentConfig)
    if field.name not in ("algorithm", "env", "env_params")
)


class Comparison(NamedTuple):
    """Checked experiments, ready to be compiled, by label and environment."""

    experiments: dict[tuple[str, str], Study]
    directory: Path | None
    rank_by: str | None = None
    """What orders the report's runs: `"training"` or `"evaluation"`; None: training, as given."""


def compare(
    algorithms: Algorithms,
    envs: EnvName | list[EnvName] | tuple[EnvName, ...] = ("CartPole-v1",),
    out: str | os.PathLike[str] | None = None,
    host: Host | None = None,
    preset: str | None = None,
    rank_by: str | None = None,
    **settings: Any,
) -> "xr.Dataset":
    """Train each algorithm on each environment with the same seeds.

    Args:
        algorithms: names, configurations, or a mapping from labels to them. A name may have preset
            and settings: `"ppo=ppo-pendulum"`, `"ppo:learning_rate=1e-3,num_epochs=8"`; it may be
            your own, with a label: `"my=my_pkg.spo:SPO"`. `"ppo=best.toml"` takes algorithm,
            normalisation and wrappers from a file; environment, seeds and steps are the
            comparison's.
        envs: environment ids, or environments.
        out: directory for the runs' files, pictures and the report; none are written without it.
        host: where and how the runs take place, as `run`.
        preset: `"zoo"`: each algorithm without given settings takes those that were tuned for
            the environment (`"ppo=zoo"` among the algorithms does so for one). Without
            `total_steps` an environment has the budget of the zoo's settings.
        rank_by: as `report`, for the comparison's.
        **settings: fields of `ExperimentConfig`, such as `num_seeds` and `total_steps`, and of
            `Host`: `overwrite=True` replaces the comparison that `out` already holds.

    Returns:
        Results labelled by `algorithm` and `env` (where there are several), `seed` and `update`;
        see `load_runs`.

    Raises:
        ValueError: for a bad algorithm, environment, pair of them, setting or directory, before
            anything is compiled.
        Interrupted: after SIGINT or SIGTERM, once the state is saved (with `out`); `resume_compare`
            continues.
    """
    fields = [field.name for field in dataclasses.fields(Host)]
    where = {name: settings.pop(name) for name in fields if name in settings}
    host = (host or Host()).but(where)
    comparison = prepare(algorithms, envs, out, host, preset, rank_by, **settings)
    return train.without_frames(execute, comparison, host)


def prepare(
    algorithms: Algorithms,
    envs: EnvName | list[EnvName] | tuple[EnvName, ...],
    out: str | os.PathLike[str] | None = None,
    host: Host | None = None,
    preset: str | None = None,
    rank_by: str | None = None,
    default_steps: int | None = None,
    **settings: Any,
) -> Comparison:
    """Check every pair, and build its trainer; compiles nothing. Arguments, errors as `compare`.

    `default_steps` are the steps where neither `total_steps` nor the zoo has any.
    """
    host = host or Host()
    host.leave_accelerators()
    if out is not None:
        atomic.check_path("out", out)
    for name in settings:
        check_choice("a setting", name, SETTINGS)
    if rank_by is not None:
        check_choice("rank_by", rank_by, tuple(evaluated.KEYS))
        if rank_by == "evaluation" and not settings.get("evaluate_every"):
            raise ValueError("rank_by must be training without evaluate_every, got evaluation")
    labelled = _labelled(algorithms)
    if preset is not None:
        check_choice("preset", preset, (zoo.PRESET,))
        labelled = [named._replace(zoo="") if named.is_plain else named for named in labelled]
    chosen = list(envs) if isinstance(envs, list | tuple) else [envs]
    for env in chosen:
        environments.check_name(env)
    _check_distinct("env", [ExperimentConfig(env=env).env_name for env in chosen])
    directory = None if out is None else Path(out)
    if directory is not None:
        is_old = (directory / COMPARISON).exists()
        if is_old and not host.overwrite:
            raise ValueError(
                f"out must hold no comparison yet, got {directory} with a {COMPARISON}; "
                "choose another directory, resume it or overwrite it (--overwrite)"
            )
        files.check_no_other(directory, but=COMPARISON)
        files.check_writable(directory, overwrite=False, own=() if is_old else layout.OWN)
        names = [ExperimentConfig(env=env).env_name for env in chosen]
        _check_places([(named.label, name) for name in names for named in labelled])
    experiments, own_steps = {}, settings.pop("total_steps", None)
    for env in chosen:
        for label, config in _settled(labelled, env, settings, own_steps, default_steps).items():
            name = config.env_name
            place = None if directory is None else directory / place_of(label, name)
            experiments[label, name] = _prepare_one(label, config, place, host)
    return Comparison(experiments, directory, rank_by)


def prepare_resume(out: str | os.PathLike[str], host: Host | None = None) -> Comparison:
    """As `prepare`, for the comparison that a directory holds.

    Raises:
        ValueError: if the directory holds no comparison.
    """
    atomic.check_path("out", out)
    directory = Path(out)
    experiments, content = {}, runs.read_comparison(directory)
    for run in content["runs"]:
        place = directory / run["directory"]
        try:
            config = ExperimentConfig.from_dict(run["config"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{COMPARISON} must hold configurations of this version, got {directory}: {error}"
            ) from None
        if (place / layout.CONFIG).exists():
            experiment = train.prepare_resume(place, host)
            if experiment.config.identity() != config.identity():
                raise ValueError(
                    f"{place} must hold the run that {COMPARISON} tells of, got one with another "
                    "configuration; compare again (--overwrite)"
                )
        else:
            experiment = _prepare_one(run["algorithm"], config, place, host)
        experiments[run["algorithm"], run["env"]] = experiment
    return Comparison(experiments, directory, content.get("rank_by"))


def execute(comparison: Comparison, host: Host | None = None) -> "xr.Dataset":
    """Train what is not complete, and write the comparison's files; see `compare`."""
    directory, host = comparison.directory, host or Host()
    with ExitStack() as stack:
        if directory is not None:
            stack.enter_context(locks.hold(directory))
        for observer in host.observers:
            stack.callback(observer.close)
        kept = tuple(_Kept(observer) for observer in host.observers)
        return _execute(comparison, dataclasses.replace(host, observers=kept))


class _Kept(Observer):
    """An observer that several runs tell of their windows, and do not close: another may come."""

    def __init__(self, observer: Observer) -> None:
        self.on_window = observer.on_window


def _execute(comparison: Comparison, host: Host) -> "xr.Dataset":
    experiments, directory, rank_by = comparison
    plan = [
        {
            "algorithm": label,
            "env": env,
            "directory": place_of(label, env),
            "config": experiment.config.to_dict(),
        }
        for (label, env), experiment in experiments.items()
    ]
    if directory is not None:
        content = {"rank_by": rank_by, "runs": plan, "results": None}
        # What resume would take for runs of this comparison, or refuse; none may be at work.
        places = [x.directory for x in experiments.values() if x.directory and not x.is_resumed]
        former = [place for place in places if host.overwrite and place.exists()]
        with ExitStack() as stack:
            for place in former:
                stack.enter_context(locks.hold(place))
            atomic.write_json(directory / COMPARISON, content)
            for place in former:
                files.discard(place)
    found: runs.Runs = {}
    for i, ((label, env), experiment) in enumerate(experiments.items(), 1):
        named = "" if label == experiment.config.algorithm.name else f"{label}: "
        title = f"{i} of {len(experiments)}: {named}"
        try:
            dataset = train.execute(experiment, host, title)
        except Interrupted as stop:  # what is complete is kept
            message = "interrupted; nothing is saved, for the comparison had no out (a directory)"
            if directory is not None:
                message = (
                    f"interrupted; to go on: purejax_po.resume_compare({os.fspath(directory)!r})"
                )
            raise Interrupted(stop.signal_number, saved_to=directory, message=message) from None
        found[label, env] = dataset.assign_attrs(algorithm=label)
    joined = runs.join(found)
    if directory is not None:
        content = {"rank_by": rank_by, "runs": plan, "results": report.figures(joined, rank_by)}
        atomic.write_json(directory / COMPARISON, content)
        report.write(joined, directory, rank_by=rank_by)
    return joined


def resume_compare(
    out: str | os.PathLike[str], host: Host | None = None, **where: Any
) -> "xr.Dataset":
    """Continue the comparison that a directory holds; complete runs are only read."""
    host = (host or Host()).but(where)
    return execute(prepare_resume(out, host), host)


def is_comparison(directory: str | os.PathLike[str]) -> bool:
    """Tell whether a directory holds a comparison."""
    atomic.check_path("directory", directory)
    return (Path(directory) / COMPARISON).exists()


def place_of(label: str, env: str) -> str:
    """Return the name of a pair's directory: letters, digits, `.`, `_`, `+` and `-` alone."""
    return re.sub(r"[^\w.+-]+", "-", f"{label}-{env}")


def _labelled(algorithms: Algorithms) -> list[specs.Named]:
    """Configurations with their labels."""
    if isinstance(algorithms, str | AlgorithmConfig):
        algorithms = [algorithms]
    if isinstance(algorithms, Mapping):
        found = [_named(a)._replace(label=label) for label, a in algorithms.items()]
    else:
        found = [_named(a) for a in algorithms]
    _check_distinct("algorithm", [named.label for named in found], tuple(algorithms))
    return found


def _settled(
    labelled: Sequence[specs.Named],
    env: EnvName,
    settings: file.Settings,
    total_steps: int | None,
    default_steps: int | None,
) -> dict[str, ExperimentConfig]:
    """Experiments by label on an environment, all of as many steps.

    Raises:
        ValueError: if they are not around the same environment.
    """
    found: dict[str, ExperimentConfig] = {}
    budgets: set[int] = set()
    for named in labelled:
        label, algorithm, own = named.label, named.algorithm, named.settings
        if named.zoo is not None:
            tuned = zoo.of(algorithm, ExperimentConfig(env=env).env_name).config
            algorithm = specs.changed(tuned.algorithm, named.zoo, label)
            own = specs.of_a_file(tuned)
            budgets.add(tuned.total_steps)
        config = ExperimentConfig(algorithm=algorithm, env=env, **{**settings, **own})
        for name, value in named.task.items():
            if settings.get(name, getattr(ExperimentConfig(), name)) != value:
                raise ValueError(
                    f"{label} must leave {name} to the comparison, which is the same for all of "
                    f"its algorithms, got {value!r} in its file"
                )
        given = tuple(settings.get("wrappers", ()))
        if given and "wrappers" in own and given != tuple(config.wrappers):
            raise ValueError(
                f"wrappers must be left out for {label} on {config.env_name}, whose settings are "
                f"for {', '.join(config.wrappers)}, got {', '.join(given)}"
            )
        found[label] = config
    if len({tuple(config.wrappers) for config in found.values()}) > 1:
        shown = "; ".join(f"{k}: {', '.join(c.wrappers) or 'none'}" for k, c in found.items())
        name = next(iter(found.values())).env_name
        raise ValueError(
            f"wrappers must be the same for all algorithms on {name}, got {shown}; "
            "--wrappers gives them to all"
        )
    default = default_steps or ExperimentConfig().total_steps
    steps = max(budgets, default=default) if total_steps is None else total_steps
    return {k: dataclasses.replace(c, total_steps=steps) for k, c in found.items()}


def _named(algorithm: str | AlgorithmConfig) -> specs.Named:
    if isinstance(algorithm, AlgorithmConfig):
        return specs.Named(algorithm.name, algorithm, {})
    return specs.labelled(str(algorithm))


def _check_distinct(
    name: str, values: Sequence[str], algorithms: Sequence[str | AlgorithmConfig] = ()
) -> None:
    """Raise `ValueError` for no values, or for one given twice: here is how to label it."""
    if not values:
        raise ValueError(f"{name} must be given at least once, got none")
    for i, value in enumerate(values):
        if value in values[:i]:
            other = _relabelled(algorithms[i], value) if algorithms else ""
            hint = f"; a label tells two apart: {other}" if other else ""
            raise ValueError(f"each {name} must be given once, got {value} more than once{hint}")


def _relabelled(algorithm: str | AlgorithmConfig, label: str) -> str:
    """An algorithm as it is given, with another label."""
    if isinstance(algorithm, AlgorithmConfig):
        return f"{{'other': {type(algorithm).__name__}(…)}}"
    return f"other={algorithm.removeprefix(f'{label}=')}"


def _check_places(pairs: list[tuple[str, str]]) -> None:
    """Raise `ValueError` for two pairs whose runs would have one directory."""
    taken: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        if (other := taken.setdefault(place_of(*pair), pair)) != pair:
            raise ValueError(
                f"each algorithm must have a directory of its own, got {place_of(*pair)} for "
                f"{' on '.join(other)} and {' on '.join(pair)}; choose labels that differ in "
                "letters or digits"
            )


def _prepare_one(
    label: str, config: ExperimentConfig, place: Path | None, host: Host | None
) -> Study:
    """As `train.prepare`; the message says which pair is wrong."""
    try:
        return train.prepare(config, place, host)
    except ValueError as error:
        raise ValueError(f"{label} on {config.env_name}: {error}") from None
