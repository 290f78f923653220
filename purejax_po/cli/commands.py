"""The commands that train: train, sweep, tune, compare, table1, resume."""

import errno
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from purejax_po.checks import check_choice
from purejax_po.cli import output, tables
from purejax_po.early import PROGRAM
from purejax_po.experiment import compare as comparison
from purejax_po.experiment import train, tuning
from purejax_po.experiment.config import PRESETS, ExperimentConfig, PPOConfig, specs, sweep, zoo
from purejax_po.experiment.config import file as config_file
from purejax_po.experiment.config.experiment import EvaluationActions
from purejax_po.experiment.config.lookup import algorithm_config, stored_name
from purejax_po.experiment.layout import BLOCKS, RUN_FILES, SWEEP, TUNE
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import loggers
from purejax_po.experiment.run.compilation import use_one_thread
from purejax_po.experiment.run.devices import keeps_one_core_busy
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.signals import Interrupted
from purejax_po.experiment.run.study import Study
from purejax_po.experiment.store.arrays import MANIFEST
from purejax_po.experiment.store.run_store import read_config
from purejax_po.experiment.tune.search import BEST, Search, Tuning
from purejax_po.experiment.tune.search import FILES as TUNING_FILES
from purejax_po.experiment.tune.space import parse_assignments
from purejax_po.studies import ppo_table1 as table1
from purejax_po.types import JSONObject

HostFlags = Annotated[Host, tyro.conf.arg(name="")]
DEFAULT_STEPS = 100_000
"""Of a comparison without settings of the zoo."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one algorithm on one environment over many seeds."""

    algorithm: Annotated[Any, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """TOML file of settings whose keys are the flags' names; flags override it."""
    preset: str | None = None
    """Start from tuned settings, which `purejax-po algorithms` lists, or with zoo from those of the
    algorithm on the environment, which `purejax-po zoo` lists. Other flags override them. GRPO on
    a token task starts from the task's preset."""
    out: Path | None = None
    """Directory for the run's files (default: runs/ALGORITHM-ENV; for a sweep or a search
    runs/sweep-ALGORITHM-ENV or runs/tune-ALGORITHM-ENV)."""
    overwrite: bool = False
    """Replace the run that the directory holds."""
    host: HostFlags = field(default_factory=Host)

    def config(self) -> ExperimentConfig:
        """What to run."""
        return replace(self.experiment, algorithm=self.algorithm)

    def execute(self) -> int:
        """Run the experiment, then print its table."""
        config = self.config()
        self._check_start(config)
        kind = "sweep-" if config.sweep else ""
        name = f"{kind}{comparison.place_of(config.algorithm.name, config.env)}"
        out = self.out or Path("runs") / name
        _prepare_process(config, self.host)
        host = replace(self.host, overwrite=self.overwrite)
        study = train.prepare(config, out, host)
        if self.preset is not None:
            print(f"{PROGRAM}: preset {self.preset}", file=sys.stderr)
        return _execute(study, host)

    def _check_start(self, config: ExperimentConfig) -> None:
        """Raise `ValueError` for another algorithm's preset or file, or a sweep's file."""
        own = type(config.algorithm)
        if self.preset not in (None, zoo.PRESET):
            check_choice("preset", self.preset, (*PRESETS, zoo.PRESET))
            if type(meant := PRESETS[self.preset].algorithm) is not own:
                raise ValueError(
                    f"preset must be one for {stored_name(own)}, got {self.preset!r}, which is "
                    f"for {meant.name}"
                )
        if self.config_file is None:
            return
        name = config_file.algorithm_name(config_file.read(self.config_file), self.config_file)
        if name is not None and algorithm_config(name) is not own:
            raise ValueError(
                f"algorithm must be that of {self.config_file}, {name}, got {stored_name(own)}"
            )
        if config.sweep and type(self).__name__ == "Train":
            raise ValueError(
                f"{self.config_file} holds a sweep: {PROGRAM} sweep --config {self.config_file}"
            )


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue an interrupted run, sweep, search or comparison, to the same results."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run, of the sweep, of the search or of the comparison."""
    host: HostFlags = field(default_factory=Host)

    def execute(self) -> int:
        """Run what is left, then print the table."""
        if (self.directory / TUNE).exists():
            return run_search(tuning.prepare_resume(self.directory, self.host), self.host)
        if comparison.is_comparison(self.directory):
            return _execute(comparison.prepare_resume(self.directory, self.host), self.host)
        _prepare_process(read_config(self.directory), self.host)
        return _execute(train.prepare_resume(self.directory, self.host), self.host)


@dataclass(frozen=True, kw_only=True)
class Sweep(Train):
    """Train one algorithm at each combination of some values, as lanes of one program."""

    axes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="NAME=V,V,…")
    ] = ()
    """Values to try: learning_rate=1e-4,3e-4, or env_params.gravity=9.8,12. Repeat --set for each
    further name. Every seed trains at each combination."""

    def config(self) -> ExperimentConfig:
        """As `Train.config`, with the axes."""
        config = super().config()
        if not self.axes and not config.sweep:
            raise ValueError("set must be given at least once: --set learning_rate=1e-4,3e-4")
        return replace(config, sweep={**config.sweep, **sweep.parse(self.axes)})


@dataclass(frozen=True, kw_only=True)
class Tune(Train):
    """Search for an algorithm's settings; trials are lanes of a few programs."""

    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: ExperimentConfig(num_seeds=4, total_steps=100_000)
    )
    search: Annotated[Search, tyro.conf.arg(name="")] = field(default_factory=Search)
    space: str | None = None
    """The space to search: shipped (the algorithm's), none, or a TOML file's table [space].
    Default: that of --config FILE if it has one, else shipped."""
    axes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="search", metavar="NAME=LOW..HIGH|log:LOW..HIGH|V,V,…"),
    ] = ()
    """Add a dimension to the space, or change one: learning_rate=log:1e-4..1e-2, num_envs=4,8,16,
    hidden=64x64,128x128, normalize_observations=true,false. Repeat --search for each further
    name."""
    in_file: tyro.conf.Suppress[tyro.conf.Fixed[dict[str, Any] | None]] = None
    """The table [space] of the configuration file."""

    def execute(self) -> int:
        """Search, then print the best trials and the score of what was chosen."""
        config = self.config()
        self._check_start(config)
        name = f"tune-{comparison.place_of(config.algorithm.name, config.env_name)}"
        host = replace(self.host, overwrite=self.overwrite)
        out = self.out or Path("runs") / name
        return run_search(tuning.prepare(config, out, self._space(), self.search, host), host)

    def _space(self) -> JSONObject:
        """What is searched: the space, with the dimensions that are given one by one."""
        if self.in_file is not None and self.space is None:
            base: JSONObject = dict(self.in_file)
        else:
            base = tuning.space_of(self.space or "shipped", self.algorithm.name)
        return {**base, **parse_assignments(self.axes, specs.places(self.algorithm))}


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train several algorithms on one environment or more, with the same seeds."""

    algorithms: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names, which `purejax-po algorithms` lists; my_pkg.spo:SPO names a class of yours. Each runs
    with its default settings, or with those that follow it: ppo=ppo-pendulum (a preset),
    ppo:learning_rate=1e-3,num_epochs=8, ppo=zoo (those tuned for each environment), ppo=best.toml
    (a file's settings and normalisation). LABEL= labels one: my=my_pkg.spo:SPO."""
    preset: Literal["zoo"] | None = None
    """zoo: each algorithm without given settings takes those that were tuned for the environment;
    `purejax-po zoo` lists them."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """TOML file of settings whose keys are the flags' names, and `algorithms`; flags override
    it."""
    env: tuple[str, ...] = ("CartPole-v1",)
    """Environment ids; `purejax-po envs` lists them."""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 8
    """Independent training runs of each algorithm on each environment."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, …"""
    total_steps: int | None = None
    """Environment steps per seed, rounded down to whole updates (default: 100000; with settings of
    the zoo, those that they were tuned for)."""
    num_windows: int = 100
    """Points of each learning curve, at least 10."""
    evaluate_every: int = 0
    """Windows between evaluations of every policy on the same episodes; 0: none."""
    evaluation_episodes: int = 16
    """Episodes of an evaluation."""
    evaluation_actions: EvaluationActions = "greedy"
    """The most likely actions, or sampled ones."""
    solve_return: float | None = None
    """The evaluation's mean return at which a task counts as solved; the results hold when."""
    stop_when_solved: float | None = None
    """As solve_return, and the seed's training ends there: its state no longer changes."""
    rank_by: Literal["training", "evaluation"] | None = None
    """As of `purejax-po report`."""
    lanes_per_device: int | None = None
    """Runs side by side on each device; chosen by default. Fix it to compare bit by bit."""
    normalize_observations: bool = False
    """Show policies and critics (obs − mean)/std, clipped to ±10."""
    normalize_rewards: bool = False
    """Train on reward / std of the running discounted return; results keep the true rewards."""
    wrappers: tuple[str, ...] = ()
    """Around each environment, the first innermost, such as frame_stack:4 time_limit:200."""
    randomize: tuple[str, ...] = ()
    """Fields of the environments' parameters that are drawn at every reset, such as g=8:12."""
    out: Path = Path("runs/comparison")
    """Directory for the runs, the pictures and the report."""
    overwrite: bool = False
    """Replace the comparison that the directory holds."""
    host: HostFlags = field(default_factory=Host)

    def execute(self) -> int:
        """Run all pairs, then print one table."""
        if not self.algorithms:
            raise ValueError(
                f"algorithms must be given, such as: {PROGRAM} compare ppo a2c "
                f"--env CartPole-v1 (all: {PROGRAM} algorithms)"
            )
        host = replace(self.host, overwrite=self.overwrite)
        settings = [f.name for f in fields(self) if f.name in comparison.SETTINGS]
        given = {name: getattr(self, name) for name in settings}
        prepared = comparison.prepare(
            self.algorithms,
            self.env,
            self.out,
            host,
            preset=self.preset,
            rank_by=self.rank_by,
            default_steps=DEFAULT_STEPS,
            **given,
        )
        return _execute(prepared, host)


@dataclass(frozen=True, kw_only=True)
class Table1:
    """Run the PPO paper's Table 1 on Brax: eleven objectives, seven tasks."""

    settings: Annotated[table1.Settings, tyro.conf.arg(name="")] = field(
        default_factory=table1.Settings
    )
    out: Path = Path("runs/table1")
    """Directory for the runs, the table and the curves. Its complete runs are not repeated."""
    plan: bool = False
    """Print the plan and the time it would take, and run nothing else."""
    host: HostFlags = field(default_factory=Host)

    def execute(self) -> int:
        """Print the plan, run it, and print the table."""
        try:
            jobs = table1.jobs(self.settings, self.out)
            self.host.check()
            if not self.plan:
                self.host.connect()  # before JAX is used here: workers have the accelerators
            for job in jobs:
                table1.check_same(job)
                loggers.check(self.host.log_to, job.config, job.directory)
            tables.print_plan(table1.plan(jobs, table1.probed(jobs, self.host)))
            if self.plan:
                return 0
            found = table1.execute(jobs, self.out, self.host)
        except Interrupted as stop:
            print(f"{PROGRAM}: interrupted; to go on: the same command again", file=sys.stderr)
            return 128 + stop.signal_number
        tables.print_columns("Table 1: scores, 95 % intervals over seeds", table1.cells(found))
        output.console().print(
            f"files: {self.out}{os.sep}{{{', '.join(table1.FILES)}}}", soft_wrap=True
        )
        return 0


def _prepare_process(config: ExperimentConfig, host: Host) -> None:
    """Set this process up for its one run, before JAX is used: checks of environments use it."""
    host.leave_accelerators()
    with suppress(ArithmeticError, AttributeError, TypeError, ValueError):  # told by the check
        if keeps_one_core_busy(config):
            use_one_thread()
    config.check()


def _execute(found: "Study | comparison.Comparison", host: Host) -> int:
    """Run an experiment or a comparison and print its table.

    An interruption or a full disk gives one line.
    """
    out = Path(found.directory or ".")
    try:
        if isinstance(found, comparison.Comparison):
            dataset = comparison.execute(found, host)
        else:
            dataset = train.execute(found, host)
    except Interrupted as stop:
        hint = f"; to go on: {PROGRAM} resume {shlex.quote(str(out))}" if stop.is_saved else ""
        print(f"{PROGRAM}: interrupted{hint or ' before training'}", file=sys.stderr)
        return 128 + stop.signal_number
    except OSError as error:
        reason = f"{out} cannot be written: {error.strerror or error}"
        print(f"{PROGRAM}: error: {reason}; {_what_is_left(out, error)}", file=sys.stderr)
        return 1
    if isinstance(found, comparison.Comparison):
        tables.print_comparison(dataset, found.rank_by)
        output.console().print(f"report: {out}{os.sep}{report.REPORT}", soft_wrap=True)
        return 0
    if results.swept(dataset):
        tables.print_points(dataset)
    tables.print_run(dataset)
    files = [*RUN_FILES, *[SWEEP] * bool(results.swept(dataset))]
    output.console().print(f"files: {out}{os.sep}{{{', '.join(files)}}}", soft_wrap=True)
    return 0


def run_search(prepared: Tuning, host: Host) -> int:
    """Run a search and print its table; returns the exit code."""
    place = prepared.directory
    try:
        found = tuning.execute(prepared, host)
    except Interrupted as stop:
        hint = f"to go on: {PROGRAM} resume {shlex.quote(str(place))}"
        print(f"{PROGRAM}: interrupted; {hint}", file=sys.stderr)
        return 128 + stop.signal_number
    tables.print_tuned(found)
    files = [name for name in TUNING_FILES if (place / name).exists()]
    output.console().print(f"files: {place}/{{{', '.join(files)}}}", soft_wrap=True)
    best = shlex.quote(str(place / BEST))
    output.console().print(f"to train it: {PROGRAM} train --config {best}", soft_wrap=True)
    return 0


def _what_is_left(out: Path, error: OSError) -> str:
    """What a run or a comparison that could not write has kept."""
    if error.errno == errno.ENOENT and not out.exists():
        return "it has vanished"
    if any(out.rglob(f"{BLOCKS}/*/[!.]*/{MANIFEST}")):
        return "its last checkpoint is intact"
    return "nothing was saved yet"
