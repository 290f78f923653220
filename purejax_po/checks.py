"""Checks of what a user gives, and the ranges that hyperparameters declare.

Each mistake is one line that names what is wrong, its value and what is allowed.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Collection
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from jax.core import Tracer

from purejax_po.aliases import ALIASES
from purejax_po.types import Critic, Policy

AnyType = TypeVar("AnyType")
AnyArguments = ParamSpec("AnyArguments")
FLOAT32_MAX = float(np.finfo(np.float32).max)
NOUNS = {"options": "an option", "hyperparams": "a hyperparameter"}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a float may take: finite, between `low` and `high`."""

    low: float = -math.inf
    high: float = math.inf
    includes_low: bool = True
    includes_high: bool = True

    def __contains__(self, value: float) -> bool:
        # Programs compute in single precision: what is infinite or out of range there is so here.
        single = float(np.float32(value)) if abs(value) <= FLOAT32_MAX else math.inf
        return self._has(value) and self._has(single)

    def _has(self, value: float) -> bool:
        above = value >= self.low if self.includes_low else value > self.low
        below = value <= self.high if self.includes_high else value < self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "a finite number"
        if self.high == math.inf:
            return f"a finite number {'≥' if self.includes_low else '>'} {self.low:g}"
        left, right = "[("[not self.includes_low], "])"[not self.includes_high]
        return f"a number in {left}{self.low:g}, {self.high:g}{right}"


@dataclasses.dataclass(frozen=True)
class Count:
    """The whole numbers from `minimum` on."""

    minimum: int = 1


WholeNumber = Annotated[int, Count()]
Real = Annotated[float, Range()]
Positive = Annotated[float, Range(0.0, includes_low=False)]
NonNegative = Annotated[float, Range(0.0)]
UnitInterval = Annotated[float, Range(0.0, 1.0)]
OpenUnitInterval = Annotated[float, Range(0.0, 1.0, includes_low=False, includes_high=False)]
POSITIVE_FRACTION = Range(0.0, 1.0, includes_low=False)
PositiveFraction = Annotated[float, POSITIVE_FRACTION]


class KnownNames:
    """Base of dataclasses that raise `ValueError`, naming the nearest field, for an unknown one."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Check the names; the fields are set as ever."""
        fields = tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        for name in kwargs:
            ours = ALIASES.get(name, name).rpartition(".")[2]
            if name not in fields and ours in fields:
                raise ValueError(f"{name} is called {ours} here: {cls.__name__}({ours}=…)")
            check_choice(f"a field of {cls.__name__}", name, fields)
        return super().__new__(cls)


def known_arguments(factory: Callable[AnyArguments, AnyType]) -> Callable[AnyArguments, AnyType]:
    """Make an algorithm's factory raise `ValueError` for unknown or missing arguments."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def call(*args: AnyArguments.args, **kwargs: AnyArguments.kwargs) -> AnyType:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ValueError(_how_to_call(factory, signature, kwargs, error)) from None
        return factory(*args, **kwargs)

    return call


def _how_to_call(
    factory: Callable[..., object],
    signature: inspect.Signature,
    given: Collection[str],
    error: Exception,
) -> str:
    """What a call of an algorithm's factory must be."""
    name, known = factory.__name__, signature.parameters
    needed = [k for k, p in known.items() if p.default is p.empty]
    hints = get_type_hints(factory)
    kinds = {kind: get_args(hints[kind])[0] for kind in ("options", "hyperparams") if kind in hints}
    for unknown in (k for k in given if k not in known):
        ours = str(ALIASES.get(unknown, unknown)).rpartition(".")[2]
        for kind, holder in kinds.items():
            if ours in {f.name for f in dataclasses.fields(holder)}:
                inner = f"{kind}={holder.__name__}({ours}=…)"
                return (
                    f"{unknown} is no argument of {name} but {NOUNS[kind]}: "
                    f"{name}({', '.join(needed)}, {inner})"
                )
        hint = nearest(ours, known)
        return f"{name} has no argument {unknown}{hint} (it has {', '.join(known)})"
    networks = "*mlp_actor_critic(env, env_params)"
    made = networks if len(needed) > 1 else f"{networks[1:]}[0]"
    return f"{name} must be given {' and '.join(needed)}, such as {name}({made}): {error}"


def checked_options(given: AnyType | None, kind: type[AnyType]) -> AnyType:
    """Return options, or the defaults in place of `None`, once they are checked.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """
    options = _of_kind("options", given, kind)
    check_options(options)
    return options


def checked_hyperparams(given: AnyType | None, kind: type[AnyType]) -> AnyType:
    """Return hyperparameters, or the defaults in place of `None`, once they are checked.

    Raises:
        ValueError: naming the hyperparameter, its value and what is allowed.
    """
    hyperparams = _of_kind("hyperparams", given, kind)
    check_hyperparams(hyperparams)
    return hyperparams


def _of_kind(name: str, given: AnyType | None, kind: type[AnyType]) -> AnyType:
    if given is not None and not isinstance(given, kind):
        raise ValueError(f"{name} must be {kind.__name__}(…), got {type(given).__name__}")
    return kind() if given is None else given


def check_options(options: Any, prefix: str = "", cls: type | None = None) -> None:
    """Check every field of a dataclass of options, or of a base `cls`, against its annotation.

    Choices are a `Literal`, flags a `bool`, counts and floats are annotated by `Count` and `Range`.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    cls = cls or type(options)
    hints = get_type_hints(cls, include_extras=True)
    for option in dataclasses.fields(cls):
        name, hint, value = prefix + option.name, hints[option.name], getattr(options, option.name)
        if get_origin(hint) is Literal:
            check_choice(name, value, get_args(hint))
        elif hint is bool:
            check_flag(name, value)
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Count):
                check_count(name, value, allowed.minimum)
            elif isinstance(allowed, Range):
                check_number(name, value, allowed)


def check_hyperparams(hyperparams: Any, prefix: str = "hyperparams") -> None:
    """Check every annotated float of hyperparameters against its range, and whole numbers.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    for name, hint in get_type_hints(type(hyperparams), include_extras=True).items():
        allowed = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)), None)
        value = getattr(hyperparams, name)
        if isinstance(value, Tracer) or getattr(value, "ndim", 0) > 0:
            continue  # traced, or a sweep's axis
        if allowed is not None:
            check_number(f"{prefix}.{name}", value, allowed)
        if int in (hint, getattr(hint, "__origin__", None)) and value % 1:  # Annotated[int, …] too
            raise ValueError(f"{prefix}.{name} must be a whole number, got {value}")


def check_number(name: str, value: Any, allowed: Range) -> None:
    """Raise `ValueError` naming `name`, `value` and the range, unless the value is inside."""
    if isinstance(value, Tracer):
        return
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {allowed}, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must be {allowed}, got a number beyond any float") from None
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed}, got {value}")


def check_count(name: str, value: object, minimum: int = 1, maximum: int | None = None) -> None:
    """Raise `ValueError` unless `value` is a whole number from `minimum` to `maximum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number ≥ {minimum}, got {value!r}")
    if maximum is not None and int(value) > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ValueError`, naming the nearest match, unless `value` is one of `choices`."""
    if value not in choices:
        hint = nearest(str(value), choices)
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def nearest(name: str, choices: Collection[str], cutoff: float = 0.4) -> str:
    """Return the hint at what was meant, `; did you mean NAME?`, or nothing if nothing is near."""
    matches = difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]}?" if matches else ""


def check_is_env(env: object) -> None:
    """Raise `ValueError` for the name or the class of an environment in place of one."""
    if isinstance(env, str):
        raise ValueError(
            f"env must be an environment, got the name {env!r}; make it first: "
            f"env, env_params = make_env({env!r})"
        )
    if isinstance(env, type):
        raise ValueError(
            f"env must be an environment, got the class {env.__name__}; make one: {env.__name__}()"
        )


def check_networks(policy: object, critic: object = None) -> None:
    """Raise `ValueError` unless networks are a `Policy` and, if one is given, a `Critic`."""
    for role, found, needed in (("policy", policy, Policy), ("critic", critic, Critic)):
        if found is None and role == "critic":
            continue
        other = Critic if needed is Policy else Policy
        if isinstance(found, other) or not hasattr(found, "unroll"):
            raise ValueError(
                f"{role} must be a {needed.__name__} such as mlp_actor_critic(env, env_params) "
                f"returns (policy, critic), got {type(found).__name__}"
            )


def check_own_critic(name: str, critic: Critic | None) -> None:
    """Raise `ValueError` for a critic of `shared_torso` where an algorithm trains it alone."""
    if critic is not None and critic.is_shared:
        raise ValueError(
            f"critic must have parameters of its own: {name} trains it apart from the policy; got "
            "one of shared_torso, which a2c and ppo train"
        )


def describe(value: Any) -> str:
    """A value in words: `float32[2]`, `Categorical`, `dict`."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return f"a dictionary of {', '.join(map(str, value))}"
    return type(value).__name__


def how_to_install(extra: str) -> str:
    """Return what installs an extra: from an index, and in a checkout."""
    return f"pip install 'purejax-po[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
