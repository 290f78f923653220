"""Algorithms on the command line: those of the package, and those that the arguments name."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Union

import tyro

from purejax_po import named
from purejax_po.cli.arguments import brought_algorithm
from purejax_po.experiment.config import ALGORITHMS, PPOConfig, algorithm_config, file
from purejax_po.experiment.config.lookup import GROUP

Configs = Mapping[str, type]


def see_this_folder() -> None:
    """Let names be of modules in the current folder, as `python -m` does."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def algorithms(arguments: Sequence[str], path: Path | None = None) -> Configs:
    """Return the configuration classes that the arguments may choose among, by name.

    Args:
        arguments: of the command line.
        path: of the configuration file, whose algorithm is among them.

    Raises:
        ValueError: if the argument after `train` or `sweep` names no algorithm.
    """
    found: dict[str, type] = dict(ALGORITHMS)
    if arguments[0] not in ("train", "sweep", "tune"):
        return found
    if path and (name := file.algorithm_name(file.read(path), path)) is not None:
        found[name] = algorithm_config(name)
    first = [x for x in arguments[1:2] if not x.startswith("-")]
    for name in filter(None, (*first, brought_algorithm(arguments))):
        found[name] = algorithm_config(name)
    return found


def choosing(command: type, algorithms: Configs) -> type:
    """Return a command with a subcommand for each algorithm: tyro reads a field's type."""
    union = Union[  # noqa: UP007 - of a variable number of types
        tuple(Annotated[config, tyro.conf.subcommand(name)] for name, config in algorithms.items())
    ]
    annotation = Annotated[union, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    default = dataclasses.field(default_factory=PPOConfig)
    made = dataclasses.make_dataclass(
        command.__name__,
        [("algorithm", annotation, default)],
        bases=(command,),
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = command.__doc__
    return made


def descriptions() -> dict[str, str]:
    """Return a line about each algorithm by name; of an installed package, or what is wrong."""
    found = {}
    for name in (*ALGORITHMS, *named.entry_points(GROUP)):
        try:
            found[name] = str(algorithm_config(name).__doc__).splitlines()[0]
        except ValueError as error:
            found[name] = str(error)
    return found
