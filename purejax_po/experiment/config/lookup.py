"""Algorithms by name: the package's own, those of installed packages, and `module:name`."""

import dataclasses
from typing import Any

from purejax_po import named
from purejax_po.checks import check_choice
from purejax_po.experiment.config.algorithms import ALGORITHMS, AlgorithmConfig

GROUP = "purejax_po.algorithms"
"""Entry points by which an installed package gives its algorithms a short name."""


def algorithm_config(name: str) -> type[AlgorithmConfig]:
    """Return an algorithm's configuration class by its name.

    Args:
        name: of the package (`ppo`), of an entry point of the group `purejax_po.algorithms`, or
            `my_pkg.spo:SPO`.

    Raises:
        ValueError: for an unknown name, naming the nearest match; or if what it names cannot be
            imported, or is no configuration of an algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if named.is_name(name):
        return _checked(name, named.find("algorithm", name))
    installed = named.entry_points(GROUP)
    try:
        check_choice("algorithm", name, tuple(dict.fromkeys((*ALGORITHMS, *installed))))
    except ValueError as error:
        raise ValueError(f"{error}{named.form_of(name)}") from None
    return _checked(name, named.find("algorithm", installed[name]))


def is_algorithm(name: str) -> bool:
    """Tell whether a name is the package's or an entry point's."""
    return name in ALGORITHMS or name in named.entry_points(GROUP)


def stored_name(config: type[AlgorithmConfig]) -> str:
    """Return the name that `config.json` has for a class, which `algorithm_config` undoes.

    Raises:
        ValueError: for a class that no other process can import.
    """
    short = getattr(config, "name", None)
    return str(short) if ALGORITHMS.get(str(short)) is config else named.name_of(config)


def _checked(name: str, config: Any) -> type[AlgorithmConfig]:
    """The class itself, if it is one that experiments can be made of."""
    if not (isinstance(config, type) and issubclass(config, AlgorithmConfig)):
        raise ValueError(
            f"algorithm {name} must be a subclass of purejax_po.AlgorithmConfig, got {config!r}"
        )
    for needed in ("name", "factory"):
        if not hasattr(config, needed):
            raise ValueError(f"algorithm {name} must have a {needed}, as PPOConfig has")
    if config.__dataclass_params__.frozen and "__dataclass_fields__" in vars(config):  # type: ignore[attr-defined]
        for field in dataclasses.fields(config):
            if field.default is field.default_factory is dataclasses.MISSING:
                raise ValueError(f"algorithm {name} must have a default for its field {field.name}")
        return config
    raise ValueError(
        f"algorithm {name} must be a frozen dataclass: @dataclass(frozen=True, kw_only=True)"
    )
