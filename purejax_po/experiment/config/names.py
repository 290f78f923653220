"""Fields of configurations that are given in the wrong place, by another name or without one."""

import dataclasses
from typing import Any, Self

from purejax_po.aliases import ALIASES
from purejax_po.checks import nearest
from purejax_po.experiment.config import schema

PARTS = ("hyperparams", "network", "algorithm")
"""Fields that hold configurations themselves."""


class NamedFields:
    """Base of configurations that refuse what they have not, and say where it belongs."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Check the names; the fields are set as ever."""
        fields = tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        if args:
            raise ValueError(
                f"{cls.__name__} takes its fields by name, such as {cls.__name__}({fields[0]}=…), "
                f"got {_short(args[0])} without one"
            )
        for name in kwargs:
            if name not in fields:
                raise ValueError(where(cls, name))
        return super().__new__(cls)


def where(cls: type, name: str) -> str:
    """Say where a field belongs that a configuration has not."""
    if name in schema.OLD_CIRCUMSTANCES and "env" in {f.name for f in dataclasses.fields(cls)}:
        return f"{name} says where a run takes place: purejax_po.run(config, {name}=…)"
    fields = tuple(f.name for f in dataclasses.fields(cls))
    ours = ALIASES.get(name, name).rpartition(".")[2]
    if ours not in fields and (path := _path(cls, ours)):
        owner = path[-1][1].__name__
        form = f"{ours}=…"
        for part, inner in reversed(path):
            form = f"{part}={inner.__name__}({form})"
        is_ours = name == ours
        said = f"{name} is a field" if is_ours else f"{name} is called {ours} here, a field"
        return f"{said} of {owner}: {cls.__name__}({form})"
    hint = nearest(ours if ours in fields else name, fields)
    return f"{cls.__name__} has no field {name}{hint} (it has {', '.join(fields)})"


def _path(cls: type, name: str) -> list[tuple[str, type]]:
    """The parts of a configuration, by name and class, that lead to a field; none if none do."""
    for part in PARTS:
        default: Any = next((f for f in dataclasses.fields(cls) if f.name == part), None)
        if default is None or not callable(default.default_factory):
            continue
        inner: Any = type(default.default_factory())
        if name in {f.name for f in dataclasses.fields(inner)}:
            return [(part, inner)]
        if further := _path(inner, name):
            return [(part, inner), *further]
    return []


def _short(value: object) -> str:
    """A value in at most forty characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
