"""Environments: every one is a gymnax environment, made by name."""

import difflib
import urllib.error
from typing import Any

from purejax_po.types import EnvParams


def make(name: str, **options: Any) -> tuple[Any, EnvParams]:
    """Make an environment by its id.

    Args:
        name: an id that `names()` lists, e.g. `"CartPole-v1"`.
        options: keyword arguments of the environment's constructor.

    Returns:
        `(env, env_params)`, as `gymnax.make`.

    Raises:
        ValueError: for an unknown id, naming the nearest match.
    """
    check_name(name)
    import gymnax  # takes seconds to import: only when an environment is made

    try:
        return gymnax.make(name, **options)
    except urllib.error.URLError as error:
        raise ValueError(f"env {name} downloads its data when made: {error.reason}") from None


def names() -> list[str]:
    """Return the ids that `make` knows, sorted."""
    import gymnax

    return sorted(gymnax.registered_envs)


def check_name(name: str) -> None:
    """Raise `ValueError` naming the nearest match unless `name` is a known id."""
    known = names()
    if name in known:
        return
    by_lower = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.4)
    hint = f"; did you mean {by_lower[matches[0]]}?" if matches else ""
    raise ValueError(f"env must be a known environment, got {name!r}{hint} (see: purejax-po envs)")
