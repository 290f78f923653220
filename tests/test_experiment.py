"""The host layer: lanes, determinism, results, files."""

import dataclasses
import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import purejax_po as po
from purejax_po.experiment.config import ALGORITHMS, PRESETS
from purejax_po.experiment.layout import RUN_FILES
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import statistics
from purejax_po.experiment.run import devices
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.metrics import Log, Moments

pytestmark = pytest.mark.usefixtures("compile_quickly")

TINY = po.PPOConfig(
    num_envs=2,
    num_steps=16,
    num_epochs=1,
    num_minibatches=2,
    network=po.NetworkConfig(hidden=(8,)),
)
CONFIG = po.ExperimentConfig(algorithm=TINY, num_seeds=3, total_steps=640, lanes_per_device=2)


def run(num_devices=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return po.run(config, progress=False, num_devices=num_devices)


@pytest.fixture(scope="module")
def three_seeds():
    return run()


def assert_same_seeds(a, b):
    """Every variable of the seeds that both have is equal to the bit."""
    seeds = np.intersect1d(a["seed"], b["seed"])
    assert len(seeds) > 0
    for name in a:
        x, y = a[name].sel(seed=seeds).values, b[name].sel(seed=seeds).values
        assert x.tobytes() == y.tobytes(), name


@pytest.mark.parametrize("num_seeds", [16, 100])
def test_a_seed_does_not_depend_on_how_many_run(three_seeds, num_seeds):
    assert_same_seeds(three_seeds, run(num_seeds=num_seeds))


def test_a_seed_does_not_depend_on_the_number_of_devices(three_seeds):
    for number in (1, 2, 4):
        again = run(num_devices=number, num_seeds=8)
        assert again.attrs["device"].startswith(f"{number} ")
        assert_same_seeds(three_seeds, again)


def test_a_seed_does_not_depend_on_its_position(three_seeds):
    assert_same_seeds(three_seeds, run(first_seed=1))


def test_seeds_differ(three_seeds):
    assert len(np.unique(three_seeds["episode_return"].values, axis=0)) == 3


def test_plan(subtests):
    for num_lanes, lanes_per_device, expected in [
        (16, None, (2, 8)),
        (1, None, (1, 1)),
        (20, None, (2, 5)),
        (3, 2, (2, 2)),
        (64, None, (2, 8)),
    ]:
        with subtests.test(f"{num_lanes} {lanes_per_device}"):
            workers, width = devices.share(num_lanes, lanes_per_device, num_devices=2)
            assert (len(workers), width) == expected


def test_last_block_is_padded_with_copies():
    config = dataclasses.replace(CONFIG, num_seeds=5)
    plan, trainer = Plan(config, 4, "cpu"), build_trainer(config)
    seeds = [plan.lanes(block, trainer).seed.tolist() for block in range(plan.num_blocks)]
    assert seeds == [[0, 1, 2, 3], [4, 4, 4, 4]]
    assert [plan.num_real(block) for block in range(plan.num_blocks)] == [4, 1]


def test_dataset_has_the_promised_shape(three_seeds):
    dataset = three_seeds
    assert dict(dataset.sizes) == {"seed": 3, "update": 20}
    np.testing.assert_array_equal(dataset["step"], dataset["update"] * 32)
    assert dataset["step"].values[-1] == 640
    assert np.all(np.isfinite(dataset["entropy"]))


def log_of(means, counts):
    means, counts = np.asarray(means, float), np.asarray(counts, float)
    episodes = Moments(counts, means, np.zeros_like(means))
    return Log(Moments(np.ones_like(means), {"kl": means}, {"kl": means * 0}), episodes, episodes)


def test_final_return_is_over_episodes_of_the_last_tenth():
    means = np.arange(20.0)[None]
    counts = np.ones((1, 20))
    counts[0, 18] = 3
    updates = np.arange(1, 21)
    log = log_of(means, counts)
    dataset = results.to_dataset(log, seeds=[7], updates=updates, steps_per_update=10)
    assert dataset["final_return"].values == pytest.approx([(3 * 18 + 19) / 4])


def test_windows_without_episodes_are_unknown():
    log = log_of([[1.0, 0.0]], [[1, 0]])
    dataset = results.to_dataset(log, seeds=[0], updates=[1, 2], steps_per_update=1)
    assert np.isnan(dataset["episode_return"].values[0, 1])
    assert np.isnan(dataset["final_return"].values[0])


def test_summary_leaves_out_diverged_and_unfinished_seeds():
    log = log_of([[1.0], [2.0], [3.0]], [[1], [0], [1]])
    dataset = results.to_dataset(log, seeds=[5, 6, 7], updates=[1], steps_per_update=8)
    dataset["diverged_at"] = "seed", np.array([-1, -1, 0])
    dataset.attrs.update(
        algorithm="ppo", env="x", compile_seconds=1.0, run_seconds=1.0, env_steps_per_second=1.0,
        lanes_per_device=1, device="cpu", versions="{}",
    )  # fmt: skip
    summary = po.summarize(dataset)
    assert summary["final_return"]["mean"] == 1.0
    assert summary["final_return"]["ci_low"] is None
    assert summary["diverged_seeds"] == [{"seed": 7, "update": 0}]
    assert summary["seeds_without_final_episodes"] == [6]


def test_run_directory(tmp_path):
    out = tmp_path / "run"
    dataset = po.run(CONFIG, out, progress=False)
    assert {p.name for p in out.iterdir()} == set(RUN_FILES)
    xr.testing.assert_identical(po.load_results(out), dataset)
    summary = json.loads((out / "summary.json").read_text())
    wanted = {"algorithm", "env", "num_seeds", "total_steps", "final_return", "diverged_seeds"}
    wanted |= {"compile_seconds", "run_seconds", "env_steps_per_second", "lanes_per_device"}
    assert wanted | {"device", "versions"} <= set(summary)
    final = {"iqm", "ci_low", "ci_high", "mean", "median", "min", "max"}
    assert set(summary["final_return"]) == final
    config = json.loads((out / "config.json").read_text())
    assert config["algorithm"]["name"] == "ppo"
    assert config["algorithm"]["hyperparams"]["learning_rate"] == 2.5e-4
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for seeds in ([0, 1], [2]):
        assert [x["update"] for x in lines if x["seeds"] == seeds] == list(range(1, 21))
    assert (out / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="out must hold no run yet"):
        po.run(CONFIG, out, progress=False)
    po.run(dataclasses.replace(CONFIG, num_seeds=1), out, overwrite=True, progress=False)
    assert po.load_results(out).sizes["seed"] == 1


def test_wrong_values_from_python(subtests):
    for changes, message in [
        ({"algorithm": "ppo"}, "algorithm must be a configuration such as"),
        ({"num_seeds": True}, "num_seeds must be a whole number"),
        ({"algorithm": po.PPOConfig(hyperparams=po.TRPOHyperparams())}, "must be PPOHyperparams"),
        ({"algorithm": po.PPOConfig(network=po.NetworkConfig(hidden=64))}, "sequence of widths"),
        (
            {
                "algorithm": po.PPOConfig(
                    hyperparams=po.PPOHyperparams(learning_rate=jnp.float32(-1))
                )
            },
            "hyperparams.learning_rate must be a finite number > 0",
        ),
        (
            {"algorithm": po.TRPOConfig(normalize_advantage="off")},
            "must be True or False, got 'off'",
        ),
        ({"env_params": {"gravity": "x"}}, "env_params.gravity must be a finite number, got 'x'"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            po.run(dataclasses.replace(CONFIG, **changes), progress=False)


def test_an_unknown_hyperparameter_names_the_nearest():
    message = (
        "a field of PPOHyperparams must be one of .* got 'learning_rat'; did you mean learning_rate"
    )
    with pytest.raises(ValueError, match=message):
        po.PPOHyperparams(learning_rat=1.0)
    with pytest.raises(ValueError, match=message):
        po.PPOHyperparams().replace(learning_rat=1.0)


def test_array_scalars_are_numbers(three_seeds):
    again = po.run(
        dataclasses.replace(
            CONFIG,
            num_seeds=np.int64(3),
            algorithm=dataclasses.replace(
                TINY, hyperparams=po.PPOHyperparams(discount=jnp.float32(0.99))
            ),
        ),
        progress=False,
    )
    assert_same_seeds(three_seeds, again)


def test_pictures_leave_diverged_seeds_out(three_seeds):
    broken = three_seeds.copy(deep=True)
    broken["episode_return"][1] = np.nan
    broken["diverged_at"][1] = 0
    x = po.plot(broken).lines[0].get_xdata()
    assert len(x) > 10
    with pytest.raises(ValueError, match="variable must be one of"):
        po.plot(broken, "klx")


def test_a_copied_results_file_can_be_summarized(three_seeds, tmp_path):
    results.save(three_seeds, tmp_path / "alone.nc")
    assert po.summarize(po.load_results(tmp_path / "alone.nc"))["compile_seconds"] is None


@pytest.mark.parametrize("content", [None, b"", b"not a netCDF file"])
def test_loading_what_is_no_results_file(tmp_path, content):
    if content is not None:
        (tmp_path / "results.nc").write_bytes(content)
    with pytest.raises(ValueError, match=r"results must be a results\.nc file, got .*results\.nc"):
        po.load_results(tmp_path)


def test_env_params_reach_the_environment():
    short = run(env_params={"max_steps_in_episode": 5})
    assert np.nanmax(short["episode_length"]) <= 5


def test_iqm_is_the_mean_of_the_middle_half():
    x = np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0])
    assert statistics.iqm(x) == pytest.approx(np.mean([2.0, 3.0, 4.0, 5.0]))


def test_bootstrap_interval_agrees_with_scipy():
    x = np.random.default_rng(1).normal(size=40)
    low, high = statistics.bootstrap_interval(x, num_resamples=4000)
    expected = stats.bootstrap(
        (x,), statistics.iqm, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    np.testing.assert_allclose([low, high], expected, atol=0.06)


def test_defaults_of_configuration_and_factory_agree(subtests):
    for name in ALGORITHMS:
        with subtests.test(name):
            import inspect

            config = ALGORITHMS[name]()
            parameters = inspect.signature(type(config).factory).parameters
            for option, parameter in parameters.items():
                if parameter.kind is parameter.KEYWORD_ONLY and option != "hyperparams":
                    assert getattr(config, option) == parameter.default, option


def test_presets_are_valid(subtests):
    for name in PRESETS:
        with subtests.test(name):
            env, algorithm, total_steps = PRESETS[name]
            po.ExperimentConfig(env=env, algorithm=algorithm, total_steps=total_steps).check()


def test_a_monte_carlo_run_that_cuts_every_episode_says_so_once():
    """Pendulum-v1 goes on for 200 steps; these rollouts hold 20."""
    config = po.ExperimentConfig(
        algorithm=po.REINFORCEConfig(
            num_envs=2,
            num_steps=20,
            critic_minibatch_size=20,
            network=po.NetworkConfig(hidden=(4,)),
        ),
        env="Pendulum-v1",
        num_seeds=2,
        total_steps=800,
        num_windows=10,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = po.run(config, progress=False)
    (message,) = [str(w.message) for w in caught if "episodes" in str(w.message)]
    assert message.startswith("100% of the episodes did not end within num_steps = 20")
    assert "the time limit is 200 steps" in message
    np.testing.assert_array_equal(dataset["unfinished_episodes"], 1.0)
