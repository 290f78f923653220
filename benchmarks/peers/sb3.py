"""stable-baselines3's PPO and A2C, and sb3-contrib's TRPO: one seed after the other."""

import time

from serve import serve


def arguments(job):
    """Settings under the names of stable-baselines3.

    Its value loss lacks the factor ½, so that its coefficient has to hold it. A2C's optimiser is
    Adam, as ours.
    """
    settings, hyperparams = job["settings"], job["settings"]["hyperparams"]
    common = {
        "n_steps": settings["num_steps"],
        "gamma": hyperparams["discount"],
        "gae_lambda": hyperparams["gae_lambda"],
        "policy_kwargs": {"net_arch": list(settings["network"]["hidden"])},
        "device": "cpu",
    }
    if job["algorithm"] == "trpo":
        return {
            **common,
            "batch_size": settings["critic_minibatch_size"],
            "n_critic_updates": settings["critic_epochs"],
            "learning_rate": hyperparams["critic_learning_rate"],
            "cg_max_steps": settings["cg_iterations"],
            "cg_damping": hyperparams["damping"],
            "target_kl": hyperparams["max_kl"],
            "line_search_max_iter": settings["max_backtracks"],
            "line_search_shrinking_factor": hyperparams["backtrack_coef"],
        }
    common |= {
        "learning_rate": hyperparams["learning_rate"],
        "ent_coef": hyperparams["entropy_coef"],
        "vf_coef": 0.5 * hyperparams["value_coef"],
        "max_grad_norm": hyperparams["max_grad_norm"],
    }
    common["policy_kwargs"]["optimizer_kwargs"] = {"eps": hyperparams["adam_eps"]}
    if job["algorithm"] == "a2c":
        advantage = settings["normalize_advantage"]
        return {**common, "use_rms_prop": False, "normalize_advantage": advantage}
    batch = settings["num_envs"] * settings["num_steps"]
    return {
        **common,
        "batch_size": batch // settings["num_minibatches"],
        "n_epochs": settings["num_epochs"],
        "clip_range": hyperparams["clip_eps"],
        "clip_range_vf": hyperparams["value_clip_eps"] if settings["clip_value"] else None,
    }


def train(job, model_class, arguments, warm_steps=0):
    """Train one model per seed; its first `warm_steps`, in which it compiles, are not timed."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    trained, run_seconds, compile_seconds, returns = 0, 0.0, 0.0, []
    for seed in job["seeds"]:
        env = make_vec_env(job["env"], n_envs=job["settings"]["num_envs"], seed=seed)
        model = model_class("MlpPolicy", env, seed=seed, **arguments)
        if warm_steps:
            start = time.perf_counter()
            model.learn(warm_steps)
            compile_seconds += time.perf_counter() - start
        before, start = model.num_timesteps, time.perf_counter()
        model.learn(job["steps"] - before, reset_num_timesteps=not warm_steps)
        run_seconds += time.perf_counter() - start
        trained += model.num_timesteps - before
        eval_env = make_vec_env(job["env"], n_envs=8, seed=10**6 + seed)
        episodes = job["episodes"]
        found = evaluate_policy(model, eval_env, episodes, deterministic=False, warn=False)
        returns.append(float(found[0]))
    return {
        "steps_per_second": trained / run_seconds,
        "compile_seconds": compile_seconds,
        "returns": returns,
    }


def run(job):
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3 import A2C, PPO

    torch.set_num_threads(1)  # products this small are slower on several
    model_class = {"ppo": PPO, "a2c": A2C, "trpo": TRPO}[job["algorithm"]]
    return train(job, model_class, arguments(job))


if __name__ == "__main__":
    serve(run, "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")
