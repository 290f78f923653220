"""Factories of algorithms whose options are keyword arguments: short in tables of tests."""

from collections.abc import Callable
from typing import Any, get_args, get_type_hints


def built(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return the factory, with the fields of its options as arguments of its own."""
    kind = get_args(get_type_hints(factory)["options"])[0]

    def build(*networks: Any, hyperparams: Any = None, **options: Any) -> Any:
        return factory(*networks, kind(**options), hyperparams)

    return build
