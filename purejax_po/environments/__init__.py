"""Environments: every one is a gymnax environment, made by name."""

import difflib
import importlib
import inspect
import urllib.error
from typing import Any

from purejax_po.checks import check_choice
from purejax_po.environments import registry
from purejax_po.types import EnvParams

OWN = {
    "Chain-v0": "chain.Chain",
    "tokens/addition": "tokens.Addition",
    "tokens/brackets": "tokens.Brackets",
    "tokens/copy": "tokens.Copy",
    "tokens/length": "tokens.Length",
    "tokens/needle": "tokens.Needle",
    "tokens/parity": "tokens.Parity",
    "tokens/reverse": "tokens.Reverse",
    "tokens/sort": "tokens.Sort",
    "tokens/two": "tokens.TwoTokens",
}
"""The project's own environments by id: the module here and the class in it."""

ADAPTED = {
    "brax": (
        "ant",
        "halfcheetah",
        "hopper",
        "humanoid",
        "humanoidstandup",
        "inverted_double_pendulum",
        "inverted_pendulum",
        "pusher",
        "reacher",
        "swimmer",
        "walker2d",
    ),
    "craftax": ("Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"),
    "jumanji": (
        "BinPack-v2",
        "Game2048-v1",
        "GraphColoring-v1",
        "JobShop-v0",
        "Knapsack-v1",
        "Maze-v0",
        "Minesweeper-v0",
        "PacMan-v1",
        "RubiksCube-v0",
        "SlidingTilePuzzle-v0",
        "Snake-v1",
    ),
    "pgx": (
        "2048",
        "minatar-asterix",
        "minatar-breakout",
        "minatar-freeway",
        "minatar-seaquest",
        "minatar-space_invaders",
    ),
}
"""Other libraries' environments, `LIBRARY/NAME`, by the library: an extra of this package, and a
module here. Names that a library knows besides work too."""


def make(name: Any, **options: Any) -> tuple[Any, EnvParams]:
    """Make an environment by its id.

    Args:
        name: an id that `names()` lists, e.g. `"CartPole-v1"`; `"my_pkg.grid:Grid"`, a class, a
            function or an environment; a class or a function itself, or an environment.
        options: keyword arguments of the environment's constructor.

    Returns:
        `(env, env_params)`, as `gymnax.make`.

    Raises:
        ValueError: for an unknown id or option, naming the nearest match.
    """
    if (own := registry.target(name)) is not None:
        return registry.instance(name, own, options)
    check_name(name)
    if options:
        _check_options(name, options)
    return _make(name, **options)


def names() -> list[str]:
    """Return the ids that `make` knows, sorted."""
    import gymnax  # takes seconds to import: only when environments are asked for

    adapted = [f"{library}/{name}" for library, tasks in ADAPTED.items() for name in tasks]
    return sorted({*gymnax.registered_envs, *OWN, *adapted, *registry.names()})


def check_name(name: str) -> None:
    """Raise `ValueError` naming the nearest match unless `make` knows `name`."""
    if registry.target(name) is not None:
        return
    known = names()
    if name in known or library_of(name):
        return
    by_lower = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.4)
    hint = f"; did you mean {by_lower[matches[0]]}?" if matches else ""
    raise ValueError(f"env must be a known environment, got {name!r}{hint} (see: purejax-po envs)")


def _make(name: str, **options: Any) -> tuple[Any, EnvParams]:
    if name in OWN:
        module, cls = OWN[name].split(".")
        env = getattr(importlib.import_module(f"{__name__}.{module}"), cls)(**options)
        return env, env.default_params
    if library := library_of(name):
        env = _adapter(library)(name.partition("/")[2], **options)
        return env, env.default_params
    import gymnax

    try:
        return gymnax.make(name, **options)
    except urllib.error.URLError as error:
        raise ValueError(f"env {name} downloads its data when made: {error.reason}") from None


def library_of(name: Any) -> str | None:
    """The library that an id such as `brax/hopper` names."""
    library, slash, task = str(name).partition("/")
    return library if library in ADAPTED and slash and task else None


def _adapter(library: str) -> Any:
    """Import an adapter, a class named as its module is."""
    try:
        module = importlib.import_module(f"{__name__}.{library}")
    except ImportError as error:
        raise ValueError(
            f"environments of {library} need {error.name or library}, which is not installed: "
            f"pip install 'purejax-po[{library}]'"
        ) from None
    return getattr(module, library.capitalize())


def _check_options(name: str, options: dict[str, Any]) -> None:
    """Raise `ValueError` for an option that the environment's constructor does not name."""
    parameters = inspect.signature(type(_make(name)[0])).parameters.values()
    known = tuple(
        p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "task"
    )
    for option in options:
        if not known:
            raise ValueError(f"env {name} has no options, got {option!r}")
        check_choice(f"option of {name}", option, known)
