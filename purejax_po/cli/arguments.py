"""What people type, brought into the form that the parser reads."""

import re
from collections.abc import Sequence

LISTS = ("--network.hidden", "--network.channels")
"""Take several whole numbers: 64 64 or 64,64."""
PAIRS = ("--env-params", "--env-options")
"""Take names and values: gravity 9.8 or gravity=9.8."""
NAMES = ("--format", "--log-to", "--env")
"""Take several names: png svg or png,svg."""
AXES = ("--set", "--point")
"""Take NAME=VALUES: learning_rate=1e-4,3e-4 or learning_rate 1e-4,3e-4."""
TEXTS = ("--out", "--env", "--network.factory", "--preset", "--log-to", "--format", *AXES)
"""Take text, in which 1e5 is no number."""
ALIASES = {
    "--lr": "--hyperparams.learning-rate",
    "--gamma": "--hyperparams.discount",
    "--gae-lambda": "--hyperparams.gae-lambda",
    "--lambda": "--hyperparams.gae-lambda",
    "--ent-coef": "--hyperparams.entropy-coef",
    "--vf-coef": "--hyperparams.value-coef",
    "--clip-range": "--hyperparams.clip-eps",
    "--n-envs": "--num-envs",
    "--n-steps": "--num-steps",
    "--n-epochs": "--num-epochs",
    "--num-seeds": "--seeds",
    "--seed": "--first-seed",
    "--steps": "--total-steps",
    "--total-timesteps": "--total-steps",
    "--hidden": "--network.hidden",
    "--activation": "--network.activation",
    "--output": "--out",
}
"""What other libraries call our options."""
REMOVED = (
    *("--distributed", "--coordinator-address", "--num-processes", "--process-index"),
    *("--coordinator-timeout", "--silence-timeout"),
)
"""Options of version 0.1, for processes that shared a run."""
_SCIENTIFIC = re.compile(r"(?:\d+\.?\d*|\.\d+)[eE]\+?\d{1,2}|\d+\.0*")


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
    """Return arguments with whole numbers, lists and pairs as the parser reads them."""
    found: list[str] = []
    flag = ""
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            if flag == "--network":
                flag = "--network.factory"
                argument = f"{flag}{equals}{value}"
            if equals and flag not in AXES:
                found.append(flag)
                waiting.insert(0, value)
                flag = flag.replace("_", "-")
                found.extend(_values(flag, waiting.pop(0)))
            else:
                found.append(argument)
                if flag in AXES and not equals and _is_pair(waiting):
                    found.append(f"{waiting.pop(0)}={waiting.pop(0)}")
            continue
        found.extend(_values(flag.replace("_", "-"), argument))
    for name in PAIRS:
        found = _merged(name, found)
    return found


def _merged(name: str, arguments: list[str]) -> list[str]:
    """An option that is given several times as one with all its values."""
    places = [i for i, argument in enumerate(arguments) if argument == name]
    if len(places) < 2:
        return arguments
    rest, values, taking = [], [], False
    for argument in arguments:
        if argument.startswith("--"):
            taking = argument == name
        if not taking:
            rest.append(argument)
        elif argument != name:
            values.append(argument)
    return [*rest, name, *values]


def _is_pair(waiting: Sequence[str]) -> bool:
    """Whether a name and its values follow as two arguments."""
    two = list(waiting[:2])
    return len(two) == 2 and not any(x.startswith("--") for x in two) and "=" not in two[0]


def _values(flag: str, argument: str) -> list[str]:
    """One argument of an option as the parser reads it."""
    if flag in PAIRS:
        pairs = [part.split("=", 1) for part in argument.split(",") if part]
        return [_whole(x) for pair in pairs for x in pair]
    if flag in LISTS:
        return [_whole(x) for x in argument.split(",") if x]
    if flag in NAMES:
        return [x for x in argument.split(",") if x]
    return [argument if not flag or flag in TEXTS else _whole(argument)]


def _whole(text: str) -> str:
    """1e5 as 100000; any other text as it is."""
    if not _SCIENTIFIC.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if number == int(number) else text
