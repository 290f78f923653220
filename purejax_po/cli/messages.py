"""What the command line says of arguments that do not parse: one line, with what is meant."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import get_args, get_type_hints

from purejax_po.checks import nearest
from purejax_po.cli import arguments as typed
from purejax_po.early import PROGRAM
from purejax_po.experiment.config import ALGORITHMS, ExperimentConfig, algorithm_config

WIDTHS = {"hidden": "64x64", "channels": "16", "kernels": "8x4x3", "strides": "4x2x1"}
"""How the settings of `compare` give several whole numbers."""
MOST_LISTED = 6
"""Options of a command that a message names."""


def options(cls: type, algorithm: str = "", prefix: str = "") -> dict[str, object]:
    """The options of a command, with their types; of `train` those of an algorithm too."""
    found: dict[str, object] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if name not in {f.name for f in dataclasses.fields(cls)}:
            continue
        notes = getattr(hint, "__metadata__", ())
        if {str(note) for note in notes} & {"Positional", "Suppress"}:
            continue
        while hasattr(hint, "__metadata__"):
            hint = hint.__origin__  # noqa: PLW2901
        if name == "algorithm" and algorithm:
            hint = algorithm_config(algorithm)  # noqa: PLW2901
        own = [x.name for x in notes if getattr(x, "name", None) is not None]
        shown = (own[0] if own else name).replace("_", "-")
        if dataclasses.is_dataclass(hint):
            found |= options(hint, prefix=f"{prefix}{shown}." if shown else prefix)
        else:
            found[f"--{prefix}{shown}"] = hint
    return found


def condensed(box: str, arguments: Sequence[str], commands: Mapping[str, type]) -> str:
    """Condense the parser's framed error message into one line."""
    message = _text(box)
    command = next((x for x in arguments if x in commands), "")
    if not command:
        return message
    if misplaced := _misplaced(arguments, command):
        return misplaced
    if found := re.match(r"Unrecognized (?:or misplaced )?options: (\S+)", message):
        return unrecognised(found[1].rstrip(","), arguments, command, commands)
    known = options(commands[command], typed.algorithm_of(arguments))
    if found := re.match(r"Error parsing (--\S+): .*?(?:: |arguments: \[)('[^']*')", message):
        kind = known.get(found[1])
        kinds = {int: "a whole number", float: "a number"}
        needed = next((text for k, text in kinds.items() if k in (kind, *get_args(kind))), "")
        if needed:
            return f"{found[1]} must be {needed}, got {found[2]}"
    if found := re.match(r"Missing value for argument '(\S+)'", message):
        return f"{found[1]} must be given a value"
    if found := re.match(
        r"invalid choice '(.*)' for argument '(\S+)'. Expected one of \((.*)\)", message
    ):
        value, option, choices = found.groups()
        names = re.findall(r"'([^']*)'", choices)
        return f"{option} must be one of {', '.join(names)}, got {value!r}{nearest(value, names)}"
    if message.startswith(f"Missing from {PROGRAM}") and " PATH " in message:
        return (
            f"directory must be given, such as: {PROGRAM} {command} runs/ppo-CartPole-v1 "
            "(where train put its files)"
        )
    return message


def unrecognised(
    option: str, arguments: Sequence[str], command: str, commands: Mapping[str, type]
) -> str:
    """What is said of an option that a command has not."""
    if not option.startswith("-"):
        return _left_over(option, arguments, command)
    algorithm = typed.algorithm_of(arguments)
    known = options(commands[command], algorithm)
    typed_name = option.replace("_", "-")
    if typed_name == "--set":
        values = _after(option, arguments) or "learning_rate=1e-4,3e-4"
        return f"set belongs to sweep: {PROGRAM} sweep {algorithm} --set {values}"
    last = _last(typed_name).removeprefix("no-")
    alias = typed.ALIASES.get(f"--{last}", "")
    same = [name for name in known if _last(name) == last]
    target = alias if alias in known else (same[0] if same else "")
    if target:
        return f"unrecognised option {option}; here it is {target}"
    ours = _last(alias) if alias else last
    field = ours.replace("-", "_")
    has = [n for n, c in ALGORITHMS.items() if ours in map(_last, options(c))]
    if command == "compare" and has:
        first = next((x for x in arguments if x in has), has[0])
        if options(ALGORITHMS[first]).get(f"--{ours}") is bool:
            return (
                f"unrecognised option {option}; it is no option of compare, but one of an "
                f"algorithm: {PROGRAM} compare {first}:{field}={str('--no-' not in option).lower()}"
            )
        width = WIDTHS.get(field)
        if width and f"--{ours}" in options(ALGORITHMS[first]):  # PPO and its network have kernels
            is_width = typed_name == f"--network.{ours}"
            field, width = (f"network.{field}", width) if is_width else (field, None)
        value = width or _after(option, arguments) or "…"
        return (
            f"unrecognised option {option}; it is no option of compare, but one of an algorithm: "
            f"{PROGRAM} compare {first}:{field}={value}"
        )
    if command in ("train", "sweep", "tune") and has:
        return (
            f"unrecognised option {option}; {algorithm} has no {field}, which "
            f"{', '.join(has)} {'has' if len(has) == 1 else 'have'}"
        )
    near = difflib.get_close_matches(last, list(map(_last, known)), n=1, cutoff=0.6)
    if near:
        meant = next(name for name in known if _last(name) == near[0])
        return f"unrecognised option {option}; did you mean {meant}?"
    if typed_name in options(ExperimentConfig) or has or alias:
        return f"unrecognised option {option}; it is no option of {command}{_listed(known)}"
    return f"unrecognised option {option}{_listed(known) or f' (see: {PROGRAM} {command} --help)'}"


def _misplaced(arguments: Sequence[str], command: str) -> str:
    """What is said of an algorithm's options in front of its name."""
    name = typed.algorithm_of(arguments)
    if command not in ("train", "sweep", "tune") or name not in arguments:
        return ""
    known = options(algorithm_config(name))
    for argument in arguments[: arguments.index(name)]:
        option = argument.partition("=")[0].replace("_", "-")
        if option in known:
            value = _after(argument, arguments)
            shown = option if value in ("", name) else f"{option} {value}"
            return f"{option} must stand after the algorithm: {PROGRAM} {command} {name} {shown}"
    return ""


def _left_over(argument: str, arguments: Sequence[str], command: str) -> str:
    """What is said of an argument that belongs to nothing."""
    named = [x for x in arguments if x in ALGORITHMS]
    if argument in ALGORITHMS and len(named) > 1:
        return (
            f"{command} takes one algorithm, got {' and '.join(named)}; for several: "
            f"{PROGRAM} compare {' '.join(named)}"
        )
    return f"{command} takes no argument {argument!r} here (see: {PROGRAM} {command} --help)"


def _last(option: str) -> str:
    """`learning-rate` of `--hyperparams.learning-rate`."""
    return option.lstrip("-").rpartition(".")[2]


def _after(option: str, arguments: Sequence[str]) -> str:
    """The value that an option was given."""
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        if argument == option:
            return "" if following.startswith("--") else following
    return ""


def _listed(known: Mapping[str, object]) -> str:
    """A command's options, if they are few."""
    return f" (it has {', '.join(known)})" if 0 < len(known) <= MOST_LISTED else ""


def _text(box: str) -> str:
    """What the first section of a frame says."""
    sections: list[list[str]] = [[]]
    for line in (line.strip("│| ") for line in box.splitlines()):
        if line and set(line) <= set("─-╭╮╰╯+"):
            sections.append([])
        elif line and not line.startswith(("╭", "+")):
            sections[-1].append(line)
    if "╭" not in box:
        sections = sections[1:] or sections  # an ASCII frame's title is a section of its own
    return " ".join(sections[0])
