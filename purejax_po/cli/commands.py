"""The command line `purejax-po`: tyro over `experiment`."""

import contextlib
import errno
import io
import math
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

import purejax_po
from purejax_po import environments
from purejax_po.checks import check_choice
from purejax_po.cli import arguments as typed
from purejax_po.cli import messages, output, own, tables
from purejax_po.experiment import compare as comparison
from purejax_po.experiment import files as atomic
from purejax_po.experiment import policies, train
from purejax_po.experiment.config import (
    ALGORITHMS,
    PRESETS,
    TASK_PRESETS,
    ExperimentConfig,
    PPOConfig,
    sweep,
)
from purejax_po.experiment.layout import BLOCKS, RUN_FILES, SWEEP
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import loggers
from purejax_po.experiment.run.compilation import (
    use_compilation_cache,
    use_no_compilation_cache,
    use_one_thread,
)
from purejax_po.experiment.run.devices import keeps_one_core_busy
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import StoppedError
from purejax_po.experiment.run.signals import Interrupted, stop_signal
from purejax_po.experiment.run.study import Study
from purejax_po.experiment.store.arrays import MANIFEST
from purejax_po.experiment.store.run_store import read_config
from purejax_po.studies import ppo_table1 as table1

if TYPE_CHECKING:
    pass

PROGRAM = messages.PROGRAM

PointFlags = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
]
HostFlags = Annotated[Host, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one algorithm on one environment over many seeds."""

    algorithm: Annotated[Any, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
    preset: str | None = None
    """Start from tuned settings; `purejax-po algorithms` lists them. Other flags still apply. GRPO
    on a token task starts from the task's own."""
    out: Path | None = None
    """Directory for the run's files (default: runs/ALGORITHM-ENV, or runs/sweep-ALGORITHM-ENV)."""
    overwrite: bool = False
    """Replace the run that the directory holds."""
    host: HostFlags = field(default_factory=Host)

    def config(self) -> ExperimentConfig:
        """What to run."""
        return replace(self.experiment, algorithm=self.algorithm)

    def execute(self) -> int:
        """Run the experiment, then print its table."""
        try:
            config = self.config()
            kind = "sweep-" if config.sweep else ""
            name = f"{kind}{comparison.place_of(config.algorithm.name, config.env)}"
            out = self.out or Path("runs") / name
            if (
                self.preset is not None
                and PRESETS[self.preset].algorithm.name != config.algorithm.name
            ):
                raise ValueError(
                    f"preset must be one for {config.algorithm.name}, got {self.preset!r}, "
                    f"which is for {PRESETS[self.preset].algorithm.name}"
                )
            config.check()
            _prepare_process(config)
            host = replace(self.host, overwrite=self.overwrite)
            study = train.prepare(config, out, host)
        except ValueError as error:
            return _fail(error)
        if self.preset is not None:
            print(f"{PROGRAM}: preset {self.preset}", file=sys.stderr)
        return _execute(study, host)


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue what was interrupted; the results are those of an undisturbed run."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run, of the sweep or of the comparison."""
    host: HostFlags = field(default_factory=Host)

    def execute(self) -> int:
        """Run what is left, then print the table."""
        try:
            if comparison.is_comparison(self.directory):
                found = comparison.prepare_resume(self.directory, self.host)
            else:
                _prepare_process(read_config(self.directory))
                found = train.prepare_resume(self.directory, self.host)
        except ValueError as error:
            return _fail(error)
        return _execute(found, self.host)


@dataclass(frozen=True, kw_only=True)
class Sweep(Train):
    """Train one algorithm at each combination of some values, as lanes of one program."""

    axes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="NAME=V,V,…")
    ] = ()
    """Values to try: learning_rate=1e-4,3e-4, or env_params.gravity=9.8,12. Again for each further
    name; each seed trains once with each combination."""

    def config(self) -> ExperimentConfig:
        """As `Train.config`, with the axes."""
        if not self.axes:
            raise ValueError("set must be given at least once: --set learning_rate=1e-4,3e-4")
        return replace(super().config(), sweep=sweep.parse(self.axes))


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train several algorithms on one environment or more, with the same seeds."""

    algorithms: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names; `purejax-po algorithms` lists them, and my_pkg.spo:SPO names a class of your own. Each
    runs with its default settings, or with those that follow it: ppo=ppo-pendulum (a preset),
    ppo:learning_rate=1e-3,num_epochs=8. LABEL= before it labels it: my=my_pkg.spo:SPO."""
    env: tuple[str, ...] = ("CartPole-v1",)
    """Environment ids; `purejax-po envs` lists them."""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 8
    """Independent training runs of each algorithm on each environment."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, …"""
    total_steps: int = 100_000
    """Environment steps per seed, rounded down to whole updates."""
    num_windows: int = 100
    """Points of each learning curve, at least 10."""
    lanes_per_device: int | None = None
    """Runs side by side on each device; chosen by default. Fix it to compare bit by bit."""
    normalize_observations: bool = False
    """Show policies and critics (obs − mean)/std, clipped to ±10."""
    normalize_rewards: bool = False
    """Train on reward / std of the running discounted return; results keep the true rewards."""
    out: Path = Path("runs/comparison")
    """Directory for the runs, the pictures and the report."""
    overwrite: bool = False
    """Replace the comparison that the directory holds."""
    host: HostFlags = field(default_factory=Host)

    def execute(self) -> int:
        """Run all pairs, then print one table."""
        settings = (
            "num_seeds",
            "first_seed",
            "total_steps",
            "num_windows",
            "lanes_per_device",
            "normalize_observations",
            "normalize_rewards",
        )
        try:
            if not self.algorithms:
                raise ValueError(
                    f"algorithms must be given, such as: {PROGRAM} compare ppo a2c "
                    f"--env CartPole-v1 (all: {PROGRAM} algorithms)"
                )
            host = replace(self.host, overwrite=self.overwrite)
            prepared = comparison.prepare(
                self.algorithms,
                self.env,
                self.out,
                host,
                **{name: getattr(self, name) for name in settings},
            )
        except ValueError as error:
            return _fail(error)
        return _execute(prepared, host)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Build table, pictures and a self-contained report.html from runs that are complete."""

    directories: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Directories of runs, or directories that hold runs, as a comparison's. LABEL=DIR names a run:
    it tells apart runs of one algorithm with other settings."""
    out: Path | None = None
    """Where to write (default: the directory, if there is one; else report)."""
    format: tuple[str, ...] = ("png",)
    """Of the files beside report.html: pictures as png, svg or pdf, the table as csv or tex."""

    def execute(self) -> int:
        """Print the table, and write the files."""
        try:
            if not self.directories:
                raise ValueError(
                    f"directories must be given, such as: {PROGRAM} report runs/ppo-CartPole-v1 "
                    "runs/trpo-CartPole-v1 (where train and compare put their files)"
                )
            paths = report.labelled(self.directories)
            dataset, path = report.report(paths, self.out, formats=self.format)
        except ValueError as error:
            return _fail(error)
        tables.print_points(dataset) if results.swept(dataset) else tables.print_comparison(dataset)
        output.console().print(f"report: {path}", soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a run's final policies, every seed on the same episodes."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run."""
    episodes: int = 100
    """Episodes per seed."""
    sample: bool = False
    """Sample actions rather than taking the most likely ones."""
    point: PointFlags = ()
    """Of a sweep, the value of each axis (default: the best point)."""

    def execute(self) -> int:
        """Print the returns, and write `evaluation.json` beside the run's results."""
        try:
            atomic.check_path("directory", self.directory)
            use_compilation_cache()
            point = sweep.parse_point(self.point) or policies.best_point(self.directory)
            evaluation = policies.evaluate_run(
                self.directory, num_episodes=self.episodes, greedy=not self.sample, point=point
            )
        except ValueError as error:
            return _fail(error)
        means = evaluation["episode_return"].mean("episode").values
        found = {
            **({"point": point} if point else {}),
            "episodes_per_seed": self.episodes,
            "greedy": not self.sample,
            "final_return": results.over_seeds(means),
            "per_seed": dict(zip(evaluation["seed"].values.tolist(), means.tolist(), strict=True)),
            **evaluation.attrs,
        }
        failure = None
        try:
            atomic.write_json(self.directory / "evaluation.json", found)
        except OSError as error:  # the table is shown all the same
            failure = error
        left_out = {
            name.replace("_", " "): ", ".join(map(str, seeds))
            for name, seeds in evaluation.attrs.items()
            if seeds
        }
        tables.print_rows(
            f"evaluation of {self.directory}",
            {
                **({"point": tables.point(point)} if point else {}),
                "seeds, episodes each": f"{len(means)}, {self.episodes}",
                **left_out,
                "actions": "sampled" if self.sample else "most likely",
                **tables.return_rows(found["final_return"], "evaluation"),
            },
        )
        if failure is not None:
            raise failure
        return 0


@dataclass(frozen=True, kw_only=True)
class Render:
    """Draw an episode of one seed's final policy: an animated GIF, or a page for Brax."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run."""
    seed: int = 0
    """Which seed's policy."""
    out: Path | None = None
    """The file to write (default: DIRECTORY/seed-SEED.gif, for Brax seed-SEED.html)."""
    point: PointFlags = ()
    """Of a sweep, the value of each axis."""

    def execute(self) -> int:
        """Write the file."""
        try:
            atomic.check_path("directory", self.directory)
            use_compilation_cache()
            point = sweep.parse_point(self.point) or policies.best_point(self.directory)
            path, frames = policies.render(
                self.directory, self.out, seed=self.seed, point=point, progress=_tell_tenths
            )
        except ValueError as error:
            return _fail(error)
        output.console().print(f"{path}: {frames} frames", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Envs:
    """List the environments: id, observations, actions, time limit (steps)."""

    def execute(self) -> int:
        """Print one row per environment."""
        table = output.table("environment", "observation", "actions", "time limit (steps)")
        for name in environments.names():
            if library := environments.library_of(name):  # making it takes seconds
                table.add_row(name, _of_library(library), "", "")
                continue
            try:
                env, env_params = environments.make(name)
            except ValueError as error:
                table.add_row(name, str(error), "", "")
                continue
            observation = getattr(env.observation_space(env_params), "shape", "")
            table.add_row(
                name,
                str(tuple(observation)),
                str(env.action_space(env_params)).replace(", dtype=int32", ""),
                f"{getattr(env_params, 'max_steps_in_episode', math.inf):g}",
            )
        output.console().print(table)
        return 0


def _of_library(library: str) -> str:
    """Whether a library of environments is installed, and how to install it."""
    if environments.is_installed(library):
        return f"{library}, installed"
    return f"pip install 'purejax-po[{library}]' (in a checkout: pip install -e '.[{library}]')"


@dataclass(frozen=True)
class Algorithms:
    """List the algorithms and the presets."""

    def execute(self) -> int:
        """Print one table of algorithms and one of presets."""
        table = output.table("algorithm", "what it is")
        for name, what in own.descriptions().items():
            table.add_row(name, what)
        output.console().print(table)
        table = output.table("preset", "algorithm", "environment it was tuned for")
        for name, preset in PRESETS.items():
            table.add_row(name, preset.algorithm.name, preset.env)
        output.console().print(table)
        return 0


@dataclass(frozen=True, kw_only=True)
class Table1:
    """Run the PPO paper's Table 1 on Brax: eleven objectives, seven continuous-control tasks.

    What an earlier call with the same flags has done is not repeated.
    """

    settings: Annotated[table1.Settings, tyro.conf.arg(name="")] = field(
        default_factory=table1.Settings
    )
    out: Path = Path("runs/table1")
    """Directory for the runs, the table and the curves."""
    plan: bool = False
    """Print the plan and its cost alone."""
    host: HostFlags = field(default_factory=Host)

    def execute(self) -> int:
        """Print the plan, run it, and print the table."""
        try:
            jobs = table1.jobs(self.settings, self.out)
            self.host.check()
            for job in jobs:
                table1.check_same(job)
                loggers.check(self.host.log_to, job.config, job.directory)
            tables.print_plan(table1.plan(jobs, table1.probed(jobs, self.host)))
            if self.plan:
                return 0
            found = table1.execute(jobs, self.out, self.host)
        except ValueError as error:
            return _fail(error)
        except Interrupted as stop:
            print(f"{PROGRAM}: interrupted; to go on: the same command again", file=sys.stderr)
            return 128 + stop.signal_number
        except StoppedError as error:
            print(f"{PROGRAM}: error: {error}", file=sys.stderr)
            return 1
        tables.print_columns("Table 1: scores, 95 % intervals over seeds", table1.cells(found))
        output.console().print(
            f"files: {self.out}{os.sep}{{{', '.join(table1.FILES)}}}", soft_wrap=True
        )
        return 0


COMMANDS: dict[str, type] = {
    "train": Train,
    "sweep": Sweep,
    "compare": Compare,
    "table1": Table1,
    "resume": Resume,
    "report": Report,
    "evaluate": Evaluate,
    "render": Render,
    "envs": Envs,
    "algorithms": Algorithms,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2: the user's mistake, in one line)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    output.use_any_output()
    own.see_this_folder()
    command, out = None, output.Watched(sys.stdout)
    try:
        with contextlib.redirect_stdout(out):  # type: ignore[type-var]
            if arguments[:1] == ["--version"]:
                print(f"{PROGRAM} {purejax_po.__version__}", flush=True)
                return 0
            with stop_signal(), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command = parse(typed.normalize(arguments))
                code = command.execute()
                out.flush()
                return code
    except ValueError as error:
        return _fail(error)
    except Interrupted as stop:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 128 + stop.signal_number
    except BrokenPipeError:  # the reader of a pipe, e.g. head, has seen enough
        output.discard()
        return 1
    except OSError as error:
        told = (error.filename or _place(command), error.strerror or error)
        print(f"{PROGRAM}: error: {', '.join(str(x) for x in told if x)}", file=sys.stderr)
        return 1


def _place(command: Any) -> Path | None:
    """Where a command writes."""
    return getattr(command, "out", None) or getattr(command, "directory", None)


def parse(arguments: Sequence[str]) -> Any:
    """Parse the arguments into a command.

    Raises:
        ValueError: with one line, for arguments that do not parse.
    """
    if not arguments:
        raise ValueError(
            f"command must be given, one of {', '.join(COMMANDS)} (see: {PROGRAM} --help)"
        )
    typed.check_removed(arguments)
    if arguments[0] == "-h":
        arguments = ["--help", *arguments[1:]]
    if not arguments[0].startswith("-"):
        check_choice("command", arguments[0], tuple(COMMANDS))
    command = _parse(arguments, None)
    if not isinstance(command, Train):
        return command
    preset = command.preset or TASK_PRESETS.get((command.algorithm.name, command.experiment.env))
    if preset is None or type(command.algorithm) not in ALGORITHMS.values():
        return command
    return _parse(arguments, preset)


def _parse(arguments: Sequence[str], preset: str | None) -> Any:
    """As `parse`, with the defaults of a preset."""
    algorithms = own.algorithms(arguments)
    found = {
        name: own.choosing(command, algorithms) if issubclass(command, Train) else command
        for name, command in COMMANDS.items()
    }
    subcommands = {
        name: tyro.conf.subcommand(name, default=_preset_command(command, preset))
        if issubclass(command, Train)
        else tyro.conf.subcommand(name)
        for name, command in found.items()
    }
    commands = Union[  # noqa: UP007
        tuple(Annotated[command, subcommands[name]] for name, command in found.items())
    ]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                commands,  # type: ignore[arg-type]
                prog=PROGRAM,
                description="Policy optimisation in pure JAX, over many seeds at once.",
                args=arguments,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as exit_:
        if not exit_.code:
            sys.stdout.flush()
            raise
        raise ValueError(messages.condensed(errors.getvalue(), arguments, COMMANDS)) from None


def _prepare_process(config: ExperimentConfig) -> None:
    """Set this process up for its one run, before JAX is used."""
    config.check()
    if keeps_one_core_busy(config):
        use_one_thread()


def _execute(found: "Study | comparison.Comparison", host: Host) -> int:
    """Run an experiment or a comparison and print its table.

    An interruption or a full disk is told of in one line.
    """
    out = Path(found.directory or ".")
    if not host.compilation_cache:
        use_no_compilation_cache()
    try:
        if isinstance(found, comparison.Comparison):
            dataset = comparison.execute(found, host)
        else:
            dataset = train.execute(found, host)
    except Interrupted as stop:
        hint = f"; to go on: {PROGRAM} resume {shlex.quote(str(out))}" if stop.is_saved else ""
        print(f"{PROGRAM}: interrupted{hint or ' before training'}", file=sys.stderr)
        return 128 + stop.signal_number
    except ValueError as error:  # a checkpoint that cannot be used, memory for no lane
        return _fail(error)
    except StoppedError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = f"{out} cannot be written: {error.strerror or error}"
        print(f"{PROGRAM}: error: {reason}; {_what_is_left(out, error)}", file=sys.stderr)
        return 1
    if isinstance(found, comparison.Comparison):
        tables.print_comparison(dataset)
        output.console().print(f"report: {out}{os.sep}{report.REPORT}", soft_wrap=True)
        return 0
    if results.swept(dataset):
        tables.print_points(dataset)
    tables.print_run(dataset)
    files = [*RUN_FILES, *[SWEEP] * bool(results.swept(dataset))]
    output.console().print(f"files: {out}{os.sep}{{{', '.join(files)}}}", soft_wrap=True)
    return 0


def _what_is_left(out: Path, error: OSError) -> str:
    """What a run or a comparison that could not write has kept."""
    if error.errno == errno.ENOENT and not out.exists():
        return "it has vanished"
    if any(out.rglob(f"{BLOCKS}/*/[!.]*/{MANIFEST}")):
        return "its last checkpoint is intact"
    return "nothing was saved yet"


def _show_warning(message: Any, *details: Any) -> None:
    print(f"{PROGRAM}: warning: {message}", file=sys.stderr)


def _preset_command(command: type[Train], preset: str | None) -> Train:
    """The default of `train` or `sweep`: plain, or with a preset's algorithm and environment."""
    if preset is None:
        return command()
    check_choice("preset", preset, tuple(PRESETS))
    env, algorithm, total_steps = PRESETS[preset]
    experiment = ExperimentConfig(env=env, total_steps=total_steps)
    return command(algorithm=algorithm, experiment=experiment, preset=preset)


def _tell_tenths(done: int, total: int) -> None:
    """Say on stderr how far the drawing of frames is: it takes a while."""
    if done == 1 or 10 * done // total > 10 * (done - 1) // total:
        print(f"{PROGRAM}: frame {done} of {total}", file=sys.stderr, flush=True)


def _fail(error: Exception) -> int:
    print(f"{PROGRAM}: error: {error}", file=sys.stderr)
    return 2
