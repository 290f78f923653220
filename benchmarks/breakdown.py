"""Where the time of one update goes: its parts as programs of their own, beside the whole.

    python benchmarks/breakdown.py [--quick] [--width K]

Every part is compiled for the same K lanes as the whole, by default as many as the package puts on
a core, and runs on all workers at once, in interleaved rounds. A part alone may be compiled
otherwise than within the whole, so the parts need not add up: `rest` is what they leave of the
whole, and may be negative. `metrics` are the log and the guard against what is not finite.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
from limit import ENV, MANY_LANES
from measure import Figure

import purejax_po as po
from purejax_po import advantages, curvature, metrics, minibatch, rollout
from purejax_po._xla.finite import all_finite
from purejax_po.algorithms import actor_critic, critics, natural, optimizers, units
from purejax_po.experiment.run import devices

Part = Callable[[Any, Any], Any]
"""`(TrainState, Rollout) →` anything, of one lane."""


def make_trainer(config: Any) -> tuple[po.Trainer, po.Critic, po.Policy]:
    env, env_params = po.make_env(ENV)
    policy, critic = po.mlp_actor_critic(env, env_params)
    trainer = po.make_trainer(
        env,
        env_params,
        config.build(env, env_params),
        num_envs=config.num_envs,
        num_steps=config.num_steps,
    )
    return trainer, critic, policy


def common_parts(trainer: po.Trainer) -> dict[str, Part]:
    """The whole, and what every algorithm has."""
    hyperparams = trainer.algorithm.hyperparams

    def whole(state: Any, _: Any) -> Any:
        return trainer.step(hyperparams, state)

    def collect(state: Any, _: Any) -> Any:
        return rollout.collect(
            state.key,
            trainer.env,
            trainer.env_params,
            trainer.actor,
            state.acting_params,
            state.rollout,
            trainer.num_steps,
        )

    def record(state: Any, batch: Any) -> Any:
        """The log, and the guard against what is not finite, with numbers of no meaning."""
        reward, ended = batch.transition.reward, batch.transition.terminated
        shapes = jax.eval_shape(trainer.step, hyperparams, state)[1]
        episodes = metrics.of_masked(reward, ended), metrics.of_masked(2.0 * reward, ended)
        info = jax.tree.map(lambda x: jnp.full(x.shape, reward[0, 0]), shapes.info)
        log = metrics.Log(info, *episodes)
        proposed = jax.tree.map(lambda x: x * reward[0, 0].astype(x.dtype), state.algorithm)
        healthy = all_finite((proposed, info))
        kept = jax.tree.map(
            lambda new, old: jnp.where(healthy, new, old), proposed, state.algorithm
        )
        return kept, metrics.merge_logs(log, metrics.mask_log(log, healthy))

    return {"whole": whole, "rollout": collect, "metrics": record}


def ppo_parts(config: po.PPOConfig) -> tuple[po.Trainer, dict[str, Part]]:
    """PPO: the minibatch steps are what the update leaves besides estimates and shuffling."""
    trainer, critic, _ = make_trainer(config)
    hyperparams = trainer.algorithm.hyperparams

    def estimate(state: Any, batch: Any) -> Any:
        return actor_critic.make_samples(critic, state.algorithm.params, batch, hyperparams)

    def shuffle(state: Any, batch: Any) -> Any:
        def touch(total: Any, part: Any) -> tuple[Any, None]:
            leaves = [jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(part)]
            return total + sum(leaves), None

        filled = jnp.zeros_like(batch.transition.reward)
        samples = actor_critic.Samples(batch.transition, filled, filled, filled, filled, ())
        return minibatch.epochs(
            state.key,
            touch,
            jnp.float32(0),
            units.of_rollout(samples, True),
            num_epochs=config.num_epochs,
            num_minibatches=config.num_minibatches,
        )

    def update(state: Any, batch: Any) -> Any:
        return trainer.algorithm.update(state.key, hyperparams, state.algorithm, batch)

    parts = {"advantages": estimate, "shuffling": shuffle, "update": update}
    return trainer, {**common_parts(trainer), **parts}


def trpo_parts(config: po.TRPOConfig) -> tuple[po.Trainer, dict[str, Part]]:
    """TRPO: estimates, gradient, curvature (linearise and solve), line search, critic."""
    trainer, critic, policy = make_trainer(config)
    hyperparams = trainer.algorithm.hyperparams

    def estimates(state: Any, batch: Any) -> Any:
        return critics.estimate(
            critic, state.algorithm.params.critic, batch.transition, hyperparams
        )

    def surrogate(batch: Any) -> Callable[[Any], Any]:
        advantage = advantages.normalize(batch.transition.reward, batch.transition.weight)
        samples, advantage = minibatch.flatten_time((batch.transition, advantage))
        return lambda params: natural.surrogate(policy, params, samples, advantage)

    def gradient(state: Any, batch: Any) -> Any:
        params = state.algorithm.params.policy
        return jax.value_and_grad(surrogate(batch), has_aux=True)(params)

    def solve(state: Any, batch: Any) -> Any:
        params = state.algorithm.params.policy
        product = natural.fisher_product(
            state.key,
            policy,
            params,
            minibatch.flatten_time(batch.transition),
            kind=config.fisher,
            fraction=config.fisher_fraction,
            damping=hyperparams.damping,
        )
        return curvature.conjugate_gradient(
            product,
            params,
            max_iterations=config.cg_iterations,
            tolerance=hyperparams.cg_tolerance,
        )

    def search(state: Any, batch: Any) -> Any:
        """One candidate, which is accepted."""

        def evaluate(params: Any) -> Any:
            value, info = surrogate(batch)(params)
            return jnp.isfinite(value) & jnp.isfinite(info["kl"]), info

        params = state.algorithm.params.policy
        step = jax.tree.map(lambda x: 1e-3 * x, params)
        shrink, most = hyperparams.backtrack_coef, config.max_backtracks
        old_info = {"kl": jnp.float32(0.0), "entropy": jnp.float32(0.0)}
        return curvature.line_search(
            evaluate, params, step, shrink=shrink, max_backtracks=most, old_info=old_info
        )

    def fit(state: Any, batch: Any) -> Any:
        return critics.fit(
            state.key,
            critic,
            state.algorithm.params.critic,
            optimizers.adam(hyperparams.critic_learning_rate),
            state.algorithm.critic_optimizer,
            critics.Targets(batch.transition, batch.transition.reward, ()),
            config,
        )

    parts = {
        "advantages": estimates,
        "gradient": gradient,
        "curvature": solve,
        "line search": search,
        "critic": fit,
    }
    return trainer, {**common_parts(trainer), **parts}


def compile_parts(trainer: po.Trainer, parts: dict[str, Part], width: int) -> dict[str, Any]:
    """Compile every part for `width` lanes; returns what runs it once on all workers."""
    workers = devices.local_workers()
    hyperparams = trainer.algorithm.hyperparams
    keys = po.seed_keys(width)
    state = jax.jit(jax.vmap(lambda key: trainer.init(key, hyperparams)))(keys)
    collect = jax.jit(jax.vmap(parts["rollout"], in_axes=(0, None)))
    begin, transition, _ = collect(state, None)
    state = state._replace(rollout=begin)
    batch = po.Rollout(transition, (), jnp.zeros(width))
    inputs = [jax.device_put((state, batch), worker) for worker in workers]
    pool = ThreadPoolExecutor(len(workers))

    def compiled(part: Part) -> Callable[[], None]:
        program = jax.jit(jax.vmap(part), compiler_options=po.compiler_options())
        devices = dict.fromkeys(workers)
        programs = {
            device: program.lower(*inputs[workers.index(device)]).compile() for device in devices
        }

        def run_on(i: int) -> None:
            jax.block_until_ready(programs[workers[i]](*inputs[i]))

        return lambda: list(pool.map(run_on, range(len(workers))))

    return {name: compiled(part) for name, part in parts.items()}


def tabulate(found: dict[str, list[float]]) -> dict[str, Figure]:
    """Milliseconds of every part; what is only known as a difference is that of each round."""
    columns = {name: 1e3 * np.asarray(values) for name, values in found.items()}
    whole = columns.pop("whole")
    if "update" in columns:
        update = columns.pop("update")
        columns["minibatch steps"] = update - columns["advantages"] - columns["shuffling"]
    columns["rest"] = whole - sum(columns.values())
    return {
        name: Figure.of(values.tolist()) for name, values in [("whole", whole), *columns.items()]
    }


def main() -> None:
    arguments = measure.arguments(__doc__, width=0)
    rounds, repeats = (3, 3) if arguments.quick else (15, 10)
    text, results, widths, kept = ["## Breakdown of one update", ""], {}, {}, {}
    on_cpu = devices.local_workers()[0].platform == "cpu"
    algorithms = ((po.PPOConfig(), ppo_parts), (po.TRPOConfig(), trpo_parts))
    for config, make in algorithms[: 1 if arguments.quick else None]:
        best = devices.lanes_per_core(config) if on_cpu else MANY_LANES
        widths[config.name] = width = arguments.width or best
        programs = compile_parts(*make(config), width)
        cases = {
            name: (lambda run=run: measure.seconds(run, repeats)) for name, run in programs.items()
        }
        measure.interleave(cases, 1)  # the first calls touch fresh memory
        parts = tabulate(measure.interleave(cases, rounds))
        whole = parts["whole"].median
        rows = [
            {
                config.name: name,
                "ms": figure.show(".2f"),
                "share": f"{figure.median / whole:.0%}",
            }
            for name, figure in parts.items()
        ]
        text += [measure.table(rows), ""]
        kept[config.name] = rows
        results[config.name] = {name: figure._asdict() for name, figure in parts.items()}
    shown = ", ".join(f"{width} lanes ({name})" for name, width in widths.items())
    text += [
        f"{shown} on each of {len(devices.local_workers())} workers, {ENV}; medians of {rounds}"
        " interleaved rounds (smallest … largest). Minibatch steps and rest are differences."
    ]
    figures = {"widths": widths, "milliseconds": results}
    measure.write("breakdown", figures, "\n".join(text), kept)


if __name__ == "__main__":
    main()
