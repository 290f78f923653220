"""`--config FILE.toml`: the defaults of a command, from a file; flags win over it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from purejax_po.experiment import files as atomic
from purejax_po.experiment.config import AlgorithmConfig, PPOConfig
from purejax_po.experiment.config import file as config_file
from purejax_po.experiment.config.specs import WITH_SETTINGS

FLAG = "--config"
PARTS = ("host", "search")
"""Fields of commands whose own fields are keys of a file."""
NOT_IN_FILES = ("algorithm", "experiment", "config_file", "axes", "in_file", *PARTS)
"""Fields of commands that are no keys of a file by themselves."""
NOT_OF_A_HOST = ("progress", "observers")

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


def check_preset(preset: str, algorithm: AlgorithmConfig, path: Path) -> None:
    """Raise `ValueError` for `--preset` beside a file of settings, which would hide the preset's.

    A preset that the file names itself is what its settings start from.
    """
    data = config_file.read(path)
    names = [name for name in data if name in {*_fields(algorithm), *WITH_SETTINGS}]
    if names and data.get("preset") != preset:
        shown = ", ".join([*names[:3], *["…"] * (len(names) > 3)])
        raise ValueError(
            f"preset must be left out with {path}, which gives settings itself ({shown}), "
            f"got {preset!r}"
        )


def with_file(command: AnyCommand, path: Path) -> AnyCommand:
    """Return a command whose defaults are those of a file.

    Raises:
        ValueError: naming the file and the key that is unknown or whose value does not read.
    """
    data = config_file.read(path)
    own = [name for name in _fields(command) if name not in NOT_IN_FILES]
    changes: dict[str, object] = {"config_file": path}
    known = list(own)
    if isinstance(data.get("space"), Mapping) and hasattr(command, "in_file"):
        changes["in_file"] = data.pop("space")
    for name in own:
        if name in data:
            like = Path() if name == "out" else getattr(command, name)
            kind, value = config_file.element_type(command, name), data.pop(name)
            changes[name] = config_file.typed(f"{name} in {path}", value, like, kind)
            if name == "out":
                atomic.check_path(f"out in {path}", value)
    for part in (part for part in PARTS if hasattr(command, part)):
        inner = getattr(command, part)
        names = [name for name in _fields(inner) if name not in NOT_OF_A_HOST]
        mine = {key: data.pop(key) for key in list(data) if key in names}
        changes[part] = config_file.changed_by(inner, mine, path)
        known += names
    if hasattr(command, "experiment"):
        whole = dataclasses.replace(command.experiment, algorithm=command.algorithm)  # type: ignore[attr-defined]
        read = config_file.experiment(data, path, whole, known)
        changes |= {"algorithm": read.algorithm, "experiment": read}
    elif data:
        raise ValueError(config_file.unknown(min(data), path, PPOConfig(), known))
    return dataclasses.replace(command, **changes)  # type: ignore[type-var]


def _fields(command: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(command)]
