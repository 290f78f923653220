"""`--config FILE.toml`: the defaults of a command, from a file; flags win over it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from purejax_po.experiment.config import file as config_file
from purejax_po.experiment.run.host import Host

FLAG = "--config"
NOT_IN_FILES = ("algorithm", "experiment", "host", "config_file")
"""Fields of commands that are no keys of a file by themselves."""
NOT_OF_A_HOST = ("overwrite", "progress", "observers")

AnyCommand = TypeVar("AnyCommand")


def named(arguments: Sequence[str]) -> Path | None:
    """Return the file that the arguments name.

    Raises:
        ValueError: for two of them, or an option without one.
    """
    found = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        if argument == FLAG:
            found.append("" if following.startswith("--") else following)
        elif argument.startswith(f"{FLAG}="):
            found.append(argument.partition("=")[2])
    if len(found) > 1:
        raise ValueError(f"config must be given once, got {' and '.join(found)}")
    if found and not found[0]:
        raise ValueError("config must be given a TOML file, such as --config best.toml")
    return Path(found[0]) if found else None


def with_file(command: AnyCommand, path: Path) -> AnyCommand:
    """Return a command whose defaults are those of a file.

    Raises:
        ValueError: naming the file and the key that is unknown or whose value does not read.
    """
    data = config_file.read(path)
    has_one = hasattr(command, "experiment")
    own = [f.name for f in dataclasses.fields(command) if f.name not in NOT_IN_FILES]  # type: ignore[arg-type]
    own += [] if has_one else [name for name in ("algorithms",) if name not in own]
    where = [f.name for f in dataclasses.fields(Host) if f.name not in NOT_OF_A_HOST]
    mine = {k: data.pop(k) for k in list(data) if k in own}
    host = {k: data.pop(k) for k in list(data) if k in where}
    changes: dict[str, Any] = {"config_file": path}
    if has_one:
        whole = dataclasses.replace(command.experiment, algorithm=command.algorithm)  # type: ignore[attr-defined]
        read = config_file.experiment(data, path, whole, (*own, *where))
        changes |= {"algorithm": read.algorithm, "experiment": read}
    else:
        for key in data:
            known = (*own, *where)
            raise ValueError(config_file.unknown(key, path, _default_algorithm(), known))
    changes["host"] = config_file.changed_by(command.host, host, path)  # type: ignore[attr-defined]
    for name, value in mine.items():
        like = Path() if name == "out" else getattr(command, name)
        changes[name] = config_file.typed(f"{name} in {path}", value, like)
    return dataclasses.replace(command, **changes)  # type: ignore[type-var]


def _default_algorithm() -> Any:
    from purejax_po.experiment.config import PPOConfig

    return PPOConfig()
