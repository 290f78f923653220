"""Search for settings: batches of trials as lanes, then the honest number of what was chosen."""

import dataclasses
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from purejax_po.checks import check_choice
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout, train
from purejax_po.experiment.config import ExperimentConfig, file
from purejax_po.experiment.plots import tuning as pictures
from purejax_po.experiment.report import formats
from purejax_po.experiment.run import devices, loggers
from purejax_po.experiment.run.compilation import compilation_cache
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import StoppedError
from purejax_po.experiment.run.signals import Interrupted, StopSignal, stop_signal
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.experiment.store import lock as locks
from purejax_po.experiment.store import run_store
from purejax_po.experiment.tune import outcome, search, shipped
from purejax_po.experiment.tune import space as spaces
from purejax_po.experiment.tune import trials as records
from purejax_po.experiment.tune.halving import train_batch
from purejax_po.experiment.tune.outcome import Choice
from purejax_po.experiment.tune.rungs import Work
from purejax_po.experiment.tune.search import Batch, Search, Tuning
from purejax_po.experiment.tune.space import Params
from purejax_po.experiment.tune.trials import Record, Trial
from purejax_po.reads import fields_read
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr


class Tuned(NamedTuple):
    """The outcome of a search."""

    best: ExperimentConfig
    """The chosen point, with the fresh seeds."""
    fresh: "xr.Dataset"
    """Its results with seeds that the search never saw."""
    summary: JSONObject
    """As `tuning.json`: the score in the search, and beside it that of the fresh seeds."""
    trials: list[JSONObject]
    """A row for each trial."""


def tune(
    config: ExperimentConfig,
    out: str | os.PathLike[str],
    space: Mapping[str, object] | None = None,
    host: Host | None = None,
    **settings: Any,
) -> Tuned:
    """Search for settings of an algorithm on an environment, within a budget of steps.

    The trials of a batch, each with all its seeds, are lanes of a few programs. At each rung the
    best trials continue from their own state. The best of all train with further seeds, and one of
    them is chosen. It trains once more with seeds that played no part in the choice.

    Args:
        config: the settings that the space does not have; `num_seeds` are each trial's,
            `total_steps` the budget.
        out: directory for all files; Optuna's dashboard opens its `trials.log`.
        space: dimensions by name: `"log:1e-4..1e-2"`, `"0.1..0.3"`, or a list of values; of
            hyperparameters and of options that shape programs (`num_envs`, `hidden`,
            `normalize_observations`). By default the algorithm's shipped space.
        host: where and how it runs, as `run`.
        **settings: fields of `Search`, such as `trials`, `batch` and `sampler`, and of `Host`.

    Raises:
        ValueError: for a bad configuration, space, setting, storage or directory, before anything
            is compiled.
        Interrupted: after SIGINT or SIGTERM, once the state is saved; `resume_tune` continues.
    """
    chosen = {name: settings.pop(name) for name in Search.__dataclass_fields__ if name in settings}
    host = (host or Host()).but(settings)
    tuning = prepare(config, out, space, Search(**chosen), host)
    return train.without_frames(execute, tuning, host)


def resume_tune(out: str | os.PathLike[str], host: Host | None = None, **where: Any) -> Tuned:
    """Continue the search that a directory holds: its trials are those of an undisturbed one."""
    host = (host or Host()).but(where)
    return train.without_frames(execute, prepare_resume(out, host), host)


def prepare(
    config: ExperimentConfig,
    out: str | os.PathLike[str],
    space: Mapping[str, object] | None = None,
    settings: Search | None = None,
    host: Host | None = None,
) -> Tuning:
    """Check everything that a user can get wrong; compiles nothing. Arguments, errors as `tune`."""
    host, settings = host or Host(), (settings or Search()).located()
    host.leave_accelerators()
    atomic.check_path("out", out)
    directory = Path(out)
    train.check_is_config(config)
    if config.sweep:
        raise ValueError("tune must be given a space, got a sweep; sweep has no search")
    if config.stop_when_solved is not None:
        raise ValueError(
            "stop_when_solved must not be given to tune, whose trials train equally long, got "
            f"{config.stop_when_solved}; solve_return tells when a return was reached"
        )
    config.check()
    config.check_stored()
    settings.check()
    host.check()
    found = shipped.space_of(config.algorithm.name) if space is None else spaces.parse(space)
    spaces.check(found, config)
    parts = search.seeds_of(config, settings)
    for name, seeds in parts._asdict().items():
        try:
            search.at_seeds(config, seeds).check()
        except ValueError as error:
            raise ValueError(f"{name} seeds {seeds.start} … {seeds[-1]}: {error}") from None
    loggers.check(host.log_to, search.at_seeds(config, parts.fresh), directory)
    run_store.check_no_other(directory, but=search.TUNE)
    search.check_free(directory, settings, host.overwrite)
    run_store.check_writable(directory, overwrite=False)
    host.connect()
    found = _with_effect(config, found)
    width = config.lanes_per_device or _width(config, settings)
    tuning = Tuning(config, found, settings, directory, width)
    if settings.storage:  # an error if it is another search's
        Record(tuning.storage, tuning.study, tuning.identity())
    return tuning


def prepare_resume(out: str | os.PathLike[str], host: Host | None = None) -> Tuning:
    """As `prepare`, for the search that a directory holds.

    Raises:
        ValueError: if there is none.
    """
    atomic.check_path("out", out)
    tuning, host = search.read(Path(out)), host or Host()
    host.leave_accelerators()
    tuning.search.check()
    spaces.check(tuning.space, tuning.config)
    host.check()
    fresh = search.seeds_of(tuning.config, tuning.search).fresh
    loggers.check(host.log_to, search.at_seeds(tuning.config, fresh), tuning.directory)
    host.connect()
    return tuning


def _with_effect(config: ExperimentConfig, space: spaces.Space) -> spaces.Space:
    """The space without shipped dimensions that training does not read; by an abstract update.

    Raises:
        ValueError: for another number that training does not read, or a trial that cannot be built.
    """
    hyperparams = config.algorithm.hyperparams
    usual = spaces.parse(shipped.SPACES.get(config.algorithm.name, {}))
    spaces.check_shapes(space, config, config.make_env())
    read, _ = fields_read(build_trainer(config))
    traced = [name for name in space if spaces.is_traced(config.algorithm, name)]
    spare = {name for name in traced if name not in read and usual.get(name) == space[name]}
    unread = set(spare)
    for shape in spaces.shapes(space, config.algorithm) if spare else ():
        unread -= fields_read(build_trainer(spaces.at(config, shape)))[0]
        if not unread:
            break
    if unread:
        named = f"{', '.join(sorted(unread))}, which training does not read"
        print(f"not searched: {named} with these options", file=sys.stderr)
    axes = {k: (float(getattr(hyperparams, k)),) for k in traced if k not in spare}
    build_trainer(dataclasses.replace(config, sweep=axes))
    return {name: dimension for name, dimension in space.items() if name not in unread}


def _width(config: ExperimentConfig, settings: Search) -> int:
    """Lanes on each device: as many as keep all devices busy at the last rung of a batch."""
    workers, best = devices.workers(), devices.BEST_LANES_PER_ACCELERATOR
    number = math.ceil(settings.batch / settings.programs)
    if workers[0].platform == "cpu":
        best, number = devices.lanes_per_core(config.algorithm), settings.batch
        for _ in range(settings.rungs - 1):
            number = settings.num_survivors(number)
        number = max(1, number // settings.programs)
    return min(best, math.ceil(number * config.num_seeds / len(workers)))


def execute(tuning: Tuning, host: Host) -> Tuned:
    """Search, and write the files; see `tune`."""
    directory = tuning.directory
    with compilation_cache(host.compilation_cache), stop_signal() as stop, locks.hold(directory):
        try:
            if not tuning.is_resumed:
                _begin(tuning)
            return _execute(tuning, host, stop)
        except Interrupted as interruption:
            message = f"interrupted; to go on: purejax_po.resume_tune({str(directory)!r})"
            number = interruption.signal_number
            raise Interrupted(number, saved_to=directory, message=message) from None


def _begin(tuning: Tuning) -> None:
    """Remove the search that the directory held, and write what decides the trials."""
    directory = tuning.directory
    for name in (search.BATCHES, search.FINALISTS, search.FRESH):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    for name in search.FILES:
        (directory / name).unlink(missing_ok=True)
    atomic.write_json(directory / search.TUNE, tuning.to_dict())


def _execute(tuning: Tuning, host: Host, stop: StopSignal) -> Tuned:
    config, settings, directory = tuning.config, tuning.search, tuning.directory
    seeds = search.seeds_of(config, settings)
    count = _Count(host)
    # Trials are judged by their training episodes; the run with fresh seeds is evaluated.
    judged = dataclasses.replace(config, evaluate_every=0, stop_when_solved=None, keep_best=False)
    work = Work(judged, settings, tuning.width, host, stop, count)
    record = Record(tuning.storage, tuning.study, tuning.identity())
    history: list[Trial] = []
    attributes: JSONObject = {}
    for number in range(settings.num_batches):
        batch = _batch(tuning, number, history, attributes)
        record.begin(tuning.space, len(history), batch.trials)
        if not batch.is_trained:
            folder = search.batch_folder(directory, number)
            batch = _train(work, batch, folder, partial(record.report, len(history)))
            count.tell(tuning, number, [*history, *batch.trials])
        record.finish(len(history), batch.trials)
        attributes = batch.attributes
        history += batch.trials
    choice, finalists = _choose(work, tuning, seeds, history)
    whole = search.at_seeds(spaces.at(config, choice.params), seeds.fresh)
    fresh = _train_fresh(whole, directory / search.FRESH, host)
    importances = records.importances(tuning.space, history)
    told = outcome.summary(tuning, history, finalists, choice, fresh, importances)
    rows = outcome.rows(history)
    with stop.deferred():
        columns = list(map(outcome.column, tuning.space))
        pictures.save_pictures(directory, rows, columns, importances)
        atomic.write_text(directory / search.TABLE, formats.to_csv(rows))
        best = outcome.best_toml(tuning, choice, whole, told)
        atomic.write_text(directory / search.BEST, best)
        atomic.write_json(directory / search.SUMMARY, told)
    return Tuned(whole, fresh, told, rows)


def _batch(
    tuning: Tuning, number: int, history: Sequence[Trial], attributes: Mapping[str, object]
) -> Batch:
    """Read a batch, or propose it."""
    folder = search.batch_folder(tuning.directory, number)
    if (known := search.read_batch(folder)) is not None:
        return known
    batch = Batch(*records.propose(tuning, number, history, attributes))
    search.write_batch(folder, batch)
    return batch


def _train(
    work: Work,
    batch: Batch,
    folder: Path,
    report: Callable[[list[Trial]], None] = lambda trials: None,
) -> Batch:
    """Train a batch, and keep what became of it; its states go."""
    trials = train_batch(work, batch.trials, folder, report)
    batch = batch._replace(trials=trials, is_trained=True)
    search.write_batch(folder, batch)
    for states in folder.glob("program-*"):
        shutil.rmtree(states, ignore_errors=True)
    return batch


def _choose(
    work: Work, tuning: Tuning, seeds: search.Seeds, history: Sequence[Trial]
) -> tuple[Choice, list[Trial]]:
    """Choose the best trial, of the finalists by their further seeds too; returns these besides.

    Raises:
        StoppedError: if no trial came to its end.
    """
    numbers = outcome.best(history, max(1, tuning.search.finalists))
    if not numbers:
        raise StoppedError(
            "no trial of the search came to its end: in each a seed diverged or ended no episode"
        )
    choices = [
        Choice(n, history[n].params, [*history[n].returns], [*seeds.search]) for n in numbers
    ]
    if tuning.search.finalists == 0:
        return choices[0], []
    further = _finalists(work, tuning, seeds.finalists, [c.params for c in choices])
    both = [
        c._replace(returns=[*c.returns, *f.returns], seeds=c.seeds + list(seeds.finalists))
        for c, f in zip(choices, further, strict=True)
        if f.is_complete
    ]
    return max(both, key=lambda choice: choice.score, default=choices[0]), further


def _finalists(work: Work, tuning: Tuning, seeds: range, points: Sequence[Params]) -> list[Trial]:
    """Train the finalists with further seeds."""
    folder = tuning.directory / search.FINALISTS
    known = search.read_batch(folder)
    if known is not None and known.is_trained:
        return known.trials
    work = work._replace(config=search.at_seeds(work.config, seeds), search=Search(rungs=1))
    batch = Batch([Trial(dict(point), {}) for point in points], {})
    return _train(work, batch, folder).trials


def _train_fresh(config: ExperimentConfig, place: Path, host: Host) -> "xr.Dataset":
    """Train the chosen point with fresh seeds, as a run of its own."""
    host = host.but({"overwrite": False})
    is_begun = (place / layout.CONFIG).exists()
    study = train.prepare_resume(place, host) if is_begun else train.prepare(config, place, host)
    return train.execute(study, host, "fresh seeds: ")


class _Count:
    """Counts environment steps, and tells of batches on stderr."""

    def __init__(self, host: Host) -> None:
        self._is_quiet = host.progress is not True
        self._began, self._steps = time.perf_counter(), 0

    def __call__(self, steps: int) -> None:
        self._steps += steps

    def tell(self, tuning: Tuning, number: int, known: Sequence[Trial]) -> None:
        """Print a line of a batch and all trials so far, and the steps and the time it took."""
        best = [f"best {known[i].value:.4g} (trial {i})" for i in outcome.best(known, 1)]
        line = (
            f"{tuning.config.algorithm.name} on {tuning.config.env_name}: batch {number + 1} of "
            f"{tuning.search.num_batches}, {len(known)} trials, {(*best, 'none is complete')[0]}"
        )
        now = time.perf_counter()
        if not self._is_quiet:
            took = f"{self._steps:,} steps in {now - self._began:.0f} s"
            print(f"{line}; {took}", file=sys.stderr, flush=True)
        self._began, self._steps = now, 0


def space_of(name: str, algorithm: str) -> JSONObject:
    """Return the space that a name stands for: `shipped`, `none`, or a file's table `[space]`.

    Raises:
        ValueError: for another name.
    """
    if isinstance(name, str) and name.endswith(".toml"):  # a file's key may hold anything
        data = file.read(name)
        if unknown := set(data) - {"space"}:
            raise ValueError(f"space {name} must hold a table [space] alone, got {min(unknown)!r}")
        return file.table("space", data.get("space", {}), name)
    check_choice("space", name, ("shipped", "none", "FILE.toml"))
    return spaces.to_json(shipped.space_of(algorithm)) if name == "shipped" else {}
