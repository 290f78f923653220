"""The entry of the command line: arguments in, an exit code out."""

import contextlib
import dataclasses
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

import purejax_po
from purejax_po.checks import check_choice
from purejax_po.cli import arguments as typed
from purejax_po.cli import files, helping, messages, output, own
from purejax_po.cli.commands import Compare, Resume, Sweep, Table1, Train, Tune
from purejax_po.cli.listing import Envs
from purejax_po.cli.looking import Algorithms, Evaluate, Export, Render, Report, Zoo
from purejax_po.early import PROGRAM
from purejax_po.experiment.config import ALGORITHMS, PRESETS, TASK_PRESETS, zoo
from purejax_po.experiment.run.observers import StoppedError
from purejax_po.experiment.run.signals import Interrupted, stop_signal

COMMANDS: dict[str, type] = {
    "train": Train,
    "sweep": Sweep,
    "tune": Tune,
    "compare": Compare,
    "table1": Table1,
    "resume": Resume,
    "report": Report,
    "evaluate": Evaluate,
    "render": Render,
    "export": Export,
    "envs": Envs,
    "algorithms": Algorithms,
    "zoo": Zoo,
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
    except (ValueError, StoppedError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except Interrupted as stop:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 128 + stop.signal_number
    except BrokenPipeError:  # the reader of a pipe, e.g. head, has seen enough
        output.discard()
        return 1
    except OSError as error:
        told = (error.filename or _place(command), error.strerror or error)
        print(f"{PROGRAM}: error: {': '.join(str(x) for x in told if x)}", file=sys.stderr)
        return 1


def _place(command: object) -> Path | None:
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
    path = files.named(arguments)
    command = _parse(arguments, None, path)
    if not isinstance(command, Train):
        return command
    if path is not None and command.preset is not None:
        files.check_preset(command.preset, command.algorithm, path)
    if command.preset == zoo.PRESET:
        return _parse(arguments, zoo.of(command.algorithm, command.experiment.env), path)
    preset = command.preset or TASK_PRESETS.get((command.algorithm.name, command.experiment.env))
    if preset is None or type(command.algorithm) not in ALGORITHMS.values():
        return command
    return _parse(arguments, preset, path)


def _parse(arguments: Sequence[str], preset: str | zoo.Entry | None, path: Path | None) -> Any:
    """As `parse`, with the defaults of a preset, and in front of them those of a file."""
    algorithms = own.algorithms(arguments, path)
    found = {
        name: own.choosing(command, algorithms) if issubclass(command, Train) else command
        for name, command in COMMANDS.items()
    }
    subcommands = {
        name: tyro.conf.subcommand(name, default=default)
        if (default := _default(command, preset, path if name == arguments[0] else None))
        else tyro.conf.subcommand(name)
        for name, command in found.items()
    }
    commands = Union[  # noqa: UP007
        tuple(Annotated[command, subcommands[name]] for name, command in found.items())
    ]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), helping.grouped():
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


def _show_warning(message: Warning | str, *details: object) -> None:
    print(f"{PROGRAM}: warning: {message}", file=sys.stderr)


def _default(command: type, preset: str | zoo.Entry | None, path: Path | None) -> object:
    """What a command is without flags; None where it has none by default."""
    default = _preset_command(command, preset) if issubclass(command, Train) else None
    if path is None or not hasattr(command, "config_file"):
        return default
    return files.with_file(default or command(algorithms=()), path)  # type: ignore[call-arg]


def _preset_command(command: type[Train], preset: str | zoo.Entry | None) -> Train:
    """The default of `train` or `sweep`: plain, or with a preset's algorithm and environment."""
    if preset is None:
        return command()
    if isinstance(preset, zoo.Entry):
        config = dataclasses.replace(preset.config, num_seeds=command().experiment.num_seeds)
        return command(algorithm=config.algorithm, experiment=config, preset=zoo.PRESET)
    check_choice("preset", preset, (*PRESETS, zoo.PRESET))
    env, algorithm, total_steps = PRESETS[preset]
    experiment = dataclasses.replace(command().experiment, env=env, total_steps=total_steps)
    return command(algorithm=algorithm, experiment=experiment, preset=preset)
