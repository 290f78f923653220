"""Brax's environments as gymnax environments, `brax/hopper` or `brax/hopper:spring`.

Importing this module imports brax, which takes seconds.
"""

import contextlib
import io
import threading
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from jax.typing import ArrayLike

from purejax_po._xla import elimination
from purejax_po.checks import check_choice
from purejax_po.environments.adapters import Adapter, Advance
from purejax_po.environments.carried import Carried
from purejax_po.types import Array, EnvParams, Info, Key, PyTree

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brax.envs
    from brax import fluid
    from brax.generalized import mass
    from brax.io import html

BACKENDS = ("generalized", "spring", "positional", "mjx")


_here = threading.local()


@contextlib.contextmanager
def repaired() -> Iterator[None]:
    """Brax as this adapter runs it: Swimmer's fluid with today's JAX, no inverse by LAPACK.

    It holds within the context and in this thread. Brax itself stays what it is for other code.
    """
    before = getattr(_here, "is_repaired", False)
    _here.is_repaired = True
    try:
        yield
    finally:
        _here.is_repaired = before


class _NumpyWithOldClip:
    """`jax.numpy`; in the context, its `clip` has the keywords that JAX has removed."""

    def __getattr__(self, name: str) -> Any:
        return self._clip if name == "clip" and _is_repaired() else getattr(jnp, name)

    def _clip(
        self, x: Array, a_min: ArrayLike | None = None, a_max: ArrayLike | None = None
    ) -> Array:
        return jnp.clip(x, a_min, a_max)


def _is_repaired() -> bool:
    return getattr(_here, "is_repaired", False)


_matrix_inv = mass.matrix_inv


def _matrix_inv_without_lapack(sys: PyTree, state: PyTree, num_iter: int) -> PyTree:
    """As Brax's, which refines the last inverse in steps but has LAPACK find the first one."""
    if num_iter > 0 or not _is_repaired():
        return _matrix_inv(sys, state, num_iter)
    mx = mass.matrix(sys, state)
    return state.replace(
        mass_mx=mx, mass_mx_inv=elimination.solve(mx, jnp.eye(len(mx), dtype=mx.dtype))
    )


fluid.jp = _NumpyWithOldClip()
mass.matrix_inv = _matrix_inv_without_lapack


class Brax(Adapter):
    """A Brax environment; actions are in [−1, 1], as Brax's own agents give them.

    `terminated` is Brax's `done`, `truncated` the time limit `max_steps_in_episode`. Of Brax's
    state are carried the leaves that the next step reads, and no metrics.

    Args:
        task: a name that Brax knows, e.g. `"hopper"`, with `:BACKEND` after it if you like.
        backend: the physics: `"generalized"` (exact joints, slow), `"spring"`, `"positional"` or
            `"mjx"`; the task's own default if it is not given.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown task or backend, or observations that are no vector.

    Source: Freeman et al. 2021, Brax: A Differentiable Physics Engine.
    """

    def __init__(self, task: str, backend: str | None = None, reset_pool: int = 0):
        super().__init__(reset_pool)
        task, colon, suffix = task.partition(":")
        check_choice("brax environment", task, tuple(sorted(brax.envs._envs)))
        if colon and backend is not None:
            raise ValueError(f"backend must be given once, got {suffix!r} and {backend!r}")
        backend = suffix if colon else backend
        self._name = f"brax/{task}" + f":{backend}" * (backend is not None)
        self.brax_env = _make(task, backend)
        with repaired():
            example = jax.eval_shape(self.brax_env.reset, jax.random.key(0))
        if getattr(example.obs, "ndim", None) != 1:
            raise ValueError(f"env {self._name} must have vectors as observations")
        self._num_observations = example.obs.shape[0]
        action = jax.ShapeDtypeStruct((self.brax_env.action_size,), jnp.float32)
        self._carried = Carried(self._step, example, action)

    def start(self, key: Key) -> tuple[Array, tuple[Array, ...]]:
        """Reset."""
        with repaired():
            state = self.brax_env.reset(key)
        return state.obs, self._carried.reduce(state)

    def advance(self, key: Key, inner: tuple[Array, ...], action: Array) -> Advance:
        """Step; `info["x"]` are the links' positions and rotations, for pictures."""
        with repaired():
            state = self.brax_env.step(self._carried.restore(inner), action)
        info = {"x": state.pipeline_state.x} if hasattr(state.pipeline_state, "x") else {}
        inner = self._carried.reduce(state)
        return Advance(state.obs, inner, state.reward, state.done > 0, info=info)

    def draw(self, infos: Sequence[Info]) -> str:
        """Return a page that shows the steps of an episode, given the `info` of each.

        The page loads Brax's viewer from the network.
        """
        frames: list[Any] = [types.SimpleNamespace(x=info["x"]) for info in infos]
        return html.render(self.brax_env.sys, frames)  # type: ignore[attr-defined]

    def action_space(self, params: EnvParams = None) -> spaces.Box:
        """The command of each actuator, in [−1, 1]."""
        return spaces.Box(-1.0, 1.0, (self.brax_env.action_size,))

    def observation_space(self, params: EnvParams = None) -> spaces.Box:
        """Vectors without bounds."""
        return spaces.Box(-jnp.inf, jnp.inf, (self._num_observations,))

    def _step(self, state: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        """What a step is made for, and the state after it."""
        with repaired():
            state = self.brax_env.step(state, action)
        return (state.obs, state.reward, state.done), state


def _make(task: str, backend: str | None) -> Any:
    """Make Brax's own environment, without its word about being no longer developed."""
    if backend is not None:
        check_choice(f"backend of brax/{task}", backend, BACKENDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return brax.envs.get_environment(task, **({"backend": backend} if backend else {}))
        except (ValueError, AssertionError, TypeError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"env brax/{task} cannot be made: {reason}") from None
