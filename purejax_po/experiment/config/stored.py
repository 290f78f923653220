"""Algorithms as JSON: the name of a class, and its fields; also for your own classes."""

import dataclasses
from collections.abc import Callable
from typing import Any

from purejax_po import named
from purejax_po.experiment.config import schema
from purejax_po.experiment.config.algorithms import AlgorithmConfig
from purejax_po.experiment.config.lookup import algorithm_config, stored_name
from purejax_po.types import JSONObject


def to_dict(algorithm: AlgorithmConfig) -> JSONObject:
    """Return an algorithm as nested dictionaries.

    A class that no other process can import goes by its short name: `check` refuses it.
    """
    data = dataclasses.asdict(algorithm)
    for part, cls in _own_parts(algorithm).items():
        data[part] = {schema.CLASS: _or(cls.__name__, named.name_of, cls)} | (
            data[part] if isinstance(data[part], dict) else {}
        )
    if callable(factory := algorithm.network.factory):
        data["network"]["factory"] = _or(repr(factory), named.name_of, factory)
    return {"name": _or(algorithm.name, stored_name, type(algorithm)), **data}


def from_dict(data: JSONObject) -> AlgorithmConfig:
    """Undo `to_dict`.

    Raises:
        ValueError: for a class that is not there, or a field that it has not.
    """
    data = dict(data)
    return schema.build(algorithm_config(data.pop("name")), data)


def check(algorithm: AlgorithmConfig) -> None:
    """Check that another process finds the classes of an algorithm by the names that are stored.

    Raises:
        ValueError: naming the class that it does not find.
    """
    cls: type | Callable[..., object] = type(algorithm)
    parts: list[type | Callable[..., object]] = [*_own_parts(algorithm).values()]
    if callable(algorithm.network.factory):
        parts.append(algorithm.network.factory)
    try:
        stored_name(type(algorithm))
        for cls in parts:
            named.name_of(cls)
    except ValueError as error:
        shown = getattr(cls, "__name__", cls)
        raise ValueError(
            f"a run that is stored (out) must be of what can be imported, got {shown}, which could "
            f"not be resumed or evaluated: {error}; put it there, or train it without out"
        ) from None


def _own_parts(algorithm: AlgorithmConfig) -> dict[str, type]:
    """The classes of an algorithm's parts, where they are not the usual ones."""
    found = {part: type(getattr(algorithm, part)) for part in ("network", "hyperparams")}
    usual = type(algorithm)
    return {k: cls for k, cls in found.items() if cls is not schema.inner_class(usual, k)}


def _or(fallback: str, name: Callable[[Any], str], cls: type | Callable[..., object]) -> str:
    try:
        return name(cls)
    except ValueError:
        return fallback
