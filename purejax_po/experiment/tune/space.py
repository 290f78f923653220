"""What is searched: ranges of traced numbers, and choices among anything an experiment is made of.

A dimension is written as `log:1e-4..1e-2`, as `0.1..0.3`, or as the values to choose from: `4,8,16`
in a text, a list in Python and in TOML. Hidden widths are `64x64`.
"""

import dataclasses
import itertools
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from purejax_po.checks import check_choice
from purejax_po.experiment.config import AlgorithmConfig, ExperimentConfig, file, specs
from purejax_po.types import Environment, EnvParams

Value = bool | int | float | str
Params = dict[str, Value]
"""A point of a space: a value for each name."""

MOST_SHAPES = 4096
"""Combinations of static choices, which are checked one by one."""


class Range(NamedTuple):
    """Numbers between two bounds, alike on a linear or on a logarithmic scale."""

    low: float
    high: float
    is_log: bool = False

    def __str__(self) -> str:
        return f"{'log:' * self.is_log}{self.low!r}..{self.high!r}"


class Choices(NamedTuple):
    """Values to choose from."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        return ",".join(map(_text, self.values))


Dimension = Range | Choices
Space = dict[str, Dimension]


def parse(space: Mapping[str, object]) -> Space:
    """Return the dimensions that texts and lists stand for.

    Raises:
        ValueError: naming a dimension that does not read.
    """
    if not isinstance(space, Mapping):
        raise ValueError(f"space must be dimensions by name, got {space!r}")
    return {name.replace("-", "_"): _dimension(name, x) for name, x in space.items()}


def parse_assignments(assignments: Sequence[str], known: Container[str] = ()) -> dict[str, str]:
    """Turn `NAME=DIMENSION` of a command line into a mapping.

    Names may have their place in front, which goes unless it is a part of a `known` name.

    Raises:
        ValueError: for what does not read so, or a name that is given twice.
    """
    found: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        for prefix in () if name in known else file.PARTS:
            name = name.removeprefix(f"{prefix}.")
        if not (name and equals):
            raise ValueError(
                "search must be NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=VALUE,VALUE,…, got "
                f"{assignment!r}"
            )
        if name in found:
            raise ValueError(f"search must give each name once, got {name} twice")
        found[name] = text
    return found


def to_json(space: Space) -> dict[str, str | list[Value]]:
    """Undo `parse`."""
    return {
        name: str(dimension) if isinstance(dimension, Range) else list(dimension.values)
        for name, dimension in space.items()
    }


def _dimension(name: str, given: object) -> Dimension:
    if isinstance(given, list | tuple):
        return Choices(tuple(_choice(name, x) for x in given))
    if not isinstance(given, str):
        raise ValueError(
            f"space.{name} must be a range such as 'log:1e-4..1e-2' or a list of values, got "
            f"{given!r}"
        )
    scale, colon, rest = given.rpartition(":")
    low, dots, high = rest.partition("..")
    if not (dots or colon):
        return Choices(tuple(_read(x.strip()) for x in given.split(",") if x.strip()))
    try:
        if scale not in ("", "log"):
            raise ValueError
        return Range(float(low), float(high), scale == "log")
    except ValueError:
        raise ValueError(
            f"space.{name} must be a range LOW..HIGH or log:LOW..HIGH, got {given!r}"
        ) from None


def _choice(name: str, value: object) -> Value:
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"space.{name} must hold numbers, flags and names, got {value!r}")
    return value


def _read(text: str) -> Value:
    """A value of the command line: a flag, a whole number, a number, or a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_traced(algorithm: AlgorithmConfig, name: str) -> bool:
    """Tell whether a name is a number that no program depends on."""
    return name in {f.name for f in dataclasses.fields(algorithm.hyperparams)}


def _is_whole(algorithm: AlgorithmConfig, name: str) -> bool:
    """Tell whether a hyperparameter is a whole number."""
    return get_type_hints(type(algorithm.hyperparams)).get(name) is int


def shape_names(space: Space, algorithm: AlgorithmConfig) -> tuple[str, ...]:
    """Return the names of a space that shape programs."""
    return tuple(name for name in space if not is_traced(algorithm, name))


def at(config: ExperimentConfig, params: Mapping[str, Value]) -> ExperimentConfig:
    """Return an experiment at a point."""
    algorithm, own = config.algorithm, {}
    for name, value in params.items():
        if name in specs.OF_A_FILE:
            own[name] = value
            continue
        place, owner = specs.places(algorithm)[name]
        held = _held(name, value, getattr(owner, specs.own_name(name)))
        held = float(held) if place == "hyperparams" else held
        if _is_whole(algorithm, name) and held % 1 == 0:
            held = int(held)
        algorithm = specs.with_field(algorithm, name, held)
    return dataclasses.replace(config, algorithm=algorithm, **own)


def _held(name: str, value: Value, like: object) -> Any:
    """A value as a field holds it; `ValueError` for a text where there are widths or a number."""
    needed = {tuple: "widths such as 64x64", int: "whole numbers", float: "numbers"}.get(type(like))
    try:
        if needed and isinstance(value, bool):
            raise ValueError
        if isinstance(like, tuple):
            return tuple(int(x) for x in str(value).split("x") if x)
        if needed:
            float(value)
    except ValueError:
        raise ValueError(f"space.{name} must hold {needed}, got {value!r}") from None
    return value


def params_of(config: ExperimentConfig, space: Space) -> Params | None:
    """Return the point at which an experiment is; None if the space does not hold it."""
    found: Params = {}
    for name, dimension in space.items():
        owner = config if name in specs.OF_A_FILE else specs.places(config.algorithm)[name][1]
        value: Any = getattr(owner, specs.own_name(name))
        value = "x".join(map(str, value)) if isinstance(value, tuple) else value
        if isinstance(dimension, Range):
            held = [value] if dimension.low <= value <= dimension.high else []
        else:  # of one hidden layer 64 is written as the text "64" or as a number
            held = [x for x in dimension.values if x == value or str(x) == value]
        if not held:
            return None
        found[name] = held[0]
    return found


def check(space: Space, config: ExperimentConfig) -> None:
    """Check every dimension, and every combination of what shapes programs; compiles nothing.

    Raises:
        ValueError: naming the dimension, or the trial that could not be trained.
    """
    if not space:
        raise ValueError("space must hold at least one name, got none")
    algorithm = config.algorithm
    known = (*(x for x in specs.places(algorithm) if x != "factory"), *specs.OF_A_FILE)
    for name, dimension in space.items():
        check_choice("a name in space", name, known)
        if isinstance(dimension, Range):
            _check_range(name, dimension, config)
        else:
            _check_choices(name, dimension)
    _check_number(space, algorithm)
    check_shapes(space, config)


def check_shapes(
    space: Space, config: ExperimentConfig, on: tuple[Environment, EnvParams] | None = None
) -> None:
    """Check every combination of what shapes programs, or that it can be built on an environment.

    Raises:
        ValueError: naming the trial that cannot.
    """
    for shape in shapes(space, config.algorithm):
        try:
            found = at(config, shape)
            found.check() if on is None else found.algorithm.build(*on)
        except (ValueError, TypeError) as error:
            described = describe(shape) or "the default choices"
            raise ValueError(f"space holds a trial with {described}: {error}") from None


def _check_range(name: str, dimension: Range, config: ExperimentConfig) -> None:
    low, high, is_log = dimension
    if not is_traced(config.algorithm, name):
        raise ValueError(
            f"space.{name} must be a list of values such as 4,8,16, for it shapes the program, got "
            f"the range {dimension}"
        )
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"space.{name} must be a range LOW..HIGH with LOW < HIGH, got {dimension}")
    if _is_whole(config.algorithm, name):
        raise ValueError(f"space.{name} must be a list of whole numbers, got the range {dimension}")
    if is_log and low <= 0:
        raise ValueError(f"space.{name} must begin above 0 on a logarithmic scale, got {dimension}")
    for value in (low, high):
        at(config, {name: value}).algorithm.check()


def _check_choices(name: str, dimension: Choices) -> None:
    values = dimension.values
    if not values:
        raise ValueError(f"space.{name} must hold at least one value, got none")
    if len({(type(x), x) for x in values}) < len(values):
        raise ValueError(f"space.{name} must hold each value once, got {dimension}")


def _check_number(space: Space, algorithm: AlgorithmConfig) -> None:
    sizes = {name: len(space[name].values) for name in shape_names(space, algorithm)}  # type: ignore[union-attr]
    if (number := math.prod(sizes.values())) > MOST_SHAPES:
        listed = " × ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ValueError(
            f"space must hold at most {MOST_SHAPES:,} combinations of choices that shape programs, "
            f"got {number:,}: {listed}"
        )


def shapes(space: Space, algorithm: AlgorithmConfig) -> Iterator[Params]:
    """Every combination of static choices, and of each traced choice alone."""
    for name, dimension in space.items():
        if isinstance(dimension, Choices) and is_traced(algorithm, name):
            yield from ({name: value} for value in dimension.values)
    static = shape_names(space, algorithm)
    columns = [space[name].values for name in static]  # type: ignore[union-attr]
    for values in itertools.product(*columns):
        yield dict(zip(static, values, strict=True))


def describe(params: Mapping[str, Value]) -> str:
    """Name a point in words."""
    return ", ".join(
        f"{name} = {f'{value:.4g}' if isinstance(value, float) else _text(value)}"
        for name, value in params.items()
    )
