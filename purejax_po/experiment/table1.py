"""Table 1 of the PPO paper: eleven objectives on seven continuous-control tasks of Brax.

Settings that share a program are a sweep, and every sweep on every task is a run of its own, which
is resumed where it was interrupted and read where it is complete. The other algorithms go through
the same harness, a run each.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, section 6.1.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from purejax_po.evaluation import evaluate
from purejax_po.experiment import directory as files
from purejax_po.experiment import lanes as lanes_module
from purejax_po.experiment import locks, results, runner, statistics, sweep, table1_plots
from purejax_po.experiment.config import (
    A2CConfig,
    AlgorithmConfig,
    ExperimentConfig,
    NPGConfig,
    PPOConfig,
    REINFORCEConfig,
    TRPOConfig,
)
from purejax_po.types import Array, Key, Policy, Range, check_choice, check_count, check_number

if TYPE_CHECKING:
    import xarray as xr

TOTAL_STEPS = 1_000_000
HORIZON = 2048
"""Steps of an update, over all environments of a lane."""
SCORED_EPISODES = 100
"""A run's score is the mean return of the last so many episodes."""
NO_CLIP = 1e9
"""An ε beyond every ratio: min(ρA, clip(ρ)A) is ρA, and unclipped shares the program of clip."""
REFERENCE_POLICIES, REFERENCE_EPISODES = 16, 4
"""Of the untrained and of the random policy; episodes of each."""
REFERENCES, TABLE, PAGE = "references.json", "table1.json", "table1.md"
FILES = (TABLE, PAGE, "curves-TASK.png", "TASK/PROGRAM")


class Task(NamedTuple):
    """One of the paper's tasks."""

    env: str
    """With the physics that are fast enough on a CPU and trained well; Brax's default elsewhere."""
    max_steps: int = 1000
    """Time limit, as Gym's."""


TASKS = {
    "halfcheetah": Task("brax/halfcheetah:spring"),
    "hopper": Task("brax/hopper:spring"),
    "inverted_double_pendulum": Task("brax/inverted_double_pendulum:generalized"),
    "inverted_pendulum": Task("brax/inverted_pendulum:generalized"),
    "reacher": Task("brax/reacher:generalized", 50),
    "swimmer": Task("brax/swimmer:generalized"),
    "walker2d": Task("brax/walker2d:spring"),
}
"""The paper's tasks, by name."""


class Group(NamedTuple):
    """Settings that one compiled program serves: the points of a sweep, or one without."""

    algorithm: str
    options: dict[str, Any]
    """Fields of the algorithm's configuration."""
    axis: str | None
    settings: tuple[tuple[str, float, float | None], ...]
    """`(label, value on the axis, the paper's score)`, in the paper's order."""


PPO = {
    "num_epochs": 10,
    "num_minibatches": HORIZON // 64,
    "normalize_advantage": "batch",
    "clip_value": False,
}
"""The paper's table 3; the advantages' normalisation and no clipping of gradients or values are its
published code's."""
PPO_FLOATS = {
    "learning_rate": 3e-4,
    "learning_rate_decay": 0.0,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 0.0,
    "max_grad_norm": 1e9,
    "kl_coef": 1.0,
}

GROUPS = {
    "clip": Group(
        "ppo",
        {"surrogate": "clip"},
        "clip_eps",
        (
            ("no clipping or penalty", NO_CLIP, -0.39),
            ("clipping, ε = 0.1", 0.1, 0.76),
            ("clipping, ε = 0.2", 0.2, 0.82),
            ("clipping, ε = 0.3", 0.3, 0.70),
        ),
    ),
    "adaptive_kl": Group(
        "ppo",
        {"surrogate": "adaptive_kl"},
        "kl_target",
        (
            ("adaptive KL, target 0.003", 0.003, 0.68),
            ("adaptive KL, target 0.01", 0.01, 0.74),
            ("adaptive KL, target 0.03", 0.03, 0.71),
        ),
    ),
    "fixed_kl": Group(
        "ppo",
        {"surrogate": "fixed_kl"},
        "kl_coef",
        (
            ("fixed KL, β = 0.3", 0.3, 0.62),
            ("fixed KL, β = 1", 1.0, 0.71),
            ("fixed KL, β = 3", 3.0, 0.72),
            ("fixed KL, β = 10", 10.0, 0.69),
        ),
    ),
    "npg": Group("npg", {}, None, (("NPG", 0.0, None),)),
    "trpo": Group("trpo", {}, None, (("TRPO", 0.0, None),)),
    "a2c": Group("a2c", {}, None, (("A2C", 0.0, None),)),
    "reinforce": Group("reinforce", {}, None, (("REINFORCE", 0.0, None),)),
}
"""Every program of the table, by the name of its directory."""
ALGORITHMS = tuple(dict.fromkeys(group.algorithm for group in GROUPS.values()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the table is of."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Of the seven."""
    algorithms: tuple[str, ...] = ("ppo",)
    """ppo stands for the paper's eleven settings; npg, trpo, a2c and reinforce for one each."""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 3
    """Runs of every setting on every task."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, …"""
    scale: float = 1.0
    """Share of the paper's million steps."""
    num_envs: int = 1
    """Environments that share a horizon of 2048 steps. The paper has 1; 4 × 512 is faster, and cuts
    episodes more often, where the critic's value stands in for the rest."""
    lanes_per_device: int | None = None
    """Runs side by side on each device; chosen by default."""
    num_devices: int | None = None
    """Devices to use (a CPU core is one); all by default."""

    def check(self) -> None:
        """Raise `ValueError` naming the field, its value and what is allowed."""
        for name, choices in (("tasks", tuple(TASKS)), ("algorithms", ALGORITHMS)):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must be given once each, got {', '.join(given) or None}")
            for value in given:
                check_choice(name, value, choices)
        check_number("scale", self.scale, Range(0.0, includes_low=False))
        check_count("num_envs", self.num_envs)
        if HORIZON % self.num_envs:
            raise ValueError(f"num_envs must divide the horizon {HORIZON}, got {self.num_envs}")


class Job(NamedTuple):
    """One program on one task."""

    task: str
    group: str
    config: ExperimentConfig
    directory: Path


class Probe(NamedTuple):
    """What a few updates of a job's program cost."""

    compile_seconds: float
    steps_per_second: float


class Cost(NamedTuple):
    """What a job will take from its beginning."""

    job: Job
    steps: int
    """Of all lanes; 0 if it is complete."""
    seconds: float


class Score(NamedTuple):
    """The runs of one setting on one task."""

    runs: Any
    """Score of each seed, `[seeds]`; NaN where no episode ended."""
    num_diverged: int


def jobs(settings: Settings, out: str | os.PathLike[str]) -> list[Job]:
    """Return every program of the table on every task, checked; compiles nothing.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    settings.check()
    found = []
    for task in settings.tasks:
        for name, group in GROUPS.items():
            if group.algorithm in settings.algorithms:
                config = make_config(task, group, settings)
                config.check()
                found.append(Job(task, name, config, Path(out) / task / name))
    return found


def make_config(task: str, group: Group, settings: Settings) -> ExperimentConfig:
    """Return a group's experiment on a task, every update of which is a window of its own."""
    env, max_steps = TASKS[task]
    algorithm = _algorithm(group, settings.num_envs, max_steps)
    total_steps = round(settings.scale * TOTAL_STEPS)
    num_updates = total_steps // (algorithm.num_envs * algorithm.num_steps)
    return ExperimentConfig(
        algorithm=algorithm,
        env=env,
        env_params={"max_steps_in_episode": max_steps},
        num_seeds=settings.num_seeds,
        first_seed=settings.first_seed,
        total_steps=total_steps,
        normalize_observations=True,
        num_windows=min(max(10, num_updates), TOTAL_STEPS // HORIZON),
        lanes_per_device=settings.lanes_per_device,
        num_devices=settings.num_devices,
        sweep={group.axis: tuple(value for _, value, _ in group.settings)} if group.axis else {},
    )


def _algorithm(group: Group, num_envs: int, max_steps: int) -> AlgorithmConfig:
    """The paper's settings of PPO; the package's defaults of the others, at the same horizon."""
    shape: Any = {"num_envs": num_envs, "num_steps": HORIZON // num_envs}
    if group.algorithm == "ppo":
        ppo = PPOConfig(**shape, **PPO, **group.options)
        return _with_floats(ppo, PPO_FLOATS)
    if group.algorithm == "a2c":
        # One gradient step for each 64 samples, as a minibatch of PPO.
        a2c = A2CConfig(num_envs=8, num_steps=8)
        return _with_floats(a2c, {"entropy_coef": 0.0, "learning_rate_decay": 0.0})
    if group.algorithm == "reinforce":
        # Two whole episodes, or as many as come near the horizon.
        episodes = HORIZON // max_steps
        return REINFORCEConfig(
            num_envs=episodes,
            num_steps=max_steps,
            normalize_advantage=True,
            critic_minibatch_size=episodes * max_steps // 10,
        )
    natural = {"npg": NPGConfig, "trpo": TRPOConfig}[group.algorithm]
    return natural(**shape, critic_minibatch_size=64)


def _with_floats(algorithm: AlgorithmConfig, floats: Mapping[str, float]) -> AlgorithmConfig:
    hyperparams = dataclasses.replace(algorithm.hyperparams, **floats)
    return dataclasses.replace(algorithm, hyperparams=hyperparams)


def check_same(job: Job) -> None:
    """Raise `ValueError` if a job's directory holds a run of other settings."""
    if not (job.directory / files.CONFIG).exists():
        return
    held = files.read_config(job.directory).identity()
    for name, value in job.config.identity().items():
        # As the file has them: lists for tuples.
        wanted, found = (json.loads(json.dumps(x)) for x in (value, held.get(name)))
        if wanted != found and name != "lanes_per_device":
            raise ValueError(
                f"out must hold the same table, got {job.directory} with {name} = {found!r} "
                f"instead of {wanted!r}; choose another directory"
            )


def is_complete(job: Job) -> bool:
    """Tell whether a job's results are written."""
    return (job.directory / "summary.json").exists()


def probe(job: Job) -> Probe:
    """Compile a job's program, which the compilation cache keeps, and time one update of it."""
    trainer = runner.prepare(job.config).trainer
    config = job.config
    everything = sweep.make_lanes(config, trainer.algorithm.hyperparams, trainer.env_params)
    workers, width = lanes_module.plan(
        config.num_lanes, config.lanes_per_device, config.num_devices
    )
    blocks = lanes_module.make_blocks(everything, width)[: len(workers)]
    program = lanes_module.compile_program(trainer, blocks[0].lanes, config.num_updates, workers)
    times = []
    for _ in lanes_module.run_blocks(program, blocks, [1, 1, 1], lambda: True):
        times.append(time.perf_counter())
    steps = len(blocks) * width * trainer.steps_per_update
    return Probe(program.compile_seconds, steps / min(np.diff(times)))


def probed(all_jobs: Sequence[Job]) -> dict[str, dict[str, Probe]]:
    """Probe one job of each algorithm on each task, unless all of them are complete."""
    found: dict[str, dict[str, Probe]] = {}
    for job in all_jobs:
        of_task = found.setdefault(job.task, {})
        if not is_complete(job) and GROUPS[job.group].algorithm not in of_task:
            of_task[GROUPS[job.group].algorithm] = probe(job)
    return found


def plan(all_jobs: Sequence[Job], probes: Mapping[str, Mapping[str, Probe]]) -> list[Cost]:
    """Return what every job will cost, by the probes of its task; nothing if it is complete."""
    found = []
    for job in all_jobs:
        if is_complete(job):
            found.append(Cost(job, 0, 0.0))
            continue
        one = probes[job.task][GROUPS[job.group].algorithm]
        steps = lane_steps(job)
        found.append(Cost(job, steps, one.compile_seconds + steps / one.steps_per_second))
    return found


def lane_steps(job: Job) -> int:
    """Environment steps of all lanes of a job."""
    config = job.config
    per_update = config.algorithm.num_envs * config.algorithm.num_steps
    return config.num_lanes * config.num_updates * per_update


References = dict[str, list[float]]
"""Mean returns of several policies of a kind, `random` and `untrained`."""
Runs = dict[str, dict[str, dict[str, "xr.Dataset"]]]
"""Results by task, group and label."""

# References: what a task is worth without training


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Mixed:
    """A Gaussian policy's actions, or uniform ones in [−1, 1], from the same noise."""

    gaussian: Any
    is_uniform: Array

    def noise(self, key: Key) -> Array:
        return self.gaussian.noise(key)

    def sample_from(self, noise: Array) -> Array:
        uniform = jax.scipy.special.erf(noise / jnp.sqrt(2.0))
        return jnp.where(self.is_uniform, uniform, self.gaussian.sample_from(noise))


def references(job: Job) -> References:
    """Mean returns of the uniformly random policy and of untrained ones.

    Both act on the observations as they are: there are no statistics before training.
    """
    env, env_params = job.config.make_env()
    algorithm = job.config.algorithm.build(env, env_params)
    policy = algorithm.policy

    def step(params: Any, carry: Any, obs: Array, start: Any) -> tuple[Any, _Mixed]:
        carry, gaussian = policy.step(params[0], carry, obs, start)
        return carry, _Mixed(gaussian, params[1])

    mixed = Policy(policy.init, policy.initial_carry, step, policy.unroll)

    def one(seed: Array, is_uniform: Array) -> Array:
        init_key, key = jax.random.split(jax.random.key(seed))
        params = algorithm.init(init_key, algorithm.hyperparams).params
        return evaluate(
            key,
            env,
            env_params,
            mixed,
            (params, is_uniform),
            num_episodes=REFERENCE_EPISODES,
            num_steps=TASKS[job.task].max_steps,
            greedy=False,
        ).episode_return.mean()

    seeds = jnp.arange(2 * REFERENCE_POLICIES)
    found = jax.jit(jax.vmap(one))(seeds, seeds < REFERENCE_POLICIES).tolist()
    return {"random": found[:REFERENCE_POLICIES], "untrained": found[REFERENCE_POLICIES:]}


def read_references(job: Job) -> References:
    """As `references`, kept in the task's directory."""
    path = job.directory.parent / REFERENCES
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        results.write_json(path, references(job))
    return json.loads(path.read_text())


# Scores


def last_episodes(dataset: "xr.Dataset", number: int = SCORED_EPISODES) -> Any:
    """Mean return of the last `number` episodes, `[..., seeds]`; NaN if none ended.

    Episodes are known by windows of updates: of the oldest window that is needed as many count as
    are missing, at the window's mean. A run that diverged has its last episodes before that.
    """
    count = dataset["num_episodes"].values.astype(float)
    later = np.cumsum(count[..., ::-1], axis=-1)[..., ::-1] - count
    weight = np.clip(number - later, 0.0, count)
    total = weight.sum(axis=-1)
    returns = np.nan_to_num(dataset["episode_return"].values)
    mean = (weight * returns).sum(axis=-1) / np.maximum(total, 1.0)
    return np.where(total > 0, mean, np.nan)


def by_setting(group: str, dataset: "xr.Dataset") -> dict[str, "xr.Dataset"]:
    """Split a group's results into those of its settings, by label."""
    axis, settings = GROUPS[group].axis, GROUPS[group].settings
    return {label: dataset.sel({axis: value}) if axis else dataset for label, value, _ in settings}


def score(part: "xr.Dataset") -> Score:
    """Return one setting's scores on one task."""
    return Score(last_episodes(part), int(np.sum(part["diverged_at"].values >= 0)))


def best(of_task: Mapping[str, Score]) -> float:
    """Return what counts as 1: the highest mean over seeds of any setting of PPO.

    A setting's mean does not grow with the number of seeds, as the best single run would. Without
    PPO it is the best of what there is.
    """
    ours = [label for label in of_task if _paper(label) is not None] or list(of_task)
    return max(_mean(of_task[label].runs) for label in ours)


def normalized(
    found: Mapping[str, Mapping[str, Score]], low: Mapping[str, float]
) -> dict[str, list[Any]]:
    """Scale every setting's scores, by task, so that random is 0 and `best` is 1.

    Args:
        found: scores by task and label.
        low: the random policy's mean return by task.

    Returns:
        By label, one `[seeds]` per task; runs without an episode are left out.
    """
    labels = dict.fromkeys(label for of_task in found.values() for label in of_task)
    scaled: dict[str, list[Any]] = {label: [] for label in labels}
    for task, of_task in found.items():
        high = best(of_task)
        for label, score in of_task.items():
            kept = score.runs[np.isfinite(score.runs)]
            scaled[label].append(statistics.normalize(kept, low[task], high))
    return scaled


def _paper(label: str) -> float | None:
    """The paper's score of a setting."""
    rows = (row for group in GROUPS.values() for row in group.settings)
    return next(score for name, _, score in rows if name == label)


def _mean(runs: Any) -> float:
    kept = runs[np.isfinite(runs)]
    return float(kept.mean()) if len(kept) else -np.inf


# The table


def execute(
    all_jobs: Sequence[Job],
    out: str | os.PathLike[str],
    *,
    progress: bool = True,
    saving: "runner.Saving | None" = None,
) -> dict[str, Any]:
    """Train what is not complete, and write the table, its page and the curves of every task.

    Returns:
        What `table1.json` holds.

    Raises:
        ValueError: if the directory holds runs of other settings.
        Interrupted: after SIGINT or SIGTERM, once the state is saved; the same call goes on.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with locks.hold(out):
        for job in all_jobs:
            check_same(job)
        runs: Runs = {}
        for job in all_jobs:
            dataset = _run(job, progress, saving)
            runs.setdefault(job.task, {})[job.group] = by_setting(job.group, dataset)
        references = {job.task: read_references(job) for job in all_jobs}
        found = table(runs, references)
        results.write_json(out / TABLE, found)
        results.write_text(out / PAGE, page(found))
        for task, families in runs.items():
            table1_plots.save_curves(task, families, found["zero"][task], out)
    return found


def _run(job: Job, progress: bool, saving: "runner.Saving | None") -> "xr.Dataset":
    read_references(job)
    if is_complete(job):
        return results.load(job.directory)
    is_begun = (job.directory / files.CONFIG).exists()
    experiment = (
        runner.prepare_resume(job.directory)
        if is_begun
        else runner.prepare(job.config, job.directory)
    )
    return runner.execute(experiment, progress=progress, saving=saving)


def table(runs: "Runs", baseline: Mapping[str, References]) -> dict[str, Any]:
    """Return scores, normalised scores with intervals, and what 0 and 1 stand for.

    Args:
        runs: by task, group and label.
        baseline: by task, see `references`.
    """
    found = {
        task: {label: score(part) for parts in families.values() for label, part in parts.items()}
        for task, families in runs.items()
    }
    low = {task: float(np.mean(of_task["random"])) for task, of_task in baseline.items()}
    rows = []
    for label, scaled in normalized(found, low).items():
        kept = [x for x in scaled if len(x)]
        aggregates = {
            name: statistics.aggregate(kept, statistics.AGGREGATES[name]) if kept else None
            for name in ("mean", "iqm")
        }
        rows.append(
            {
                "setting": label,
                "paper": _paper(label),
                **{name: _plain(estimate) for name, estimate in aggregates.items()},
                "tasks": {task: _on_task(of_task[label]) for task, of_task in found.items()},
            }
        )
    return {
        "zero": low,
        "one": {task: best(of_task) for task, of_task in found.items()},
        "references": {
            task: {kind: results.over_seeds(np.array(x)) for kind, x in of_task.items()}
            for task, of_task in baseline.items()
        },
        "rows": rows,
        "steps": {task: _steps(families) for task, families in runs.items()},
        "versions": results.versions(),
    }


def _steps(families: Mapping[str, Mapping[str, "xr.Dataset"]]) -> int:
    """Steps of the longest run: others may round down to whole updates of another size."""
    return max(int(p["step"][-1]) for parts in families.values() for p in parts.values())


def _on_task(score: Score) -> dict[str, Any]:
    kept = score.runs[np.isfinite(score.runs)]
    return {
        "scores": [results.number(x) for x in score.runs],
        "num_diverged": score.num_diverged,
        **results.over_seeds(kept),
    }


def _plain(estimate: statistics.Estimate | None) -> dict[str, float | None]:
    values = (np.nan,) * 3 if estimate is None else estimate
    return dict(zip(("value", "low", "high"), map(results.number, values), strict=True))


def cells(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the table's rows as text: normalised scores beside the paper's, and the tasks'."""
    lines = []
    for row in found["rows"]:
        line = {
            "setting": row["setting"],
            "paper": _text(row["paper"], ".2f"),
            "mean": _interval(".2f", *row["mean"].values()),
            "IQM": _interval(".2f", *row["iqm"].values()),
        }
        for task, on_task in row["tasks"].items():
            form = ".1f" if abs(found["one"][task]) < 100 else ".0f"
            text = _interval(form, *(on_task[k] for k in ("iqm", "ci_low", "ci_high")))
            text += f", {on_task['num_diverged']} diverged" * bool(on_task["num_diverged"])
            line[task] = text
        lines.append(line)
    return lines


def page(found: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with what its numbers are."""
    lines = cells(found)
    header = list(lines[0])
    rows = [header, ["---"] * len(header), *([line[k] for k in header] for line in lines)]
    steps = ", ".join(f"{task} {n:,}" for task, n in found["steps"].items())
    scale = ", ".join(
        f"{task} {found['zero'][task]:.1f} and {found['one'][task]:.1f}" for task in found["zero"]
    )
    return "\n".join(
        ["| " + " | ".join(row) + " |" for row in rows]
        + [
            "",
            f"A run's score is the mean return of its last {SCORED_EPISODES} episodes. mean, IQM: "
            "over all runs on all tasks, scaled by the task so that the uniformly random policy is "
            "0 and the best setting of PPO (by its mean over seeds) is 1; tasks: IQM of the scores "
            "over seeds. In brackets 95 % bootstrap intervals over seeds.",
            "",
            f"Steps of each run: {steps}. 0 and 1 stand for: {scale}.",
            "",
        ]
    )


def _interval(form: str, value: float | None, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" ({low:{form}} … {high:{form}})"
    return _text(value, form) + ends


def _text(x: float | None, form: str) -> str:
    return "–" if x is None else f"{x:{form}}"
