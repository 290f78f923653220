"""Fields of an environment's parameters that follow from others."""

from collections.abc import Callable, Collection

from jax.typing import ArrayLike

from purejax_po.types import EnvParams

DERIVED: dict[str, dict[str, tuple[tuple[str, ...], Callable[[EnvParams], ArrayLike]]]] = {
    "CartPole-v1": {
        "total_mass": (("masscart", "masspole"), lambda p: p.masscart + p.masspole),
        "polemass_length": (("masspole", "length"), lambda p: p.masspole * p.length),
    },
}
"""By environment and field: what the field follows from, and how. gymnax computes these once, when
the class is made."""


def sources(env_id: str, changed: Collection[str]) -> set[str]:
    """Return the fields that others follow from; none follows that is itself among the changed."""
    rules = DERIVED.get(env_id, {}).items()
    return {name for derived, (names, _) in rules if derived not in changed for name in names}


def follow(env_id: str, env_params: EnvParams, changed: Collection[str]) -> EnvParams:
    """Return parameters whose derived fields follow those that were changed.

    Args:
        env_id: of the environment.
        env_params: with the changes.
        changed: names of the fields that were set; a derived field among them stays as it was set.
    """
    new = {
        name: rule(env_params)
        for name, (sources, rule) in DERIVED.get(env_id, {}).items()
        if name not in changed and any(source in changed for source in sources)
    }
    return env_params.replace(**new) if new else env_params
