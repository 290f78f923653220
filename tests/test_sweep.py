"""Sweeps: named axes as lanes of one program; a lane is the single run of its point to the bit."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr
from breaking import run_until

import purejax_po as po
from purejax_po import cli
from purejax_po.experiment.config import ExperimentConfig, sweep
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import plan, program
from purejax_po.experiment.run import study as driver
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.metrics import Log, Moments

AXES = {"learning_rate": (1e-4, 1e-2), "env_params.gravity": (9.8, 12.0)}
POINTS = [
    {"learning_rate": 1e-4, "gravity": 9.8},
    {"learning_rate": 1e-4, "gravity": 12.0},
    {"learning_rate": 1e-2, "gravity": 9.8},
    {"learning_rate": 1e-2, "gravity": 12.0},
]


def config(**changes):
    """Four points × three seeds, two lanes on each device: blocks end within a point."""
    return tiny.experiment(**{"num_seeds": 3, "first_seed": 5, "sweep": AXES, **changes})


@pytest.fixture(scope="module")
def swept(compile_quickly, no_pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "run"
    return po.run(config(), out, progress=False), out


pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


# What a sweep is, without training


def test_lanes_go_point_by_point_and_seed_by_seed():
    assert sweep.axes(config()) == {"learning_rate": [1e-4, 1e-2], "gravity": [9.8, 12.0]}
    assert sweep.points(config()) == POINTS
    assert sweep.columns(config(), [0, 2, 3, 11]) == {
        "seeds": [5, 7, 5, 7],
        "learning_rate": [1e-4, 1e-4, 1e-4, 1e-2],
        "gravity": [9.8, 9.8, 12.0, 12.0],
    }
    assert sweep.names(config(), [4]) == ["learning_rate=0.0001,gravity=12.0/seed-6"]
    assert sweep.names(config(sweep={}), [1]) == ["seed-6"]
    assert sweep.describe(config(), 11) == "seed 7 at learning_rate = 0.01, gravity = 12"
    assert sweep.describe(config(sweep={}), 2) == "seed 7"


def test_lanes_hold_the_values_that_single_runs_have():
    whole = config(sweep={**AXES, "env_params.max_steps_in_episode": (50,)})
    blocks, of_sweep = plan.Plan(whole, 3, "cpu"), build_trainer(whole)
    assert blocks.lanes(0, of_sweep).env_params.max_steps_in_episode.dtype == np.int32
    for number, point in enumerate(POINTS):
        single = whole.at(
            {
                "learning_rate": point["learning_rate"],
                "env_params.gravity": point["gravity"],
                "env_params.max_steps_in_episode": 50,
            }
        )
        assert single.sweep == {}
        trainer = build_trainer(single)
        expected = plan.repeat([5, 6, 7], trainer.algorithm.hyperparams, trainer.env_params)
        made = blocks.lanes(number, of_sweep)
        for x, y in zip(*map(jax.tree.leaves, (made, expected)), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_a_number_in_place_of_values_gets_one_line():
    with pytest.raises(ValueError, match=r"sweep\.learning_rate must hold at least one"):
        tiny.experiment(sweep={"learning_rate": 0.001}).check()


@pytest.mark.parametrize("zero", [0, np.int64(0)])
def test_a_whole_number_leaves_the_swept_values_as_they_are(zero):
    given = tiny.ALGORITHMS["ppo"]
    given = dataclasses.replace(given, hyperparams=given.hyperparams.replace(entropy_coef=zero))
    whole = tiny.experiment(algorithm=given, num_seeds=1, sweep={"entropy_coef": (0.0, 0.01, 0.02)})
    lanes = plan.make_lanes(whole, np.arange(3), build_trainer(whole))
    expected = np.float32([0.0, 0.01, 0.02])
    np.testing.assert_array_equal(lanes.hyperparams.entropy_coef, expected)


def test_an_axis_is_called_by_its_own_name_unless_that_is_taken():
    assert sweep.label(config(), "env_params.gravity") == "gravity"
    assert sweep.label(config(), "env_params.discount") == "env_params_discount"
    assert sweep.label(config(), "env_params.seed") == "env_params_seed"
    assert sweep.label(config(), "discount") == "discount"


def test_assignments_of_the_command_line():
    found = sweep.parse(["learning-rate=1e-4,3e-4", "env_params.gravity=9.8", "hyperparams.x=1"])
    assert found == {"learning_rate": (1e-4, 3e-4), "env_params.gravity": (9.8,), "x": (1.0,)}
    assert sweep.parse_point(["gravity=9.8"]) == {"gravity": 9.8}


def test_a_configuration_with_a_sweep_survives_json():
    original = config(sweep={"learning_rate": np.array([1e-4, 1e-2]), "discount": [0.9]})
    again = ExperimentConfig.from_dict(json.loads(json.dumps(original.to_dict())))
    assert again.sweep == {"learning_rate": (1e-4, 1e-2), "discount": (0.9,)}
    assert again.identity() == original.identity()


MISTAKES = {
    "nothing": ([], "set must be given at least once"),
    "static": (
        ["num_epochs=1,2"],
        "sweep must be over traced numbers, got 'num_epochs', which shapes the program; traced are "
        "learning_rate, learning_rate_decay, discount, ",
    ),
    "static of the network": (["network.hidden=1,2"], "got 'network.hidden', which shapes the"),
    "static of the experiment": (["num_seeds=1,2"], "got 'num_seeds', which shapes the program"),
    "a typo": (["learning_rat=1"], "got 'learning_rat'; did you mean learning_rate?"),
    "a typo in env_params": (["env_params.gravty=1"], "did you mean env_params.gravity?"),
    "no values": (["clip_eps="], "set must be NAME=VALUE,VALUE,… with numbers, got 'clip_eps='"),
    "no name": (["0.1"], "set must be NAME=VALUE,VALUE,… with numbers, got '0.1'"),
    "words": (["clip_eps=small"], "with numbers, got 'clip_eps=small'"),
    "twice": (["clip_eps=0.1", "clip-eps=0.2"], "set must give each name once, got clip_eps twice"),
    "equal values": (["clip_eps=0.1,0.10"], "sweep.clip_eps must hold each value once"),
    "range": (
        ["learning_rate=1e-4,-1"],
        "hyperparams.learning_rate must be a finite number > 0, got -1.0",
    ),
    "not finite": (
        ["discount=0.9,nan"],
        "hyperparams.discount must be a number in [0, 1], got nan",
    ),
    "whole numbers": (
        ["env_params.max_steps_in_episode=10,10.5"],
        "env_params.max_steps_in_episode must be a whole number, got 10.5",
    ),
    "time limit": (
        ["env_params.max_steps_in_episode=0"],
        "env_params.max_steps_in_episode must be a finite number ≥ 1, got 0.0",
    ),
}


def test_a_mistake_gets_one_line(subtests, capsys, tmp_path, monkeypatch):
    for name in MISTAKES:
        with subtests.test(name):
            monkeypatch.chdir(tmp_path)
            assignments, expected = MISTAKES[name]
            flags = [flag for assignment in assignments for flag in ("--set", assignment)]
            assert cli.main(["sweep", "ppo", *flags]) == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1
            assert errors.startswith("purejax-po: error: ")
            assert expected in errors
            assert not list(tmp_path.iterdir())


def test_wrong_values_from_python(subtests):
    for axes, message in [
        ("learning_rate", "sweep must be values by name, got 'learning_rate'"),
        ({"learning_rate": 1e-3}, "sweep.learning_rate must hold at least one value, got 0.001"),
        ({"learning_rate": ()}, "sweep.learning_rate must hold at least one value"),
        ({"learning_rate": ("x",)}, "hyperparams.learning_rate must be a finite number > 0, got"),
        ({"discount": np.linspace(0, 1, 1000), "gae_lambda": np.linspace(0, 1, 1000)}, "at most"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            po.run(config(sweep=axes), progress=False)


# Trained


@pytest.mark.parametrize("number", [0, 3])
def test_a_point_is_the_single_run_to_the_bit(swept, number):
    dataset, _ = swept
    point = POINTS[number]
    values = {
        "learning_rate": point["learning_rate"],
        "env_params.gravity": point["gravity"],
    }
    single = po.run(config().at(values), progress=False)
    part = dataset.sel(point)
    for name in single:
        assert part[name].values.tobytes() == single[name].values.tobytes(), name
    assert results.at(part) == point
    assert po.summarize(part)["final_return"] == po.summarize(single)["final_return"]


def test_points_differ(swept):
    dataset, _ = swept
    curves = dataset["entropy"].values.reshape(4, -1)
    assert len(np.unique(curves, axis=0)) == 4


def test_a_sweep_of_240_lanes_is_traced_once(monkeypatch):
    program._compiled.clear()  # another test may have compiled it
    traces, programs = [], []
    original = program.run_window, program.compile_program

    def run_window(*arguments):
        traces.append(1)
        return original[0](*arguments)

    def compile_program(*arguments):
        programs.append(1)
        return original[1](*arguments)

    monkeypatch.setattr(program, "run_window", run_window)
    monkeypatch.setattr(program, "compile_program", compile_program)
    axes = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "clip_eps": (0.1, 0.2, 0.3)}
    dataset = po.run(config(num_seeds=16, sweep=axes, lanes_per_device=None), progress=False)
    assert len(traces) == len(programs) == 1
    assert dict(dataset["final_return"].sizes) == {"learning_rate": 5, "clip_eps": 3, "seed": 16}


def test_a_directory_of_a_sweep(swept):
    dataset, out = swept
    assert dataset["episode_return"].dims == ("learning_rate", "gravity", "seed", "update")
    xr.testing.assert_identical(po.load_results(out), dataset)
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    assert [entry["point"] for entry in summary["points"]] == POINTS
    iqms = [entry["final_return"]["iqm"] for entry in summary["points"]]
    best = int(np.argmax(iqms))
    assert summary["best"] == POINTS[best]
    assert summary["final_return"] == summary["points"][best]["final_return"]
    assert summary["num_seeds"] == 3
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    named = {
        lane
        for x in lines
        for lane in zip(x["seeds"], x["learning_rate"], x["gravity"], strict=True)
    }
    assert named == {(seed, *point.values()) for seed in (5, 6, 7) for point in POINTS}
    assert len(lines) == 6 * 10
    assert dataset.to_dataframe().index.names == ["learning_rate", "gravity", "seed", "update"]


def test_policies_of_a_point(swept):
    dataset, out = swept
    best = po.summarize(dataset)["best"]
    obs = jnp.ones((2, 4))
    actions = po.load_policy(out, seed=6, point=best)(obs)
    assert actions.shape == (2,)
    evaluation = po.evaluate_run(out, num_episodes=2, point=best)
    assert dict(evaluation.sizes) == {"seed": 3, "episode": 2}
    for point, message in [
        (None, "point must give learning_rate, gravity; got none"),
        ({"gravity": 9.8}, "point must give learning_rate, gravity; got gravity = 9.8"),
        ({**best, "gravity": 1}, "point gravity must be one of 9.8, 12, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            po.load_policy(out, seed=6, point=point)


def test_policies_are_those_of_the_single_run(swept, tmp_path):
    _, out = swept
    values = {"learning_rate": 1e-2, "env_params.gravity": 12.0}
    po.run(config().at(values), tmp_path / "run", progress=False)
    for point in (values, POINTS[3]):
        found = [
            po.experiment.policies.load_policies(path, p).params
            for path, p in ((out, point), (tmp_path / "run", None))
        ]
        for x, y in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="point must give nothing, for this run is no sweep"):
        po.load_policy(tmp_path / "run", seed=5, point=POINTS[0])


@pytest.mark.parametrize("number", [4, 40])
def test_a_broken_off_sweep_ends_in_the_same_bits(swept, tmp_path, number):
    _, expected = swept
    out = tmp_path / "run"
    run_until(out, number, config())
    po.resume(out, progress=False, checkpoint_every=0.0)
    assert (out / "results.nc").read_bytes() == (expected / "results.nc").read_bytes()
    logs = [sorted((path / "log.jsonl").read_text().splitlines()) for path in (out, expected)]
    assert logs[0] == logs[1]


def test_a_point_that_diverges_is_named_and_leaves_the_others_alone(swept):
    dataset, _ = swept
    axes = {"learning_rate": (1e-4, 1e38), "env_params.gravity": (9.8, 12.0)}
    wild = po.run(config(sweep=axes), progress=False)
    kept = {"learning_rate": 1e-4}
    for name in dataset:
        assert wild[name].sel(kept).values.tobytes() == dataset[name].sel(kept).values.tobytes()
    summary = po.summarize(wild)
    assert len(summary["diverged_seeds"]) == 6
    first = summary["diverged_seeds"][0]
    assert first == {"learning_rate": 1e38, "gravity": 9.8, "seed": 5, "update": first["update"]}
    assert [entry["num_diverged"] for entry in summary["points"]] == [0, 0, 3, 3]
    assert summary["best"]["learning_rate"] == 1e-4
    with pytest.raises(po.StoppedError, match=r"seed 5 at learning_rate = 1e\+38, gravity = 9.8 d"):
        po.run(config(sweep=axes), progress=False, stop_on_divergence=True)


def test_a_swept_name_that_is_a_diagnostic_too():
    axes = {"kl_coef": (0.5, 1.0)}
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], surrogate="adaptive_kl")
    dataset = po.run(config(algorithm=algorithm, sweep=axes), progress=False)
    assert dataset["kl_coef"].dims == ("kl_coef",)
    assert dataset["kl_coef_in_use"].dims == ("kl_coef", "seed", "update")


# What is made of the results


def test_a_report_on_a_sweep(swept, tmp_path, capsys):
    _, out = swept
    assert cli.main(["report", str(out), "--out", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate" in shown
    assert "best" in shown
    names = {"sweep.png", "sensitivity.png", "learning_curve.png", "diagnostics.png"}
    assert {p.name for p in (tmp_path / "report").iterdir()} == {*names, "report.html"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<img") == 4
    assert "http" not in re.sub('data:[^"]*', "", page)  # nothing is loaded from elsewhere


def test_a_sweep_is_not_joined_with_other_runs(swept, tmp_path):
    _, out = swept
    other = po.run(config(name="trpo", sweep={}), tmp_path / "trpo", progress=False)
    assert other.sizes["seed"] == 3
    with pytest.raises(ValueError, match="must be at one point, got a sweep over learning_rate, g"):
        po.load_runs([out, tmp_path / "trpo"])
    assert po.load_runs(out)["final_return"].dims == ("learning_rate", "gravity", "seed")


def test_overwriting_removes_the_picture_of_a_sweep(swept, tmp_path):
    _, expected = swept
    out = tmp_path / "run"
    shutil.copytree(expected, out)
    po.run(config(sweep={}), out, overwrite=True, progress=False)
    assert not (out / "sweep.png").exists()


def test_loggers_know_a_lane_by_point_and_seed(tmp_path, monkeypatch):
    seen = set()

    class Logger:
        def on_window(self, plan, labels, window):
            seen.update(labels.names)

        def close(self):
            pass

    monkeypatch.setattr(driver.loggers, "check", lambda *_: None)
    monkeypatch.setattr(driver.loggers, "open_all", lambda *_: [Logger()])
    po.run(config(), tmp_path / "run", progress=False, log_to=["any"])
    assert len(seen) == 12
    assert "learning_rate=0.01,gravity=9.8/seed-7" in seen


# Results and pictures of sweeps that never took place


def made_up(sizes, seeds=6):
    """Final returns that grow along every axis, and curves that rise to them."""
    rng = np.random.default_rng(0)
    axes = {name: (10.0 ** np.arange(-4, size - 4)).tolist() for name, size in sizes.items()}
    shape = (*sizes.values(), seeds, 10)
    level = sum(np.indices(shape)[: len(sizes)]) + rng.random(shape)
    log = Log(*[Moments(np.ones(shape), x, 0 * level) for x in (
        {"kl": level, "discount": level}, level, level
    )])  # fmt: skip
    log = jax.tree.map(lambda x: x.reshape(-1, 10), log)
    dataset = results.to_dataset(
        log, seeds=range(seeds), updates=range(1, 11), steps_per_update=8, axes=axes
    )
    dataset["diverged_at"] = dataset["final_return"].copy(data=np.full(shape[:-1], -1))
    return dataset.assign_attrs(
        algorithm="ppo", env="CartPole-v1", versions="{}", lanes_per_device=1, config="{}",
        compile_seconds=1.5, run_seconds=2.5, env_steps_per_second=1e5, device="2 × cpu",
    )  # fmt: skip


def test_the_best_point_has_the_highest_iqm_and_no_diverged_seed():
    dataset = made_up({"discount": 3, "gae_lambda": 2})
    assert "discount_in_use" in dataset
    top = {
        "discount": dataset["discount"].values[-1],
        "gae_lambda": dataset["gae_lambda"].values[-1],
    }
    assert results.at(results.best(dataset)) == top
    dataset["diverged_at"].loc[{**top, "seed": 2}] = 7
    assert results.at(results.best(dataset)) != top
    assert po.summarize(dataset)["diverged_seeds"] == [{**top, "seed": 2, "update": 7}]
    dataset["diverged_at"][:] = 7  # then there is no choice
    assert po.summarize(dataset)["final_return"]["iqm"] is None


@pytest.mark.parametrize(
    "sizes",
    [{"discount": 5}, {"discount": 3, "gae_lambda": 4}, {"discount": 2, "gae_lambda": 3, "x": 4}],
)
def test_pictures_of_a_sweep(sizes, tmp_path):
    from test_plots import assert_complete

    dataset = made_up(sizes)
    for ax in po.plot_axes(dataset):
        assert_complete(ax)
    po.report({"sweep": saved(dataset, tmp_path)}, tmp_path)
    assert (tmp_path / "sweep.png").exists()


def saved(dataset, tmp_path):
    path = tmp_path / "sweep.nc"
    po.save_results(dataset, path)
    return path


def test_curves_of_the_points_of_a_sweep():
    dataset = made_up({"discount": 3, "gae_lambda": 4})
    ax = po.plot(dataset.isel(gae_lambda=0))
    assert [line.get_label() for line in ax.lines] == ["0.0001", "0.001", "0.01"]
    assert "gae lambda 0.0001" in ax.get_title()
    for draw, message in [
        (po.plot, r"at most 7 points to draw a line of each, got 12; choose some: dataset\.sel\("),
        (po.plot_diagnostics, r"one point of the sweep: dataset\.sel\(discount=…, gae_lambda=…\)"),
        (po.plot_comparison, "must hold one point of the sweep"),
        (lambda d: po.plot_axes(d.isel(discount=0, gae_lambda=0)), "dataset must be a sweep"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(dataset)


def test_what_is_saved_is_loaded_again(tmp_path):
    dataset = made_up({"discount": 2, "gae_lambda": 2})
    (tmp_path / "summary.json").write_text("{}")  # of something else
    for part in (dataset, dataset.isel(discount=0), dataset.isel(discount=0, gae_lambda=1)):
        po.save_results(part, tmp_path / "part.nc")
        xr.testing.assert_identical(po.load_results(tmp_path / "part.nc"), part)
    content = (tmp_path / "part.nc").read_bytes()
    (tmp_path / "part.nc").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"results must be a results\.nc file, got .*part"):
        po.load_results(tmp_path / "part.nc")
    with pytest.raises(ValueError, match=r"path must be a \.nc file outside of a run's directory"):
        po.save_results(dataset, tmp_path / "part.txt")
    with pytest.raises(ValueError, match="path must be writable"):
        po.save_results(dataset, tmp_path / "nowhere" / "part.nc")
