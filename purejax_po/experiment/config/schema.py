"""Configurations as JSON: a number for the format, defaults for what is missing, migrations."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from purejax_po import named
from purejax_po.types import JSONObject

Built = TypeVar("Built")

CLASS = "class"
"""The key of a part of a configuration that names its class, where it is not the usual one."""
FORMAT = "format"
"""The field of `config.json` that numbers its format."""
CURRENT = 4
OLD_CIRCUMSTANCES = ("num_devices", "memory_gib", "stop_on_divergence")
"""Of format 1, that of version 0.1: fields that results do not depend on."""


def _from_1(data: JSONObject) -> JSONObject:
    """Where a run takes place is no longer part of what it is; every Gaussian was clipped."""
    kept = {name: value for name, value in data.items() if name not in OLD_CIRCUMSTANCES}
    algorithm = kept.get("algorithm")
    if not isinstance(algorithm, dict) or not isinstance(algorithm.get("network"), dict):
        return kept
    network = algorithm["network"]
    if network.get("action_distribution", "gaussian") == "gaussian":
        network = {**network, "action_distribution": "clipped_gaussian"}
    return {**kept, "algorithm": {**algorithm, "network": network}}


def _from_2(data: JSONObject) -> JSONObject:
    """No policy kept to masks of actions."""
    algorithm = data.get("algorithm")
    if not isinstance(algorithm, dict) or not isinstance(algorithm.get("network"), dict):
        return data
    network = {"mask_actions": False, **algorithm["network"]}
    return {**data, "algorithm": {**algorithm, "network": network}}


def _from_3(data: JSONObject) -> JSONObject:
    """Before there was a choice, all shuffles were fast."""
    algorithm = data.get("algorithm")
    if not isinstance(algorithm, dict) or algorithm.get("name") not in SHUFFLING:
        return data
    return {**data, "algorithm": {"shuffle": "fast", **algorithm}}


SHUFFLING = ("reinforce", "npg", "trpo", "ppo")
"""Algorithms whose minibatches are drawn by permutations."""
MIGRATIONS: dict[int, Callable[[JSONObject], JSONObject]] = {1: _from_1, 2: _from_2, 3: _from_3}
"""From a format to the next one."""


def migrate(data: JSONObject) -> JSONObject:
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


def build(cls: type[Built], data: JSONObject) -> Built:
    """Build a configuration dataclass from nested dictionaries.

    Raises:
        ValueError: naming a field that it has not, or one that is missing and has no default.
    """
    data = dict(data)
    if (name := data.pop(CLASS, None)) is not None:
        cls = own_class(name)
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := set(data) - fields:
        raise ValueError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    hints = get_type_hints(cls)
    values = {}
    for name, value in data.items():
        inner = inner_class(cls, name) if isinstance(value, dict) else None
        if inner is not None:
            values[name] = build(inner, value)
        else:
            values[name] = _of_json(value, hints.get(name))
    return cls(**values)


def own_class(name: object, field: str = "class") -> type:
    """Return the dataclass that a stored name stands for; raise `ValueError` for anything else."""
    found = named.find(field, name) if isinstance(name, str) else name
    if isinstance(found, type) and dataclasses.is_dataclass(found):
        return found
    raise ValueError(f"{field} must be a dataclass, as module:Class, got {name!r}")


def inner_class(cls: type, name: str) -> type | None:
    """The dataclass that a field holds: as it is annotated, else as its default is; or None."""
    hint = get_type_hints(cls).get(name)
    for found in (hint, *get_args(hint)):
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            return found
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    if field.default_factory is dataclasses.MISSING:
        default = field.default
    else:
        default = field.default_factory()
    return type(default) if dataclasses.is_dataclass(default) else None


def plain(value: Any) -> Any:
    """Turn NumPy and JAX scalars inside nested dictionaries into Python numbers."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return plain(tuple(value)) if np.ndim(value) else getattr(value, "item", lambda: value)()


def _of_json(value: object, hint: Any = None) -> Any:
    """Turn the lists that JSON makes of tuples back into them, unless a list is what is asked."""
    if isinstance(value, dict):
        return {name: _of_json(item) for name, item in value.items()}
    if not isinstance(value, list):
        return value
    items = [_of_json(item) for item in value]
    return items if list in (hint, get_origin(hint)) else tuple(items)
