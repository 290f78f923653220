"""`--help` of the commands that train: flags in groups, everyday ones first."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from tyro._backends import _tyro_help_formatting as formatting  # tyro has no public way to group

Argument = Any
"""tyro's own description of a flag."""


class Group(NamedTuple):
    """A box of `--help`: its title is `NAME options`."""

    name: str
    what: str
    flags: tuple[str, ...]
    """In the order in which they are shown."""


GROUPS = (
    Group(
        "what",
        "What is trained.",
        (
            *("--env", "--preset", "--config", "--set", "--env-params", "--env-options"),
            *("--wrappers", "--randomize"),
            *("--seeds", "--first-seed"),
        ),
    ),
    Group(
        "how long",
        "How long, how finely it is recorded, and when it is evaluated.",
        (
            *("--total-steps", "--num-windows", "--evaluate-every", "--evaluation-episodes"),
            *("--evaluation-actions", "--solve-return", "--stop-when-solved"),
        ),
    ),
    Group(
        "where",
        "Where the files go, and which machines work.",
        (
            *("--out", "--overwrite", "--log-to", "--num-devices", "--memory-gib"),
            *("--cluster", "--max-workers"),
        ),
    ),
)
ADVANCED = Group(
    "advanced",
    "Rarely needed.",
    (
        *("--normalize-observations", "--normalize-rewards", "--lanes-per-device"),
        *("--matmul-precision", "--checkpoint-every", "--keep-checkpoints"),
        *("--stop-on-divergence", "--compilation-cache"),
    ),
)
ALGORITHM = Group("algorithm", "How the algorithm works; its floats are below.", ())
NESTED = ("network", "hyperparams")
"""Groups that have a prefix of their own, after the algorithm's."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """What the formatter asks of the parser that an argument stands in."""

    extern_prefix: str
    description: str
    intern_prefix: str = ""
    markers: frozenset[Any] = frozenset()


@dataclasses.dataclass(frozen=True)
class _Placed:
    """An argument in a group."""

    arg: Argument
    source_parser: Any


def placed(arguments: list[Argument]) -> list[Argument]:
    """Return the arguments of a command that trains, sorted into groups; any others as they are.

    A flag that no group names is the algorithm's own.
    """
    flags = [argument.arg.lowered.name_or_flags[-1] for argument in arguments]
    if not {"--env", "--total-steps", "--num-envs"} <= set(flags):
        return arguments
    found = []
    places = {flag: (i, j) for i, g in enumerate(GROUPS) for j, flag in enumerate(g.flags)}
    places |= {flag: (len(GROUPS) + 2, j) for j, flag in enumerate(ADVANCED.flags)}
    for number, (flag, argument) in enumerate(zip(flags, arguments, strict=True)):
        prefix = argument.source_parser.extern_prefix
        if flag in places:
            rank = places[flag]
            group = ADVANCED if rank[0] > len(GROUPS) else GROUPS[rank[0]]
        elif prefix.startswith(NESTED):
            found.append(((len(GROUPS) + 1, NESTED.index(prefix.split(".")[0]), number), argument))
            continue
        else:
            rank, group = (len(GROUPS), number), ALGORITHM
        put = _Placed(argument.arg, _Place(group.name, group.what))
        found.append(((*rank, number), put))
    return [argument for _, argument in sorted(found, key=lambda pair: pair[0])]


@contextlib.contextmanager
def grouped() -> Iterator[None]:
    """Show flags in groups while a command line is parsed."""
    original = formatting.format_help

    def format_help(prog: str, parser_spec: Any, args: Any, *rest: Any, **more: Any) -> Any:
        return original(prog, parser_spec, placed(list(args)), *rest, **more)

    formatting.format_help = format_help
    try:
        yield
    finally:
        formatting.format_help = original
