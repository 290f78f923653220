"""Table 1: the paper's settings, scores by hand, and a whole table on a tiny task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import purejax_po as po
from purejax_po import cli, surrogates
from purejax_po.studies import ppo_table1 as table1
from purejax_po.studies.ppo_table1 import protocol, scores

PAPER = {
    "no clipping or penalty": -0.39,
    "clipping, ε = 0.1": 0.76,
    "clipping, ε = 0.2": 0.82,
    "clipping, ε = 0.3": 0.70,
    "adaptive KL, target 0.003": 0.68,
    "adaptive KL, target 0.01": 0.74,
    "adaptive KL, target 0.03": 0.71,
    "fixed KL, β = 0.3": 0.62,
    "fixed KL, β = 1": 0.71,
    "fixed KL, β = 3": 0.72,
    "fixed KL, β = 10": 0.69,
}


def test_the_settings_are_the_papers_eleven():
    of_ppo = [group for group in protocol.GROUPS.values() if group.algorithm == "ppo"]
    found = {label: paper for group in of_ppo for label, _, paper in group.settings}
    assert found == PAPER
    for label, value in ((s[0], s[1]) for group in of_ppo for s in group.settings):
        number = label.rpartition(" ")[2]
        assert value == (float(number) if number != "penalty" else protocol.NO_CLIP)
    for group in of_ppo:
        config = protocol.make_config("hopper", group, table1.Settings())
        assert (config.total_steps, config.num_updates, config.log_every) == (1_000_000, 488, 1)
        algorithm = config.algorithm
        assert (algorithm.num_envs, algorithm.num_steps, algorithm.num_epochs) == (1, 2048, 10)
        assert algorithm.num_envs * algorithm.num_steps // algorithm.num_minibatches == 64
        floats = algorithm.hyperparams
        assert (floats.learning_rate, floats.learning_rate_decay) == (3e-4, 0.0)
        assert (floats.discount, floats.gae_lambda) == (0.99, 0.95)
        assert (floats.entropy_coef, floats.kl_coef) == (0.0, 1.0)
        assert algorithm.network.hidden == (64, 64)
        assert config.normalize_observations


def test_every_group_makes_a_valid_experiment_on_every_task():
    everything = ("ppo", "npg", "trpo", "a2c", "reinforce")
    settings = table1.Settings(algorithms=everything, num_envs=4, scale=0.1)
    found = table1.jobs(settings, "nowhere")
    assert len(found) == 7 * 7
    assert sum(len(protocol.GROUPS[j.group].settings) for j in found) == 7 * (11 + 4)
    for job in found:
        per_update = job.config.algorithm.num_envs * job.config.algorithm.num_steps
        assert per_update == 64 if job.group == "a2c" else 2000 <= per_update <= 2048


def test_algorithms_may_be_programs_of_ppo():
    settings = table1.Settings(tasks=("hopper",), algorithms=("clip", "trpo"))
    assert [job.group for job in table1.jobs(settings, "nowhere")] == ["clip", "trpo"]
    some = dataclasses.replace(settings, algorithms=("clip=0.2", "clip=none"))
    (job,) = table1.jobs(some, "nowhere")
    assert (job.group, job.config.sweep) == ("clip", {"clip_eps": (protocol.NO_CLIP, 0.2)})


def test_unclipped_is_clip_with_an_epsilon_beyond_every_ratio():
    log_ratio, advantage = 5.0 * jax.random.normal(jax.random.key(0), (2, 1000))

    def mean(objective):
        return jax.value_and_grad(lambda x: objective(jnp.exp(x), advantage).mean())(log_ratio)

    clipped = mean(lambda ratio, a: surrogates.clip(ratio, a, protocol.NO_CLIP))
    jax.tree.map(np.testing.assert_array_equal, clipped, mean(surrogates.unclipped))


def dataset(count, returns, **more):
    dims = ("seed", "update")
    variables = {"num_episodes": (dims, count), "episode_return": (dims, returns)}
    return xr.Dataset({**variables, **more})


def test_the_score_is_the_mean_of_the_last_hundred_episodes():
    nan = np.nan
    count = [[90, 0, 60, 50], [0, 3, 0, 1], [0, 0, 0, 0], [0, 0, 200, 0]]
    returns = [[9.0, nan, 1.0, 4.0], [nan, 2.0, nan, 6.0], [nan] * 4, [nan, nan, 7.0, nan]]
    found = scores.last_episodes(dataset(count, returns))
    np.testing.assert_allclose(found, [(50 * 4 + 50 * 1) / 100, (3 * 2 + 6) / 4, nan, 7.0])


def test_random_is_0_and_the_best_setting_of_ppo_is_1():
    score = scores.Score
    found = {
        "reacher": {
            "clipping, ε = 0.2": score(np.array([-5.0, -7.0]), 0),
            "fixed KL, β = 1": score(np.array([-26.0, np.nan]), 1),
            "TRPO": score(np.array([-1.0, -1.0]), 0),
        }
    }
    assert scores.best(found["reacher"]) == -6.0
    scaled = scores.normalized(found, {"reacher": -46.0})
    np.testing.assert_allclose(scaled["clipping, ε = 0.2"][0], [41 / 40, 39 / 40])
    np.testing.assert_allclose(scaled["fixed KL, β = 1"][0], [0.5])
    np.testing.assert_allclose(scaled["TRPO"][0], [45 / 40] * 2)


@pytest.mark.parametrize("low", [-5.0, 0.0])
def test_a_task_on_which_nothing_beats_random_has_no_scale(low):
    found = {"reacher": {"clipping, ε = 0.2": scores.Score(np.array([-5.0, -7.0, np.nan]), 0)}}
    scaled = scores.normalized(found, {"reacher": low})
    assert [len(x) for x in scaled["clipping, ε = 0.2"]] == [0]


def test_a_mistake_is_one_line_and_exit_code_2(subtests, capsys, tmp_path):
    for flags, words in [
        (["--tasks", "hoper"], ["tasks must be one of", "'hoper'", "did you mean hopper"]),
        (["--tasks", "hopper", "hopper"], ["tasks must be given once each"]),
        (["--log-to", "nowhere"], ["log_to must be one of", "'nowhere'"]),
        (["--algorithms", "clip=0.25"], ["algorithms must be", "'clip=0.25'", "clip=0.2?"]),
        (["--algorithms", "grpo"], ["algorithms must be one of ppo, clip, adaptive_kl", "'grpo'"]),
        (["--scale", "0"], ["scale must be", "got 0"]),
        (["--scale", "0.001"], ["total_steps must be at least one update", "2048", "1000"]),
        (["--num-envs", "3"], ["num_envs must divide the horizon 2048, got 3"]),
        (["--seeds", "0"], ["num_seeds must be", "got 0"]),
    ]:
        with subtests.test(str(flags)):
            assert cli.main(["table1", *flags, "--out", str(tmp_path / "out")]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert all(word in line for word in words), line
            assert not (tmp_path / "out").exists()


def test_a_run_that_stops_is_one_line(monkeypatch, tmp_path, capsys):
    def stop(*arguments, **options):
        raise po.StoppedError("out of memory with 1 lane")

    monkeypatch.setattr(table1, "probed", lambda jobs, host: {})
    monkeypatch.setattr(table1, "plan", lambda jobs, _: [table1.Cost(jobs[0], 0, 0.0)])
    monkeypatch.setattr(table1, "execute", stop)
    flags = ["--tasks", "hopper", "--no-compilation-cache", "--out", str(tmp_path / "out")]
    assert cli.main(["table1", *flags]) == 1
    assert "error: out of memory with 1 lane" in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch):
    """One update of 64 steps on a task that needs no extra."""
    monkeypatch.setattr(protocol, "TASKS", {"pendulum": protocol.Task("Pendulum-v1", 16)})
    monkeypatch.setattr(protocol, "HORIZON", 64)
    monkeypatch.setattr(protocol, "PPO", {**protocol.PPO, "num_minibatches": 1, "num_epochs": 1})
    monkeypatch.setattr(scores, "REFERENCE_POLICIES", 2)
    monkeypatch.setattr(protocol, "GROUPS", {k: protocol.GROUPS[k] for k in ("clip", "trpo")})


def test_a_table_is_planned_run_and_not_repeated(
    tiny, tmp_path, capsys, compile_quickly, no_pictures
):
    flags = ["--tasks", "pendulum", "--algorithms", "ppo", "trpo", "--scale", "64e-6"]
    command = ["table1", *flags, "--seeds", "2", "--out", str(tmp_path)]
    assert cli.main([*command, "--plan"]) == 0
    plan = capsys.readouterr().out
    assert all(word in plan for word in ("clip", "trpo", "512", "128", "640", "min"))
    assert not list(tmp_path.iterdir())

    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("clipping, ε = 0.2", "0.82", "TRPO", "–"))
    page = (tmp_path / "table1.md").read_text()
    assert "| clipping, ε = 0.2 | 0.82 |" in page
    assert (tmp_path / "curves-pendulum.png").exists()
    results = tmp_path / "pendulum" / "clip" / "results.nc"
    written = results.stat().st_mtime_ns

    (tmp_path / "pendulum" / "trpo" / "summary.json").unlink()  # as if killed while writing
    assert cli.main(command) == 0
    assert "complete" in capsys.readouterr().out
    assert (tmp_path / "table1.md").read_text() == page
    assert results.stat().st_mtime_ns == written

    assert cli.main([*command[:-2], "--seeds", "3", "--out", str(tmp_path)]) == 2
    assert "num_seeds = 2 instead of 3" in capsys.readouterr().err


def test_references_are_a_uniform_and_an_untrained_policy(tiny):
    (job, _) = table1.jobs(table1.Settings(tasks=("pendulum",), algorithms=("ppo", "trpo")), "x")
    found = scores.references(job)
    assert set(found) == {"random", "untrained"}
    assert all(len(values) == 2 and max(values) < 0 for values in found.values())
    noise = jax.random.normal(jax.random.key(0), (4000, 1))
    gaussian = dataclasses.make_dataclass("G", ["x"])(None)
    gaussian.sample_from = lambda noise: noise
    uniform = scores._Mixed(gaussian, jnp.bool_(True)).sample_from(noise)
    assert abs(float(uniform.var()) - 1 / 3) < 0.02
    assert float(jnp.abs(uniform).max()) <= 1.0
    np.testing.assert_array_equal(
        scores._Mixed(gaussian, jnp.bool_(False)).sample_from(noise), noise
    )
