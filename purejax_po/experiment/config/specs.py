"""Algorithms as people name them: `ppo`, `ppo=PRESET`, `ppo:num_epochs=8`, `my_pkg.spo:SPO`."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

from purejax_po.checks import check_choice
from purejax_po.experiment.config import file
from purejax_po.experiment.config.algorithms import AlgorithmConfig
from purejax_po.experiment.config.experiment import ExperimentConfig
from purejax_po.experiment.config.lookup import algorithm_config, is_algorithm, stored_name
from purejax_po.experiment.config.presets import PRESETS

FORM = (
    "[LABEL=]NAME[=PRESET][:FIELD=VALUE,…], with NAME such as ppo or my_pkg.spo:SPO, or "
    "[LABEL=]FILE.toml"
)
_IMPORTED = re.compile(r"(?P<name>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)(?P<settings>:.*)?")
"""`my_pkg.spo:SPO` or `my_pkg.spo:SPO:learning_rate=1e-3`; in `ppo:learning_rate=1e-3` a value
follows the name."""


OF_A_FILE = ("normalize_observations", "normalize_rewards")
"""What a file says of an experiment that goes with its algorithm's settings."""
WITH_SETTINGS = (*OF_A_FILE, "wrappers")
"""What an experiment says besides that a preset or a file brings with an algorithm's settings."""
OF_THE_TASK = ("env_params", "env_options", "randomize", "matmul_precision")
"""What all algorithms of a comparison share, so that no algorithm's file may say otherwise."""
_FILE = re.compile(r"(?:(?P<label>[^=:]+)=)?(?P<path>[^=:]+\.toml)(?::(?P<settings>.*))?")


_ZOO = re.compile(r"(?:(?P<label>[^=:]+)=)?(?P<name>[\w-]+)=zoo(?::(?P<settings>.*))?")


Place = tuple[str, Any]
"""`algorithm`, `hyperparams` or `network`, and the dataclass that stands there."""


class Named(NamedTuple):
    """A configuration, what it is called, and what else its file says of experiments with it."""

    label: str
    algorithm: AlgorithmConfig
    settings: file.Settings
    zoo: str | None = None
    """FIELD=VALUE,… to set in what the zoo has for an environment; None: not of the zoo."""
    is_plain: bool = False
    """A name alone, without preset, settings or file."""
    task: file.Settings = {}  # noqa: RUF012 - never changed
    """What its file says of the task (`OF_THE_TASK`)."""


def labelled(text: str) -> Named:
    """Return what a text calls a configuration, and the configuration; errors as `parse`.

    `LABEL=NAME…` calls it LABEL, a class that is imported goes by its own short name, and all else
    by the text itself. `LABEL=FILE.toml` reads a file: its algorithm, wrappers, and whether it
    normalises. `ppo=zoo` takes these from the zoo, once the environment is known.
    """
    if match := _FILE.fullmatch(text):
        return _of_file(**match.groupdict())
    if (match := _ZOO.fullmatch(text)) and is_algorithm(match["name"]):
        label = match["label"] or text
        return Named(label, algorithm_config(match["name"])(), {}, match["settings"] or "")  # type: ignore[call-arg]
    found = Named(*_labelled(text), {})
    return found._replace(is_plain=is_algorithm(text.rpartition("=")[2]))


def _of_file(label: str | None, path: str, settings: str | None) -> Named:
    config = file.experiment(file.read(path), path, ExperimentConfig())
    algorithm = changed(config.algorithm, settings or "", path)
    own = type(algorithm)
    if label is not None and is_algorithm(label) and algorithm_config(label) is not own:
        raise ValueError(f"{label}={path} must be settings of {label}, got {stored_name(own)}'s")
    values = {name: getattr(config, name) for name in OF_THE_TASK}
    task = {k: x for k, x in values.items() if x != getattr(ExperimentConfig(), k)}
    return Named(label or Path(path).stem, algorithm, of_a_file(config), task=task)


def of_a_file(config: ExperimentConfig) -> file.Settings:
    """Return what an experiment says besides that goes with its algorithm's settings."""
    found = {name: getattr(config, name) for name in WITH_SETTINGS}
    return {name: x for name, x in found.items() if x or name in OF_A_FILE}


def _labelled(text: str) -> tuple[str, AlgorithmConfig]:
    label, equals, rest = text.partition("=")
    is_label = equals and ":" not in label and not is_algorithm(label)
    if is_label and (_IMPORTED.fullmatch(rest) or is_algorithm(re.split("[=:]", rest)[0])):
        return label, parse(rest)
    config, (name, _, _) = parse(text), _split(text)
    return text.replace(name, config.name, 1) if ":" in name else text, config


def parse(text: str) -> AlgorithmConfig:
    """Return the configuration that a text names.

    Args:
        text: an algorithm; after `=` a preset of it to start from; after `:` options,
            hyperparameters and `hidden`, such as `ppo:learning_rate=1e-3,num_envs=8,hidden=64x64`.
            The algorithm may be imported: `my_pkg.spo:SPO:learning_rate=1e-3`.

    Raises:
        ValueError: for an unknown name, preset or field, naming the nearest match, or a value that
            does not read.
    """
    name, preset, settings = _split(text)
    config: AlgorithmConfig = algorithm_config(name)()  # type: ignore[call-arg]
    if preset is not None:
        fitting = tuple(k for k, v in PRESETS.items() if v.algorithm.name == name)
        check_choice(f"preset of {name}", preset, fitting)
        config = PRESETS[preset].algorithm
    return changed(config, settings, text)


def changed(config: AlgorithmConfig, settings: str, text: str) -> AlgorithmConfig:
    """Return a configuration with FIELD=VALUE,… set."""
    for setting in filter(None, settings.split(",")):
        field, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"algorithm must be {FORM}, got {text!r}")
        config = _with(config, field.strip().replace("-", "_"), value.strip())
    return config


def _split(text: str) -> tuple[str, str | None, str]:
    """Name, preset and settings of an algorithm."""
    named, _, settings = text.partition(":")
    name, has_preset, preset = named.partition("=")
    imported = None if is_algorithm(name) else _IMPORTED.fullmatch(text)
    if imported:
        return imported["name"], None, (imported["settings"] or "")[1:]
    return name, preset if has_preset else None, settings


def _with(config: AlgorithmConfig, field: str, text: str) -> AlgorithmConfig:
    """The configuration with one field set, as a text gives it."""
    name = field.removeprefix("hyperparams.").removeprefix("network.")
    check_choice(f"a field of {config.name}", name, tuple(places(config)))
    return with_field(config, field, _read(field, getattr(place_of(config, field)[1], name), text))


def places(config: AlgorithmConfig) -> dict[str, Place]:
    """Return where each field stands: in `algorithm` itself, in `hyperparams` or in `network`.

    The first that has a field of the name is meant by it: PPO's `kernels` are not those of its
    network, which are `network.kernels`.
    """
    owners = {"algorithm": config, **{part: getattr(config, part) for part in file.PARTS}}
    found: dict[str, Place] = {}
    for place, owner in owners.items():
        for f in dataclasses.fields(owner):
            if f.name not in file.PARTS:
                found[f"{place}.{f.name}" if f.name in found else f.name] = place, owner
    return found


def own_name(field: str) -> str:
    """Return a field's name without the place in front."""
    return field.rpartition(".")[2]


def place_of(config: AlgorithmConfig, field: str) -> Place:
    """Return where a field stands that may have its place in front: `network.kernels`."""
    known = places(config)
    return known.get(field) or known[own_name(field)]


def with_field(config: AlgorithmConfig, field: str, value: object) -> AlgorithmConfig:
    """Return a configuration with one field set, wherever it stands, named as by `place_of`."""
    place, owner = place_of(config, field)
    changed = dataclasses.replace(owner, **{own_name(field): value})
    return changed if place == "algorithm" else dataclasses.replace(config, **{place: changed})


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
