"""Configurations as JSON: a number for the format, defaults for what is missing, migrations."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np

FORMAT = "format"
"""The field of `config.json` that numbers its format."""
CURRENT = 2
OLD_CIRCUMSTANCES = ("num_devices", "memory_gib", "stop_on_divergence")
"""Of format 1, that of version 0.1: fields that results do not depend on."""


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Where a run takes place is no longer part of what it is."""
    return {name: value for name, value in data.items() if name not in OLD_CIRCUMSTANCES}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""From a format to the next one."""


def migrate(data: dict[str, Any]) -> dict[str, Any]:
    """Bring a configuration of any format into the present one.

    Raises:
        ValueError: for a format that this version does not know.
    """
    data = dict(data)
    number = data.pop(FORMAT, 1)
    if number not in (*MIGRATIONS, CURRENT):
        raise ValueError(f"its format is {number}, and this version reads 1 … {CURRENT}")
    while number < CURRENT:
        data, number = MIGRATIONS[number](data), number + 1
    return data


def build(cls: Any, data: dict[str, Any]) -> Any:
    """Build a configuration dataclass from nested dictionaries.

    Raises:
        ValueError: naming a field that it has not, or one that is missing and has no default.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := set(data) - set(fields):
        raise ValueError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    hints = get_type_hints(cls)
    values = {}
    for name, value in data.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(hints[name]):
            values[name] = build(hints[name], value)
        else:
            values[name] = _with_tuples(value)
    return cls(**values)


def plain(value: Any) -> Any:
    """Turn NumPy and JAX scalars inside nested dictionaries into Python numbers."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return plain(tuple(value)) if np.ndim(value) else getattr(value, "item", lambda: value)()


def _with_tuples(value: Any) -> Any:
    """Turn the lists that JSON makes of tuples back into them."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
