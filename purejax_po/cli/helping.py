"""`--help` of the commands that train: flags in groups, everyday ones first."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from tyro._backends import _tyro_help_formatting as formatting  # tyro has no public way to group

_COMMANDS = re.compile(r"\{\w+(?:,\w+){9,}\}")
"""A list of commands that no line has room for."""
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
            *("--env", "--seeds", "--set", "--preset", "--config", "--env-params"),
            *("--env-options", "--wrappers", "--randomize", "--normalize-observations"),
            *("--normalize-rewards", "--first-seed"),
        ),
    ),
    Group(
        "how long",
        "How long, how finely it is recorded, and when it is evaluated.",
        (
            *("--total-steps", "--num-windows", "--evaluate-every", "--evaluation-episodes"),
            *("--evaluation-actions", "--solve-return", "--stop-when-solved", "--keep-best"),
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
        *("--lanes-per-device", "--matmul-precision", "--checkpoint-every"),
        *("--keep-checkpoints", "--stop-on-divergence", "--compilation-cache"),
    ),
)
SEARCH = Group(
    "search",
    "What `tune` searches, and how.",
    (
        *("--trials", "--space", "--search", "--finalists", "--finalist-seeds", "--fresh-seeds"),
        *("--sampler", "--rungs", "--reduction", "--batch", "--programs", "--search-seed"),
        *("--storage", "--study"),
    ),
)
ALGORITHM = Group("algorithm", "How the algorithm works; its floats are below.", ())
NESTED = ("network", "hyperparams")
"""Groups that have a prefix of their own, after the algorithm's."""


def placed(arguments: list[Argument]) -> list[Argument]:
    """Return the arguments of a command that trains, sorted into groups; any others as they are.

    A flag that no group names is the algorithm's own.
    """
    flags = [argument.arg.lowered.name_or_flags[-1] for argument in arguments]
    if not {"--env", "--total-steps", "--out"} <= set(flags):
        return arguments
    order = (*GROUPS, SEARCH, ALGORITHM, *NESTED, ADVANCED)
    places = {
        flag: (group, j)
        for group in (*GROUPS, SEARCH, ADVANCED)
        for j, flag in enumerate(group.flags)
    }
    found = []
    for number, (flag, argument) in enumerate(zip(flags, arguments, strict=True)):
        prefix = argument.source_parser.extern_prefix.split(".")[0]
        if argument.arg.is_positional():
            found.append(((-1, number), argument))
        elif prefix in NESTED:
            found.append(((order.index(prefix), number), argument))
        else:
            group, place = places.get(flag, (ALGORITHM, number))
            parser = SimpleNamespace(  # what the formatter asks of an argument's parser
                extern_prefix=group.name, description=group.what, intern_prefix="", markers=()
            )
            put = SimpleNamespace(arg=argument.arg, source_parser=parser)
            found.append(((order.index(group), place), put))
    return [argument for _, argument in sorted(found, key=lambda pair: pair[0])]


def _tidy(argument: Argument) -> None:
    """Let the help of a field flow, whose source breaks lines, and print no empty default."""
    field = argument.field
    text = field.helptext() if callable(field.helptext) else field.helptext
    if isinstance(text, str):
        paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
        field.helptext = "\n\n".join(paragraphs)
    default = field.default
    is_empty = default is None or (isinstance(default, tuple | dict) and not default)
    if is_empty or (argument.is_positional() and argument.lowered.nargs == "*"):
        field.argconf = dataclasses.replace(field.argconf, help_behavior_hint="")


@contextlib.contextmanager
def grouped() -> Iterator[None]:
    """Show flags in groups while a command line is parsed, and texts without their line breaks."""
    original = formatting.format_help

    def format_help(prog: str, parser_spec: Any, args: Any, *rest: Any, **more: Any) -> Any:
        arguments = list(args)
        for argument in arguments:
            _tidy(argument.arg)
        usage, *lines = original(prog, parser_spec, placed(arguments), *rest, **more)
        return [_COMMANDS.sub("COMMAND", usage), *lines]

    formatting.format_help = format_help
    try:
        yield
    finally:
        formatting.format_help = original
