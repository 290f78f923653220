"""From demonstrations to a reward model to a policy, for many seeds at once.

    python examples/pipeline.py [--seeds 16] [--rounds 3] [--updates 100]

1. Clone: a policy imitates a demonstrator who copies each token right seven times out of ten.
2. Reward model: in each round the policy writes two outputs per prompt, the better one is
   preferred, and a model learns to score outputs from preferences alone; old ones are replayed.
3. Policy: GRPO against the model's scores, held near the round's first policy by a KL.

Then over-optimisation: the clone once more, a model of few preferences, no KL and no second round.
Beside each score stands the true reward, which training sees in the preferences alone.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import purejax_po as po
from purejax_po.rollout import collect, first_episodes, reset

ENV, ENV_PARAMS = po.make_env("tokens/copy", length=4, symbols=4)
POLICY, MODEL = po.mlp_actor_critic(ENV, ENV_PARAMS, hidden=(64, 64))
NUM_DEMONSTRATIONS, SKILL = 256, 0.7
NUM_PAIRS, NUM_FEW, NUM_HELD_OUT = 2048, 32, 512
HYPERPARAMS = po.GRPOHyperparams(
    learning_rate=1e-3, learning_rate_decay=0.0, kl_coef=0.05, entropy_coef=0.0
)


class Stage(NamedTuple):
    """What one line of the table tells of a seed."""

    exact: jax.Array
    """Share of fresh prompts whose greedy output is exact."""
    true_reward: jax.Array
    """Mean over sampled outputs."""
    score: jax.Array
    """What the reward model says of the same outputs."""
    accuracy: jax.Array
    """Of the reward model, on held-out preferences between such outputs."""


class Outputs(NamedTuple):
    """Outputs of a policy, two for each prompt, `[2 B]`."""

    last_obs: jax.Array
    reward: jax.Array


def clone(key: jax.Array) -> Any:
    """Imitate demonstrations `[B, T]` of limited skill."""
    prompt_key, slip_key, symbol_key, clone_key = jax.random.split(key, 4)
    begin, _ = jax.vmap(ENV.reset, in_axes=(0, None))(
        jax.random.split(prompt_key, NUM_DEMONSTRATIONS), ENV_PARAMS
    )
    length = ENV.prompt_length
    right = begin[:, :length]
    slips = jax.random.bernoulli(slip_key, 1.0 - SKILL, right.shape)
    written = jnp.where(slips, jax.random.randint(symbol_key, right.shape, 1, 5), right)
    action = jnp.pad(written, ((0, 0), (0, 1)))  # the end token behind it
    emitted = jnp.arange(length + 1) < jnp.arange(length + 1)[:, None]  # before each step
    seen = jnp.where(emitted, action[:, None], -1)
    prompts = jnp.broadcast_to(right[:, None], (*seen.shape[:2], length))
    obs = jnp.concatenate([prompts, seen], axis=-1)
    obs, action = obs.reshape(-1, obs.shape[-1]), action.reshape(-1)
    settings = {"num_epochs": 50, "num_minibatches": 5, "learning_rate": 2e-3}
    return po.behaviour_clone(clone_key, ENV, ENV_PARAMS, POLICY, obs, action, **settings).params


def write(key: jax.Array, params: Any, num_prompts: int) -> Outputs:
    """Sample two outputs for each of fresh prompts."""
    reset_key, key = jax.random.split(key)
    begin = reset(reset_key, ENV, ENV_PARAMS, POLICY, 2 * num_prompts, group_size=2)
    _, *found = collect(key, ENV, ENV_PARAMS, POLICY, params, begin, ENV.max_tokens)
    transition, _ = first_episodes(*found)
    last = (transition.weight > 0) & transition.terminated
    last_obs = jnp.sum(jnp.where(last[..., None], transition.next_obs, 0), axis=0)
    return Outputs(last_obs, jnp.sum(transition.reward * last, axis=0))


def prefer(outputs: Outputs) -> po.Pairs:
    """Say which of two outputs of a prompt is better; equal ones are a tie."""
    obs = outputs.last_obs.reshape(-1, 2, outputs.last_obs.shape[-1])
    first, second = outputs.reward.reshape(-1, 2).T
    better = (first > second)[:, None]
    return po.Pairs(
        jnp.where(better, obs[:, 0], obs[:, 1]),
        jnp.where(better, obs[:, 1], obs[:, 0]),
        jnp.float32(first != second),
    )


def look(key: jax.Array, params: Any, model_params: Any) -> Stage:
    """Measure a policy and the reward model on what it writes."""
    evaluate_key, key = jax.random.split(key)
    greedy = po.evaluate(
        evaluate_key,
        ENV,
        ENV_PARAMS,
        POLICY,
        params,
        num_episodes=NUM_HELD_OUT,
        num_steps=ENV.max_tokens,
    )
    outputs = write(key, params, NUM_HELD_OUT)
    score = MODEL.unroll(model_params, (), outputs.last_obs, jnp.zeros(()))
    accuracy = po.preference_accuracy(MODEL, model_params, prefer(outputs))
    exact = jnp.mean(greedy.episode_return > 2.0 - 1e-3)
    return Stage(exact, jnp.mean(outputs.reward), jnp.mean(score), accuracy)


def learn_preferences(
    key: jax.Array, params: Any, model_params: Any, old: po.Pairs, num_pairs: jax.Array | int
) -> tuple[Any, po.Pairs]:
    """Train the reward model on with what the policy writes now, and some of what it wrote.

    Only `num_pairs` of the new pairs count.
    """
    write_key, key = jax.random.split(key)
    new = prefer(write(write_key, params, NUM_PAIRS))
    new = new._replace(weight=new.weight * (jnp.arange(NUM_PAIRS) < num_pairs))
    model = po.reward_model(
        key,
        ENV,
        ENV_PARAMS,
        MODEL,
        new,
        replay=old,
        replay_fraction=0.25,
        params=model_params,
        num_epochs=30,
        num_minibatches=20,
        learning_rate=1e-3,
    )
    return model.params, new


def improve(
    key: jax.Array, params: Any, model_params: Any, kl_coef: jax.Array, num_updates: int
) -> Any:
    """GRPO against the reward model, from a policy that is also its reference."""

    def judge(obs: jax.Array) -> jax.Array:
        return MODEL.unroll(model_params, (), obs, jnp.zeros(()))

    env = po.judge_outcome(ENV, judge)
    hyperparams = HYPERPARAMS.replace(kl_coef=kl_coef)
    algorithm = po.warm_start(po.grpo(POLICY, po.GRPOOptions(group_size=8)), params)
    trainer = po.make_trainer(env, ENV_PARAMS, algorithm, num_envs=128, num_steps=ENV.max_tokens)
    train = po.make_train(trainer, num_updates=num_updates, log_every=num_updates)
    return train(key, hyperparams).state.algorithm.params.policy


def tell(name: str, stage: Stage) -> None:
    """Print a line: mean over seeds, and the worst seed's exact outputs."""
    print(
        f"{name:28} {stage.exact.mean():7.3f} {stage.exact.min():7.3f} "
        f"{stage.true_reward.mean():12.3f} {stage.score.mean():8.2f} "
        f"{stage.accuracy.mean():9.3f} {stage.accuracy.min():7.3f}",
        flush=True,
    )


def main(num_seeds: int, num_rounds: int, num_updates: int, first_seed: int = 0) -> list[Stage]:
    """Run the three steps for all seeds; what each stage measured."""
    print("                               exact     min  true reward    score  accuracy     min")
    seeds = po.seed_keys(jnp.arange(first_seed, first_seed + num_seeds))
    keys = jax.vmap(lambda key: jax.random.split(key, 3 * num_rounds + 4))(seeds).T
    measure, fit = (
        jax.jit(jax.vmap(look)),
        jax.jit(jax.vmap(learn_preferences, in_axes=(0, 0, 0, 0, None))),
    )
    train = jax.jit(jax.vmap(lambda *given: improve(*given, num_updates), in_axes=(0, 0, 0, None)))
    params, models = jax.jit(jax.vmap(clone))(keys[0]), jax.vmap(MODEL.init)(keys[1])
    pairs = jax.vmap(lambda key, p: prefer(write(key, p, NUM_PAIRS)))(keys[2], params)
    pairs = pairs._replace(weight=jnp.zeros_like(pairs.weight))  # nothing to replay yet
    cloned, untrained = (params, pairs), models
    stages = [measure(keys[3], params, models)]
    tell("clone, model untrained", stages[-1])
    for i in range(num_rounds):
        fit_key, train_key, look_key = keys[3 * i + 4 : 3 * i + 7]
        models, pairs = fit(fit_key, params, models, pairs, NUM_PAIRS)
        stages.append(measure(look_key, params, models))
        tell(f"round {i + 1}, reward model", stages[-1])
        params = train(train_key, params, models, HYPERPARAMS.kl_coef)
        stages.append(measure(look_key, params, models))
        tell(f"round {i + 1}, policy", stages[-1])
    (params, pairs), models = cloned, untrained
    models, _ = fit(keys[4], params, models, pairs, NUM_FEW)
    stages.append(measure(keys[3], params, models))
    tell(f"clone, model of {NUM_FEW} pairs", stages[-1])
    for i in range(4):
        params = train(keys[i], params, models, 0.0)
        stages.append(measure(keys[3], params, models))
        tell(f"no KL, {(i + 1) * num_updates:,} updates", stages[-1])
    return stages


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    main(given.seeds, given.rounds, given.updates, given.first_seed)
