"""Algorithms as people name them: `ppo`, `ppo=PRESET`, `ppo:learning_rate=1e-3,num_epochs=8`."""

import dataclasses
from typing import Any

from purejax_po.checks import check_choice
from purejax_po.experiment.config.algorithms import AlgorithmConfig, algorithm_config
from purejax_po.experiment.config.presets import PRESETS

FORM = "NAME[=PRESET][:FIELD=VALUE,…]"


def parse(text: str) -> AlgorithmConfig:
    """Return the configuration that a text names.

    Args:
        text: an algorithm; after `=` a preset of it to start from; after `:` options,
            hyperparameters and `hidden`, such as `ppo:learning_rate=1e-3,num_envs=8,hidden=64x64`.

    Raises:
        ValueError: for an unknown name, preset or field, naming the nearest match, or a value that
            does not read.
    """
    named, _, settings = text.partition(":")
    name, has_preset, preset = named.partition("=")
    config: AlgorithmConfig = algorithm_config(name)()  # type: ignore[call-arg]
    if has_preset:
        fitting = tuple(k for k, v in PRESETS.items() if v.algorithm.name == name)
        check_choice(f"preset of {name}", preset, fitting)
        config = PRESETS[preset].algorithm
    for setting in filter(None, settings.split(",")):
        field, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"algorithm must be {FORM}, got {text!r}")
        config = _with(config, field.strip().replace("-", "_"), value.strip())
    return config


def _with(config: AlgorithmConfig, field: str, text: str) -> AlgorithmConfig:
    """The configuration with one field set, wherever it stands."""
    field = field.removeprefix("hyperparams.").removeprefix("network.")
    owners = {"": config, "hyperparams": config.hyperparams, "network": config.network}
    known = {
        f.name: where
        for where, owner in owners.items()
        for f in dataclasses.fields(owner)
        if f.name not in ("network", "hyperparams")
    }
    check_choice(f"a field of {config.name}", field, tuple(known))
    owner = owners[known[field]]
    changed = dataclasses.replace(owner, **{field: _read(field, getattr(owner, field), text)})
    return dataclasses.replace(config, **{known[field]: changed}) if known[field] else changed


def _read(field: str, like: Any, text: str) -> Any:
    """A value of the kind that a field has."""
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(int(x) for x in text.split("x") if x)
        if isinstance(like, int):
            if float(text) != int(float(text)):
                raise ValueError
            return int(float(text))
        return float(text) if isinstance(like, float) else text
    except (ValueError, KeyError, OverflowError):
        kinds = {bool: "true or false", tuple: "widths such as 64x64", int: "a whole number"}
        needed = kinds.get(type(like), "a number")
        raise ValueError(f"{field} must be {needed}, got {text!r}") from None
