"""Token tasks: what outputs earn, that prompts cover what they should, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejax_po as po
from purejax_po.environments import tokens

pytestmark = pytest.mark.usefixtures("compile_quickly")

# task -> outputs (prompt, output, share of right tokens, exact)
SCORES = {
    "copy": [
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 0], 1.0, True),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 1], 6 / 7, False),
        ([1, 2, 3, 4, 5, 6], [1, 2, 0], 2 / 7, False),
        ([8, 8, 8, 8, 8, 8], [0], 0.0, False),
    ],
    "reverse": [
        ([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], 1.0, True),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 0], 1 / 7, False),
    ],
    "sort": [([3, 1, 2, 1, 8, 5], [1, 1, 2, 3, 5, 8, 0], 1.0, True)],
    "addition": [
        ([8, 6], [3, 0], 1.0, True),  # 7 + 5 = 12
        ([8, 6], [3, 3], 0.5, False),
        ([1, 1], [1, 0], 1.0, True),  # 0 + 0 = 0
        ([1, 1], [0], 0.0, False),
    ],
    "parity": [([2, 2, 1, 2], [2, 0], 1.0, True), ([2, 2, 1, 1], [2, 0], 0.5, False)],
    "brackets": [
        ([1, 1, 2, 1, 1], [2, 2, 2, 0], 1.0, True),
        ([1, 1, 2, 1, 2], [1, 2, 2, 0], 1.0, True),  # another way
        ([1, 1, 2, 1, 2], [2, 2, 1, 0], 0.0, False),
        ([1, 1, 2, 1, 2], [0], 1 - 1 / 11, False),
    ],
    "length": [
        ([3], [1, 7, 2, 0], 0.0, True),
        ([3], [1, 7, 0], 0.0, False),
        ([3], [1, 1, 1, 1, 0], 0.0, False),
    ],
    "needle": [([], [1, 2, 3, 0], 0.0, True), ([], [1, 2, 0], 0.0, False)],
    "two": [([1], [0], 1.0, False), ([2], [1, 2], 4 / 4, False), ([2], [1, 1], 2 / 4, False)],
}


def test_what_outputs_earn(subtests):
    for task in SCORES:
        with subtests.test(str(task)):
            env, env_params = po.make_env(f"tokens/{task}")
            env_params = env_params.replace(exact_bonus=3.0)
            step = jax.jit(env.step)
            for prompt, output, share, exact in SCORES[task]:
                nothing = [tokens.NONE] * env.max_tokens
                state = tokens.EnvState(tokens=jnp.array(prompt + nothing), time=jnp.int32(0))
                for t, token in enumerate(output):
                    obs, state, reward, terminated, _, info = step(
                        jax.random.key(t), state, jnp.int32(token), env_params
                    )
                    last = t == len(output) - 1
                    assert terminated == last
                    np.testing.assert_allclose(reward, (share + 3.0 * exact) * last, rtol=1e-6)
                seen = prompt + output + nothing[len(output) :]
                np.testing.assert_array_equal(info["final_observation"], seen)
                np.testing.assert_array_equal(obs, state.tokens)


def test_of_an_exact_match_only_exact_outputs_earn(subtests):
    for task, outputs in SCORES.items():
        env = po.make_env(f"tokens/{task}")[0].exact_match()
        if task == "two":  # where no output is exact
            assert not env.pays_exact_match
            continue
        for prompt, output, _, exact in outputs:
            with subtests.test(f"{task} {output}"):
                params = env.default_params
                _, state = env.reset_env(jax.random.key(0), params)
                tokens_ = state.tokens.at[: len(prompt)].set(jnp.asarray(prompt, jnp.int32))
                state, earned = state.replace(tokens=tokens_), 0.0
                for token in output:
                    _, state, reward, done, _ = env.step_env(
                        jax.random.key(0), state, token, params
                    )
                    earned += float(reward)
                    if done:
                        break
                assert earned == float(exact)


def test_prompts_are_symbols_and_differ(subtests):
    for task in SCORES:
        with subtests.test(str(task)):
            env, env_params = po.make_env(f"tokens/{task}")
            obs, state = jax.vmap(env.reset, in_axes=(0, None))(po.seed_keys(500), env_params)
            prompt, rest = np.split(np.asarray(obs), [env.prompt_length], axis=1)
            assert obs.dtype == jnp.int32
            assert obs.shape[1:] == env.observation_space(env_params).shape
            np.testing.assert_array_equal(rest, tokens.NONE)
            np.testing.assert_array_equal(state.time, 0)
            if env.prompt_length:
                # every symbol turns up, and nothing else
                np.testing.assert_array_equal(np.unique(prompt), np.arange(1, env.num_tokens))
            assert env.num_tokens <= 16
            assert env_params.max_steps_in_episode == env.max_tokens


def test_prompts_of_brackets_close_nothing_that_is_not_open():
    env, env_params = po.make_env("tokens/brackets", length=9)
    obs, _ = jax.vmap(env.reset, in_axes=(0, None))(po.seed_keys(200), env_params)
    depth = np.cumsum(np.where(obs[:, :9] == 1, 1, -1), axis=1)
    assert depth.min() == 0
    assert depth.max() >= 5


def test_an_answer_can_be_cut_by_a_short_context():
    env, env_params = po.make_env("tokens/copy", context=9)
    assert env.max_tokens == env_params.max_steps_in_episode == 3
    share, exact = env.score(jnp.array([1, 2, 3, 4, 5, 6]), jnp.array([1, 2, 3]))
    np.testing.assert_allclose(share, 3 / 7)
    assert not exact


def test_wrong_options_are_named(subtests):
    for task, options, message in [
        ("copy", {"length": 0}, "length must be a whole number ≥ 1, got 0"),
        ("copy", {"symbols": 0}, "vocabulary must hold the end token and a symbol"),
        ("sort", {"symbols": 16}, "vocabulary must be at most 16 tokens"),
        ("copy", {"length": 6, "context": 6}, "context must be more than the prompt's 6 tokens"),
        ("length", {"longest": 5, "room": 5}, "room must be more than the longest output 5"),
        ("copy", {"lenght": 3}, "option of tokens/copy must be .*did you mean length"),
        ("addition", {"modulus": 99}, "vocabulary must be at most 16 tokens"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            po.make_env(f"tokens/{task}", **options)


def test_the_nearest_task_is_named():
    with pytest.raises(ValueError, match="did you mean tokens/copy"):
        po.make_env("tokens/copi")
