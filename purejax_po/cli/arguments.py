"""What people type, brought into the form that the parser reads."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

from purejax_po import named
from purejax_po.aliases import ALIASES as FIELDS
from purejax_po.experiment.config import ALGORITHMS, PPOConfig, algorithm_config
from purejax_po.experiment.config.lookup import GROUP
from purejax_po.experiment.files import check_path

LISTS = ("--network.hidden", "--network.channels", "--network.kernels", "--network.strides")
"""Take several whole numbers: 64 64 or 64,64 or "64 64"."""
PAIRS = ("--env-params", "--env-options")
"""Take names and values: gravity 9.8 or gravity=9.8."""
NAMES = ("--format", "--log-to", "--env", "--to", "--wrappers", "--randomize")
"""Take several names: png svg or png,svg."""
AXES = {"--set": 10**6, "--grid": 10**6, "--point": 1, "--search": 1}
"""Take NAME=VALUES, values of so many arguments at most: learning_rate=1e-4,3e-4 or with blanks."""
FLAGS = (
    "--best",
    "--compilation-cache",
    "--json",
    "--keep-best",
    "--network.layer-norm",
    "--network.mask-actions",
    "--normalize-observations",
    "--normalize-rewards",
    "--overwrite",
    "--plan",
    "--sample",
    "--stop-on-divergence",
)
"""Take no value; true and false are read all the same. So do an algorithm's own flags."""
TRUTHS = {"true": True, "yes": True, "false": False, "no": False}
TEXTS = (
    *("--out", "--config", "--env", "--network.factory", "--preset", "--log-to", "--format"),
    *("--to", "--wrappers", "--randomize"),
    *("--space", "--storage", "--study"),
    *AXES,
)
"""Take text, in which 1e5 is no number."""
REMOVED = (
    *("--distributed", "--coordinator-address", "--num-processes", "--process-index"),
    *("--coordinator-timeout", "--silence-timeout"),
)
"""Options of version 0.1, for processes that shared a run."""
OPTIONS = {"num_seeds": "--seeds", "num_episodes": "--episodes"}
"""Options that are not called as their field is."""
_SCIENTIFIC = re.compile(r"(?:\d+\.?\d*|\.\d+)[eE]\+?\d{1,2}|\d+\.0*")


def option_of(field: str) -> str:
    """`--hyperparams.learning-rate` for `hyperparams.learning_rate`."""
    return OPTIONS.get(field, f"--{field.replace('_', '-')}")


ALIASES = {option_of(theirs): option_of(ours) for theirs, ours in FIELDS.items()}
"""What other libraries call our options."""


def algorithm_of(arguments: Sequence[str]) -> str:
    """The algorithm that arguments name, if it can be imported."""
    found = next(_named(arguments), PPOConfig.name)
    try:
        algorithm_config(found)
    except ValueError:  # the parser tells it
        return PPOConfig.name
    return found


def brought_algorithm(arguments: Sequence[str]) -> str | None:
    """The argument that names an algorithm of a user or of an installed package."""
    found = next(_named(arguments), PPOConfig.name)
    return None if found in ALGORITHMS else found


def _named(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that may name the algorithm: the first one does."""
    trains = bool(arguments) and arguments[0] in ("train", "sweep", "tune")
    for before, argument in itertools.pairwise(arguments):
        option = before.replace("_", "-")
        is_inner = option.startswith("--") and "." in option and "=" not in option
        is_value = option in (*TEXTS, "--network") or (is_inner and option not in FLAGS)
        if not is_value and (argument in ALGORITHMS or (trains and _is_brought(argument))):
            yield argument


def _is_brought(argument: str) -> bool:
    return named.is_name(argument) or argument in named.entry_points(GROUP)


def check_removed(arguments: Sequence[str]) -> None:
    """Raise `ValueError` for an option of version 0.1 that is no longer there."""
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name in REMOVED:
            raise ValueError(
                f"{name} is no longer there: several machines share a run by --cluster auto or "
                "--cluster HOST:PORT (Ray)"
            )


def normalize(arguments: Sequence[str]) -> list[str]:
    """Return arguments with whole numbers, lists, pairs and flags as the parser reads them.

    Raises:
        ValueError: in one line, for a list, a pair or a flag whose value does not read.
    """
    found: list[str] = []
    pairs: dict[str, list[str]] = {}
    flags = _flags(algorithm_of(arguments))
    flag, seen = "", set[str]()
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--network" or argument.startswith("--network="):
            argument = argument.replace("--network", "--network.factory", 1)
        if not argument.startswith("--"):
            found.extend(_values(flag, argument))
            continue
        typed, equals, value = argument.partition("=")
        flag = typed.replace("_", "-")
        given = [value] if equals else []
        if flag in NAMES and flag in seen:  # of which the parser would take the last one alone
            takes_one = flag == "--env" and arguments[0] != "compare"
            hint = "" if takes_one else f": several values follow one {flag}"
            raise ValueError(f"{flag[2:]} must be given once, got {flag} again{hint}")
        seen.add(flag)
        if flag in PAIRS:
            pairs.setdefault(flag, []).extend(_pairs(flag, given + _taken(waiting)))
        elif flag in LISTS:
            found.extend([typed, *_list(flag, given + _taken(waiting))])
        elif flag in AXES:
            found.extend([typed, *_assignment(given or _taken(waiting, 1), waiting, AXES[flag])])
        elif flag in flags and (given or (waiting and waiting[0].lower() in TRUTHS)):
            found.append(_switched(flag, given[0] if given else waiting.pop(0)))
        else:
            found.extend([typed, *(_values(flag, value) if equals else [])])
    return [*found, *(x for flag, values in pairs.items() for x in (flag, *values))]


def _flags(algorithm: str) -> set[str]:
    """Options without a value, and what turns each off."""
    fields = dataclasses.fields(algorithm_config(algorithm))
    own = [f.name for f in fields if f.type in (bool, "bool")]
    on = {*FLAGS, *map(option_of, own)}
    return on | {f"--no-{flag[2:]}" for flag in on}


def _switched(flag: str, value: str) -> str:
    """A flag that was given a value, without it."""
    if value.lower() not in TRUTHS:
        raise ValueError(f"{flag} must be true or false, got {value!r}; alone it is true")
    if TRUTHS[value.lower()]:
        return flag
    name = flag.removeprefix("--no-")
    return f"--no-{flag[2:]}" if name == flag else f"--{name}"


def _taken(waiting: list[str], most: int = 10**6) -> list[str]:
    """Take what follows an option: all up to the next one, or to an algorithm's name."""
    taken: list[str] = []
    while waiting and len(taken) < most and not waiting[0].startswith("--"):
        if waiting[0] in ALGORITHMS or _is_brought(waiting[0]):
            break
        taken.append(waiting.pop(0))
    return taken


def _pairs(flag: str, given: Sequence[str]) -> list[str]:
    """Names and numbers by turns."""
    field = flag[2:].replace("-", "_")
    parts = [part for text in given for part in re.split(r"[,\s]+", text) if part]
    flat = [x for part in parts for x in part.split("=", 1)]
    if not flat:
        raise ValueError(f"{field} must be given names and values, such as {flag} gravity=9.8")
    for name, value in zip(flat[::2], [*flat[1::2], ""], strict=False):
        if not _is_number(value):
            raise ValueError(
                f"{field}.{name} must be a number, such as {flag} {name}=10, got "
                f"{repr(value) if value else 'none'}"
            )
    return [_whole(x) for x in flat]


def _list(flag: str, given: Sequence[str]) -> list[str]:
    """Whole numbers; none only if that is said, as `--network.hidden=`."""
    numbers = [_whole(x) for text in given for x in re.split(r"[,\s()\[\]]+", text) if x]
    wrong = [x for x in numbers if not re.fullmatch(r"[-+]?\d+", x)]
    if wrong or not given:
        raise ValueError(
            f"{flag[2:]} must be whole numbers, such as {flag} 64 64 or 64,64 "
            f"(for none: {flag}=), got {repr(wrong[0]) if wrong else 'none'}"
        )
    return numbers


def _assignment(given: Sequence[str], waiting: list[str], most: int) -> list[str]:
    """NAME=VALUE,VALUE,… of a name and the numbers that follow it."""
    if not given:
        return []
    name, equals, values = given[0].partition("=")
    numbers = [values] if equals and values else []
    while waiting and len(numbers) < most:
        if not all(map(_is_number, waiting[0].strip(",").split(","))):
            break
        numbers.append(waiting.pop(0))
    joined = ",".join(x for text in numbers for x in text.split(",") if x)
    return [f"{name}={joined}" if numbers else given[0]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _values(flag: str, argument: str) -> list[str]:
    """One argument of an option as the parser reads it."""
    if flag == "--out" and not argument:  # as a path it would be the current directory
        check_path("out", argument)
    if flag in NAMES:
        return [x for x in argument.split(",") if x]
    return [argument if not flag or flag in TEXTS else _whole(argument)]


def _whole(text: str) -> str:
    """1e5 as 100000; any other text as it is."""
    if not _SCIENTIFIC.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if number == int(number) else text
