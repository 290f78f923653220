"""`check_algorithm` finds what is wrong with an algorithm, and says which property it is."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import brought
import flax.struct
import jax
import jax.numpy as jnp
import pytest
import tiny

import purejax_po as po
from purejax_po.testing import PROPERTIES, check_algorithm

pytestmark = pytest.mark.usefixtures("compile_quickly")
SLOW = ("probes", "jit", "vmap", "seeds", "function", "divergence")


@flax.struct.dataclass
class Rates(po.A2CHyperparams):
    """One without a range, which has no effect."""

    extra: float = 1.0


def mended(change):
    """A factory of A2C whose update's state and info are changed."""

    def factory(policy, critic, *, hyperparams=None):
        algorithm = po.a2c(policy, critic, hyperparams=hyperparams)

        def update(key, hyperparams, state, rollout):
            return change(*algorithm.update(key, hyperparams, state, rollout))

        return algorithm._replace(update=update)

    return staticmethod(factory)


@dataclass(frozen=True, kw_only=True)
class Sound(po.AlgorithmConfig):
    """A2C as it is."""

    name = "sound"
    factory = mended(lambda state, info: (state, info))
    num_envs: int = 2
    num_steps: int = 16
    network: po.NetworkConfig = field(default_factory=lambda: po.NetworkConfig(hidden=(8,)))
    hyperparams: Any = field(default_factory=po.A2CHyperparams)


@dataclass(frozen=True, kw_only=True)
class Unranged(Sound):
    hyperparams: Any = field(default_factory=Rates)


@dataclass(frozen=True, kw_only=True)
class Shapes(Sound):
    factory = mended(lambda state, info: (state, {**info, "many": jnp.zeros(3)}))


@dataclass(frozen=True, kw_only=True)
class Fixed(Sound):
    """Never learns."""

    factory = mended(
        lambda state, info: (
            state._replace(params=jax.tree.map(jnp.zeros_like, state.params)),
            info,
        )
    )


def test_a_sound_algorithm_passes_all_but_the_probes():
    check_algorithm(Sound(), skip=("probes",))


def test_an_algorithm_of_the_package_passes_everything():
    probe = dataclasses.replace(
        tiny.ALGORITHMS["ppo"],
        network=po.NetworkConfig(hidden=(16,)),
        num_epochs=4,
        clip_value=False,
        hyperparams=po.PPOHyperparams(learning_rate=1e-2, discount=0.5),
    )
    config = dataclasses.replace(
        tiny.ALGORITHMS["ppo"],
        hyperparams=po.PPOHyperparams(learning_rate=3e-3, target_kl=10.0),
        early_stop=True,
    )
    unused = {"kl_coef", "kl_target"}
    small = {"clip_eps": 1e-3, "value_clip_eps": 1e-3, "target_kl": 1e-6, "max_grad_norm": 1e-3}
    check_algorithm(config, probe=probe, unused=unused, changes=small)


WRONG = {
    Unranged: ("wrong: not so: .* extra = nan is not refused", "lanes: not so: .* extra"),
    Shapes: (r"state: not so: .* info many must be a scalar, got \(3,\)",),
    Fixed: ("trace: not so: .* has no effect", "finite: not so: "),
}


@pytest.mark.parametrize("cls", list(WRONG))
def test_each_mistake_is_named_by_its_property(cls):
    with pytest.raises(AssertionError) as error:
        check_algorithm(cls(), skip=SLOW)
    for told in WRONG[cls]:
        assert re.search(told, str(error.value))


def test_a_class_that_cannot_be_stored_is_told():
    @dataclass(frozen=True, kw_only=True)
    class Local(Sound):
        pass

    others = set(PROPERTIES) - {"stored"}
    with pytest.raises(AssertionError, match=r"stored: not so: .* got Local, which could not"):
        check_algorithm(Local(), skip=others)
    check_algorithm(brought.Powered(), skip=others)


def test_a_property_that_is_none_is_told():
    with pytest.raises(ValueError, match="skip must name some of jit, vmap"):
        check_algorithm(Sound(), skip=("speed",))
