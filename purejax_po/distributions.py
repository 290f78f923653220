"""Action distributions: pytrees of parameters with the methods that policy optimisation needs.

`fisher_product` multiplies by the Fisher matrix in the distribution's own parameters, so that a
Gauss-Newton product of a whole network is Jᵀ F J v.
"""

import dataclasses
import functools
import math
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from purejax_po._xla import sums
from purejax_po.types import Array, Key

_LOG_2PI = math.log(2.0 * math.pi)


class Categorical(NamedTuple):
    """Categorical distribution over `{0, …, A-1}` with unnormalised logits `[..., A]`."""

    logits: Array

    def noise(self, key: Key) -> Array:
        """One uniform number per sample, `[...]`: actions come from the inverse of the CDF."""
        return jax.random.uniform(key, self.logits.shape[:-1])

    def sample_from(self, noise: Array) -> Array:
        """The first action whose cumulative probability exceeds the noise."""
        cumulative = sums.cumulative(jax.nn.softmax(self.logits))
        # Scaled by the rounded total, an action of probability zero is never drawn.
        threshold = (noise * cumulative[..., -1])[..., None]
        return jnp.sum(cumulative[..., :-1] <= threshold, axis=-1, dtype=jnp.int32)

    def sample(self, key: Key) -> Array:
        """Draw actions, int32 `[...]`."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Array:
        """The action of the largest logit, int32 `[...]`."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Log π(a) = logit_a − logsumexp(logits), `[...]`."""
        one_hot = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        # A select rather than a gather: its transpose is a select too, not a slow scatter.
        return jnp.sum(jnp.where(one_hot, jax.nn.log_softmax(self.logits), 0.0), axis=-1)

    def entropy(self) -> Array:
        """−Σ p log p in nats, `[...]`; an action of probability zero contributes nothing."""
        log_p = jax.nn.log_softmax(self.logits)
        return -_sum_where_positive(jnp.exp(log_p), log_p)

    def kl(self, other: "Categorical") -> Array:
        """Σ p (log p − log q) in nats, `[...]`."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return _sum_where_positive(jnp.exp(log_p), log_p - log_q)

    def fisher_product(self, tangent: Self) -> Self:
        """(diag(p) − ppᵀ) v."""
        p = jax.nn.softmax(self.logits)
        weighted = p * tangent.logits
        return type(self)(weighted - p * sums.total(weighted)[..., None])


class MaskedCategorical(Categorical):
    """A categorical whose actions of probability zero are never drawn, however many there are.

    Sums that are rounded one by one may rise where nothing was added.
    """

    def sample_from(self, noise: Array) -> Array:
        """As a categorical's; of what has no probability, the nearest before it, else after it."""
        index = super().sample_from(noise)[..., None]
        place, positive = jnp.arange(self.logits.shape[-1]), jax.nn.softmax(self.logits) > 0.0
        before = jnp.max(jnp.where(positive & (place <= index), place, -1), axis=-1)
        after = jnp.min(jnp.where(positive, place, place[-1]), axis=-1)
        return jnp.where(before < 0, after, before).astype(jnp.int32)


class DiagonalGaussian(NamedTuple):
    """Independent normals over vectors, with mean and log standard deviation `[..., D]`."""

    mean: Array
    log_std: Array

    def noise(self, key: Key) -> Array:
        """One standard normal number per coordinate, `[..., D]`."""
        return jax.random.normal(key, self.mean.shape)

    def sample_from(self, noise: Array) -> Array:
        """μ + σ·noise."""
        return self.mean + jnp.exp(self.log_std) * noise

    def sample(self, key: Key) -> Array:
        """Draw actions `[..., D]`."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Array:
        """The mean, `[..., D]`."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Σ −½((a − μ)/σ)² − log σ − ½ log 2π, `[...]`."""
        standardised = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * (jnp.square(standardised) + _LOG_2PI) - self.log_std, axis=-1)

    def entropy(self) -> Array:
        """Σ log σ + ½(1 + log 2π) in nats, `[...]`."""
        return jnp.sum(self.log_std + 0.5 * (1.0 + _LOG_2PI), axis=-1)

    def kl(self, other: Self) -> Array:
        """Σ log(σ₂/σ₁) + (σ₁² + (μ₁−μ₂)²)/(2σ₂²) − ½ in nats, `[...]`."""
        log_ratio = self.log_std - other.log_std
        distance = (self.mean - other.mean) * jnp.exp(-other.log_std)
        # expm1 keeps the second-order smallness of nearby policies exact in single precision.
        return 0.5 * jnp.sum(
            jnp.expm1(2.0 * log_ratio) - 2.0 * log_ratio + jnp.square(distance), axis=-1
        )

    def fisher_product(self, tangent: Self) -> Self:
        """(σ⁻² v_μ, 2 v_logσ)."""
        return type(self)(tangent.mean * jnp.exp(-2.0 * self.log_std), 2.0 * tangent.log_std)


class ScaledGaussian(DiagonalGaussian):
    """A diagonal Gaussian over u `[..., D]`; the environment receives clip(u, ±1), scaled.

    The bounds of its Box are where u is ±1 (`spaces.to_space`), so that an untrained policy covers
    any Box. Samples, the batch's actions and what `log_prob` takes are u.
    """

    def squash(self, action: Array) -> Array:
        """What of u is executed, in [−1, 1], `[..., D]`."""
        return jnp.clip(action, -1.0, 1.0)


class TanhGaussian(ScaledGaussian):
    """A diagonal Gaussian over u `[..., D]`; the environment receives tanh(u), scaled.

    Samples, the batch's actions and what `log_prob` takes are u, before the squashing: the map is
    one to one and the same for every policy, so its Jacobian cancels in ratios of probabilities,
    and KL and Fisher matrix are those of the Gaussian. So `log_prob` is the density of u, not that
    of tanh(u), and `entropy` (with its bonus) that of u, which grows with σ without bound while
    the squashed action's falls once its mass sits at the bounds. `mode` is the mean of u: its tanh
    is the squashed action's median.

    Source: Haarnoja et al. 2018, Soft Actor-Critic, appendix C.
    """

    def squash(self, action: Array) -> Array:
        """tanh(u) in [−1, 1], `[..., D]`; `spaces.to_space` scales it to the bounds of a Box."""
        return jnp.tanh(action)

    def squashed_log_prob(self, action: Array) -> Array:
        """Density of tanh(u) in (−1, 1)ᴰ, log π(u) − Σ log(1 − tanh²u) in nats, `[...]`.

        In a Box it is lower by Σ log((high − low)/2).
        """
        log_derivative = 2.0 * (math.log(2.0) - action - jax.nn.softplus(-2.0 * action))
        return self.log_prob(action) - jnp.sum(log_derivative, axis=-1)


class Product(NamedTuple):
    """Independent scalar actions stacked on a last axis, e.g. multi-discrete: action `[..., D]`."""

    factors: tuple["Categorical", ...]

    def noise(self, key: Key) -> Array:
        """The factors' noise, stacked along the last axis."""
        keys = jax.random.split(key, len(self.factors))
        return jnp.stack([f.noise(k) for f, k in zip(self.factors, keys, strict=True)], axis=-1)

    def sample_from(self, noise: Array) -> Array:
        """Each factor's sample from its own slice of the noise, stacked `[..., D]`."""
        samples = [f.sample_from(noise[..., i]) for i, f in enumerate(self.factors)]
        return jnp.stack(samples, axis=-1)

    def sample(self, key: Key) -> Array:
        """Draw actions `[..., D]`."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Array:
        """The factors' modes, `[..., D]`."""
        return jnp.stack([f.mode() for f in self.factors], axis=-1)

    def log_prob(self, action: Array) -> Array:
        """Σ_d log π_d(a_d), `[...]`."""
        return sum(f.log_prob(action[..., i]) for i, f in enumerate(self.factors))  # type: ignore[return-value]

    def entropy(self) -> Array:
        """Σ_d H(π_d), `[...]`."""
        return sum(f.entropy() for f in self.factors)  # type: ignore[return-value]

    def kl(self, other: "Product") -> Array:
        """Σ_d KL(π_d ‖ other_d), `[...]`."""
        pairs = zip(self.factors, other.factors, strict=True)
        return sum(f.kl(g) for f, g in pairs)  # type: ignore[return-value]

    def fisher_product(self, tangent: "Product") -> "Product":
        """Each factor's own Fisher product: the joint matrix is block-diagonal."""
        pairs = zip(self.factors, tangent.factors, strict=True)
        return Product(tuple(f.fisher_product(t) for f, t in pairs))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["flat"], meta_fields=["sizes"])
@dataclasses.dataclass(frozen=True)
class Joint:
    """Several choices of which not all combinations are valid: action `[..., D]`."""

    flat: MaskedCategorical
    """Over all n₁·n₂·… combinations, the last choice changing fastest."""
    sizes: tuple[int, ...]
    """How many values each choice has."""

    def noise(self, key: Key) -> Array:
        """One uniform number per sample, `[...]`."""
        return self.flat.noise(key)

    def sample_from(self, noise: Array) -> Array:
        """The first combination whose cumulative probability exceeds the noise."""
        return self._choices(self.flat.sample_from(noise))

    def sample(self, key: Key) -> Array:
        """Draw actions, int32 `[..., D]`."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Array:
        """The combination of the largest logit, int32 `[..., D]`."""
        return self._choices(self.flat.mode())

    def log_prob(self, action: Array) -> Array:
        """Log π(a₁, a₂, …), `[...]`."""
        index = action[..., 0]
        for i, size in enumerate(self.sizes[1:], start=1):
            index = size * index + action[..., i]
        return self.flat.log_prob(index)

    def entropy(self) -> Array:
        """−Σ p log p over combinations in nats, `[...]`."""
        return self.flat.entropy()

    def kl(self, other: Self) -> Array:
        """Σ p (log p − log q) over combinations in nats, `[...]`."""
        return self.flat.kl(other.flat)

    def fisher_product(self, tangent: Self) -> Self:
        """(diag(p) − ppᵀ) v over combinations."""
        return type(self)(self.flat.fisher_product(tangent.flat), self.sizes)

    def _choices(self, index: Array) -> Array:
        return jnp.stack(jnp.unravel_index(index, self.sizes), axis=-1).astype(jnp.int32)


def _sum_where_positive(probability: Array, value: Array) -> Array:
    """Σ p·x over the last axis with 0·∞ = 0, and finite gradients."""
    positive = probability > 0.0
    return jnp.sum(jnp.where(positive, probability * jnp.where(positive, value, 0.0), 0.0), axis=-1)
