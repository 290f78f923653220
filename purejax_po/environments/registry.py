"""Environments that users bring: objects, `my_pkg.grid:Grid`, and names that they register."""

import inspect
from collections.abc import Callable, Mapping

from purejax_po import contract, named
from purejax_po.checks import check_choice
from purejax_po.environments.catalogue import OWN, library_of
from purejax_po.types import Environment, EnvName, EnvParams

GROUP = "purejax_po.environments"
"""Entry points by which an installed package gives its environments a short name."""
Maker = Callable[..., object]
Target = EnvName
"""What a name stands for."""

_registered: dict[str, Target] = {}
"""Of this process, by name: `module:name`, a class, a function or an environment."""


def register(name: str, target: Target) -> None:
    """Give an environment a name in this process: `register_env("Grid-v0", "my_pkg.grid:Grid")`.

    A name that was registered before names the new one from now on. Another process has to
    register it too before it resumes or evaluates a run; `module:name` needs no registering.

    Args:
        name: letters and digits, without `:`.
        target: `module:name`, or what it would name: a class, a function that makes an environment
            or `(env, env_params)`, or an environment.

    Raises:
        ValueError: for a name that the package has, or a target that is none of these.
    """
    from purejax_po import environments

    if not isinstance(name, str) or not name or ":" in name:
        raise ValueError(f"name must be a text without ':', got {name!r}")
    if name not in _registered and name in environments.names():
        raise ValueError(f"name must be one that is free, got {name!r}, which is there already")
    if not (named.is_name(target) or _is_target(target)):
        raise ValueError(
            f"target must be module:name, a class, a function or an environment, got {target!r}"
        )
    _registered[name] = target


def names() -> list[str]:
    """Return the names that users and installed packages gave."""
    return [*_registered, *named.entry_points(GROUP)]


def label(env: EnvName) -> str:
    """Return what an environment is called: its id, or the name of an object that has none."""
    if isinstance(env, str):
        return env
    return contract.name_of(env) if _is_environment(env) else getattr(env, "__name__", repr(env))


def is_local(env: EnvName) -> bool:
    """Tell whether a name means something in this process alone."""
    return isinstance(env, str) and env in _registered


def target(env: EnvName) -> Target | None:
    """Return what an environment's name stands for, or an object itself; None for the package's.

    Raises:
        ValueError: if a name's module cannot be imported.
    """
    if not isinstance(env, str):
        return env if _is_target(env) else None
    found = _registered.get(env, env)
    if found is env and not named.is_name(env):
        installed = named.entry_points(GROUP)
        found = installed[env] if env in installed and not _is_ours(env) else None
    return named.find("env", found) if isinstance(found, str) else found


def instance(
    env: EnvName, target: Target, options: Mapping[str, object]
) -> tuple[Environment, EnvParams]:
    """Make what a target makes, with options for its arguments.

    Raises:
        ValueError: for an option that it has not, or if it makes no environment.
    """
    name = label(env)
    made: object = target
    if not _is_environment(target):
        if not callable(target):
            raise ValueError(
                f"env {name} must be an environment, a class or a function, got {target!r}"
            )
        _check_options(name, target, options)
        made = _call(name, target, options)
    elif options:
        raise ValueError(f"env {name} has no options, got {next(iter(options))!r}")
    if isinstance(made, tuple) and len(made) == 2:
        return made[0], made[1]
    if not _is_environment(made):
        raise ValueError(f"env {name} must make an environment with reset and step, got {made!r}")
    if not hasattr(made, "default_params"):
        raise ValueError(
            f"env {name} must have default_params, the parameters that reset and step take"
        )
    return made, made.default_params  # type: ignore[union-attr]


def _call(name: str, target: Maker, options: Mapping[str, object]) -> object:
    try:
        return target(**options)
    except Exception as error:  # whatever a user's code raises
        reason = (str(error).strip().splitlines() or [""])[0]
        told = f"{type(error).__name__}: {reason}".removesuffix(": ")
        raise ValueError(f"env {name} cannot be made: {told}") from error


def _check_options(name: str, target: Maker, options: Mapping[str, object]) -> None:
    """Raise `ValueError` for an option that a class or a function does not name."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # built in
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    for option in options:
        if not known:
            raise ValueError(f"env {name} has no options, got {option!r}")
        check_choice(f"option of {name}", option, known)


def _is_ours(name: str) -> bool:
    """Whether a name is one that the package has: no other package can take it."""
    import gymnax  # takes seconds to import: only where a package has this very name

    return name in gymnax.registered_envs or name in OWN or library_of(name) is not None


def _is_environment(value: object) -> bool:
    """Whether a value is an environment rather than what makes one."""
    methods = (getattr(value, name, None) for name in ("reset", "step"))
    return not isinstance(value, type) and all(map(callable, methods))


def _is_target(value: object) -> bool:
    return _is_environment(value) or (callable(value) and not isinstance(value, str))
