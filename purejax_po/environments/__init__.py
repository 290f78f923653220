"""Environments: every one is a gymnax environment, made by name."""

import difflib
import importlib
import inspect
import urllib.error
from collections.abc import Callable, Mapping, Sequence

from purejax_po import named
from purejax_po.checks import check_choice, how_to_install
from purejax_po.environments import registry
from purejax_po.environments.catalogue import ADAPTED, OWN, is_installed, library_of
from purejax_po.types import Environment, EnvName, EnvParams

__all__ = [
    "ADAPTED",
    "OWN",
    "check_name",
    "from_legacy",
    "is_installed",
    "library_of",
    "make",
    "names",
]


def make(
    name: EnvName,
    *,
    wrappers: Sequence[str] = (),
    randomize: Sequence[str] = (),
    **options: object,
) -> tuple[Environment, EnvParams]:
    """Make an environment by its id.

    Args:
        name: an id that `names()` lists, e.g. `"CartPole-v1"`; `"my_pkg.grid:Grid"`, a class, a
            function or an environment; a class or a function itself, or an environment.
        wrappers: `"NAME"` or `"NAME:VALUE"` of `by_name.WRAPPERS`, from the inside out, e.g.
            `["action_repeat:2", "frame_stack:4"]`.
        randomize: fields of the parameters that are drawn for each episode, e.g. `["g=8:12"]`; see
            `randomized.by_text`.
        options: keyword arguments of the environment's constructor.

    Returns:
        `(env, env_params)`, as `gymnax.make`.

    Raises:
        ValueError: for an unknown id, wrapper or option, naming the nearest match.

    Example:
        >>> import purejax_po as po
        >>> env, env_params = po.make_env("Chain-v0", length=8)
        >>> env_params.max_steps_in_episode
        8
    """
    if (own := registry.target(name)) is not None:
        env, env_params = registry.instance(name, own, options)
    else:
        check_name(name)
        if options:
            _check_options(str(name), options)
        env, env_params = _make(str(name), **options)
    if not (wrappers or randomize):
        return env, env_params
    from purejax_po.environments import around, by_name, randomized

    if isinstance(randomize, str) or not isinstance(randomize, Sequence):
        raise ValueError(f'randomize must be a list such as ["gravity=8:12"], got {randomize!r}')
    if own is not None and wrappers:  # what makes one may have made other parameters, too
        env = around.WithParams(env, env_params)
    env = by_name.wrap(randomized.by_text(env, randomize), wrappers)
    return env, env.default_params if wrappers else env_params


def from_legacy(env: Environment, max_steps_in_episode: int | None = None) -> Environment:
    """Adapt an environment written for gymnax before 1.0 to today's six values.

    See `legacy.Legacy`; `(env, env.default_params)` are what `make` would return.
    """
    from purejax_po.environments.legacy import Legacy  # imports gymnax, which takes seconds

    return Legacy(env, max_steps_in_episode)


def names() -> list[str]:
    """Return the ids that `make` knows, sorted."""
    import gymnax  # takes seconds to import: only when environments are asked for

    adapted = [f"{library}/{name}" for library, tasks in ADAPTED.items() for name in tasks]
    return sorted({*gymnax.registered_envs, *OWN, *adapted, *registry.names()})


def check_name(name: EnvName) -> None:
    """Raise `ValueError` naming the nearest match unless `make` knows `name`."""
    if registry.target(name) is not None:
        return
    known = names()
    if name in known or library_of(name):
        return
    by_lower = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.4)
    hint = f"; did you mean {by_lower[matches[0]]}?" if matches else ""
    hint = named.form_of(name) or f"{hint} (see: purejax-po envs)"
    raise ValueError(f"env must be a known environment, got {name!r}{hint}")


def _make(name: str, **options: object) -> tuple[Environment, EnvParams]:
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


def _adapter(library: str) -> Callable[..., Environment]:
    """Import an adapter, a class named as its module is."""
    try:
        module = importlib.import_module(f"{__name__}.{library}")
    except ImportError as error:
        raise ValueError(
            f"environments of {library} need {error.name or library}, which is not installed: "
            f"{how_to_install(library)}"
        ) from None
    return getattr(module, library.capitalize())


def _check_options(name: str, options: Mapping[str, object]) -> None:
    """Raise `ValueError` for an option that the environment's constructor does not name."""
    library = library_of(name)  # making one of these takes seconds
    cls = _adapter(library) if library else type(_make(name)[0])
    parameters = inspect.signature(cls).parameters.values()
    known = tuple(
        p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "task"
    )
    for option in options:
        if not known:
            raise ValueError(f"env {name} has no options, got {option!r}")
        check_choice(f"option of {name}", option, known)
