"""PPO with nothing but its networks: what of its limit XLA's own kernels leave within reach.

Both networks' passes and Adam's steps are those of training, of as many lanes and in programs
compiled alike: the policy acts step by step, the critic judges the rollout, every minibatch is a
regression on numbers given beforehand. There are no environments, random numbers, distributions,
advantages, losses of PPO, shuffles, checks and logs.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import limit
import optax

import purejax_po as po
from purejax_po.algorithms import actor_critic, optimizers
from purejax_po.experiment.run import devices


class NetworksAlone:
    """Compiled for all workers, to be timed as `timed.Timed` is."""

    def __init__(
        self, config: po.PPOConfig, num_seeds: int, updates: int, width: int | None = None
    ) -> None:
        """Compile windows of `updates` updates for `width` lanes, by default the package's."""
        best = devices.lanes_per_core(config)
        self.workers, width = devices.share(num_seeds, width, on_a_core=best)
        self.blocks = -(-num_seeds // width)
        self.windows = 1
        self.steps_of_window = num_seeds * updates * config.num_envs * config.num_steps
        init, window = self._functions(config, updates)
        obs_key, target_key = jax.random.split(jax.random.key(0))
        batch = width, config.num_envs * config.num_steps
        inputs = (
            jax.jit(jax.vmap(init))(po.seed_keys(width)),
            jax.random.normal(obs_key, (*batch, limit.INPUTS)),
            jax.random.normal(target_key, (*batch, limit.ACTIONS + 1)),
        )
        self.inputs = {device: jax.device_put(inputs, device) for device in self.workers}
        start = time.perf_counter()
        program = jax.jit(jax.vmap(window), compiler_options=po.compiler_options())
        self.programs = {
            device: program.lower(*inputs).compile() for device, inputs in self.inputs.items()
        }
        self.compile_seconds = time.perf_counter() - start
        self.pool = ThreadPoolExecutor(len(self.workers))

    @staticmethod
    def _functions(config: po.PPOConfig, updates: int) -> tuple[Any, Any]:
        """`key → state`, and `(state, observations, targets) → state` of one window."""
        env, env_params = po.make_env(limit.ENV)
        policy, critic = po.mlp_actor_critic(env, env_params)
        hyperparams = config.build(env, env_params).hyperparams
        optimizer = optimizers.clipped_adam(hyperparams, 0.0)

        def init(key: Any) -> Any:
            params = actor_critic.init_params(key, policy, critic)
            return params, optimizer.init(params)

        def logits(params: Any, obs: Any) -> Any:
            return policy.unroll(params.policy, (), obs, jnp.zeros(len(obs), bool)).logits

        def values(params: Any, obs: Any) -> Any:
            return critic.unroll(params.critic, (), obs, jnp.zeros(len(obs), bool))

        def loss(params: Any, obs: Any, target: Any) -> Any:
            errors = logits(params, obs) - target[:, 1:], values(params, obs) - target[:, 0]
            return 0.5 * sum(jnp.mean(jnp.square(x)) for x in errors)

        def step(state: Any, batch: Any) -> tuple[Any, None]:
            params, moments = state
            gradient = jax.grad(loss)(params, *batch)
            steps, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, steps), moments), None

        def update(state: Any, obs: Any, target: Any) -> Any:
            def act(seen: Any, _: None) -> tuple[Any, Any]:
                found = logits(state[0], seen)
                return seen + 1e-3 * found[:, :1], found  # one step needs the last one's outputs

            _, acted = jax.lax.scan(act, obs[: config.num_envs], None, config.num_steps)
            found = acted.reshape(-1, limit.ACTIONS), values(state[0], obs)[:, None]
            target += 1e-3 * jnp.concatenate(found, axis=1)
            batches = jax.tree.map(
                lambda x: x.reshape(config.num_minibatches, -1, x.shape[-1]), (obs, target)
            )

            def epoch(_: Any, state: Any) -> Any:
                return jax.lax.scan(step, state, batches)[0]

            return jax.lax.fori_loop(0, config.num_epochs, epoch, state)

        def window(state: Any, obs: Any, target: Any) -> Any:
            return jax.lax.fori_loop(0, updates, lambda _, x: update(x, obs, target), state)

        return init, window

    def run(self) -> float:
        """Make `windows` windows of every seed from the start; returns env steps per second."""
        start = time.perf_counter()
        self.states = list(self.pool.map(self._run_block, range(self.blocks)))
        return self.windows * self.steps_of_window / (time.perf_counter() - start)

    def _run_block(self, i: int) -> Any:
        device = self.workers[i % len(self.workers)]
        state, *data = self.inputs[device]
        for _ in range(self.windows):
            state = self.programs[device](state, *data)
        return jax.block_until_ready(state)
