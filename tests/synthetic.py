"""Results of runs that never took place, for what comes after training."""

import json

import numpy as np

from purejax_po.experiment import files as atomic
from purejax_po.experiment.results import dataset as results
from purejax_po.metrics import Log, Moments


def make_run(
    algorithm="ppo",
    env="CartPole-v1",
    *,
    seeds=range(8),
    updates=20,
    every=1,
    steps_per_update=512,
    best=500.0,
    worst=20.0,
    rate=5.0,
    diagnostics=("kl", "entropy"),
    diverged=(),
    compile_seconds=2.0,
    wrappers="",
    **config,
):
    """A Dataset as of a run: returns that rise from `worst` to `best`, unlike for each seed."""
    seeds, ends = np.asarray(seeds), np.arange(every, updates + 1, every)
    rng = np.random.default_rng(list(f"{algorithm}{env}".encode()))
    progress = 1 - np.exp(-rate * ends / updates)
    skill = 1 - 0.1 * rng.random((len(seeds), 1))
    means = worst + (best - worst) * progress * skill + rng.normal(size=(len(seeds), len(ends)))
    ones = np.ones_like(means)
    episodes = Moments(3 * ones, means, 2 * ones)
    info = {name: np.abs(rng.normal(size=means.shape)) * progress for name in diagnostics}
    log = Log(Moments(ones, info, info), episodes, episodes)
    dataset = results.to_dataset(log, seeds=seeds, updates=ends, steps_per_update=steps_per_update)
    dataset["diverged_at"] = "seed", np.where(np.isin(seeds, diverged), 3, -1).astype(np.int32)
    config = {"algorithm": {"name": algorithm}, "env": env, "num_seeds": len(seeds), **config}
    dataset.attrs.update(
        algorithm=algorithm,
        env=env,
        config=json.dumps(config),
        lanes_per_device=4,
        versions=json.dumps(results.versions()),
        compile_seconds=compile_seconds,
        run_seconds=4.0,
        env_steps_per_second=1e5,
        device="2 × cpu",
        times_halved=0,
        **({"wrappers": wrappers} if wrappers else {}),
    )
    return dataset


def save_run(directory, *args, **options):
    """As `make_run`, written as a run's directory; returns the Dataset."""
    dataset = make_run(*args, **options)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(dataset.attrs["config"])
    results.save(dataset, directory / "results.nc")
    atomic.write_json(directory / "summary.json", results.summarize(dataset))
    return dataset
