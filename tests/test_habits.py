"""What a user expects without reading: second runs, interruptions, progress, summaries."""

import dataclasses
import io
import json
import os
import signal
import sys

import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po.environments import parameters
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.report import page
from purejax_po.experiment.results import statistics
from purejax_po.experiment.run import program, progress

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


def test_a_second_run_of_one_shape_compiles_nothing(monkeypatch):
    program._compiled.clear()
    compiled = []
    original = program.compile_program
    monkeypatch.setattr(program, "compile_program", lambda *x: compiled.append(1) or original(*x))
    first = po.run(tiny.experiment(), progress=False)
    other = dataclasses.replace(
        tiny.ALGORITHMS["ppo"], hyperparams=po.PPOHyperparams(learning_rate=1e-2)
    )
    po.run(tiny.experiment(algorithm=other, first_seed=7), progress=False)
    again = po.run(tiny.experiment(), progress=False)
    assert len(compiled) == 1
    assert again.attrs["compile_seconds"] < first.attrs["compile_seconds"]
    np.testing.assert_array_equal(first["episode_return"], again["episode_return"])
    po.run(tiny.experiment(env="Acrobot-v1"), progress=False)
    po.run(tiny.experiment(lanes_per_device=1), progress=False)
    assert len(compiled) == 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shaped(ExperimentConfig):
    """An experiment of one's own, on an environment that no configuration names."""

    weight: float = 0.0

    def make_env(self):
        env, params = po.make_env("CartPole-v1")
        return po.shape_reward(env, lambda state: self.weight * state.x, 0.99), params


def test_a_class_of_ones_own_shares_no_program_and_is_not_stored(tmp_path):
    fields = {
        f.name: getattr(tiny.experiment(), f.name) for f in dataclasses.fields(ExperimentConfig)
    }
    found = [
        po.run(Shaped(**fields, weight=w), progress=False)["episode_return"].values
        for w in (0.0, 1000.0)
    ]
    assert (np.nan_to_num(found[0]) != np.nan_to_num(found[1])).any()
    with pytest.raises(ValueError, match="an ExperimentConfig, got Shaped"):
        po.run(Shaped(**fields), tmp_path / "run")


def interrupt():
    """A progress that does what one Ctrl-C after a window does."""
    sent = []

    def progress(steps, episode_return):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    return progress


def test_an_interrupted_run_without_a_directory_says_that_nothing_is_saved(capfd):
    with pytest.raises(po.Interrupted, match="nothing is saved, for the run had no out") as told:
        po.run(tiny.experiment(), progress=interrupt())
    assert not told.value.is_saved
    assert "saving" not in capfd.readouterr().err


def test_an_interrupted_run_names_how_to_go_on(tmp_path, capfd):
    out = tmp_path / "run"
    with pytest.raises(po.Interrupted, match=r"to go on: purejax_po.resume\('.*run'\)") as told:
        po.run(tiny.experiment(), out, progress=interrupt())
    assert told.value.saved_to == out
    assert "\nsaving; once more to leave at once" in capfd.readouterr().err
    frames = [entry.name for entry in told.traceback]
    assert len(frames) <= 4, frames  # none of JAX's
    assert po.resume(out, progress=False).sizes["seed"] == 5


def test_an_interrupted_comparison_names_how_to_go_on(tmp_path, monkeypatch):
    """While it compiles, too: what is complete is kept."""
    original = program.compile_program

    def compile_program(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    program._compiled.clear()
    monkeypatch.setattr(program, "compile_program", compile_program)
    with pytest.raises(po.Interrupted, match=r"to go on: purejax_po.resume_compare\("):
        po.compare({"tiny": tiny.ALGORITHMS["a2c"]}, num_seeds=1, total_steps=320, out=tmp_path)


def test_progress_in_a_file_is_a_plain_line_for_each_tenth(monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    with progress.progress_bar(tiny.experiment(), title="2 of 3: ") as advance:
        advance(0, float("nan"))
        for _ in range(100):
            advance(16, 3.0)
    lines = told.getvalue().splitlines()
    assert lines[0] == "2 of 3: ppo on CartPole-v1, 5 seeds: compiling"
    assert len(lines) == 11
    assert all(line.startswith("2 of 3: ppo on CartPole-v1, 5 seeds: ") for line in lines)
    assert lines[-1].endswith("return 3.0")
    assert not {"\x1b", "\r"} & set(told.getvalue())


def test_the_return_shown_is_that_of_all_seeds_so_far():
    shown = []
    po.run(tiny.experiment(), num_devices=1, progress=lambda steps, value: shown.append(value))
    dataset = po.run(tiny.experiment(), progress=False)
    last = dataset.isel(update=-1)
    count = last["num_episodes"].values
    mean = np.nan_to_num(last["episode_return"].values)
    assert shown[-1] == pytest.approx(float((count * mean).sum() / count.sum()), rel=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renamed(po.PPOConfig):
    name = "mine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Same(po.PPOConfig):
    """The same name, and other networks."""

    def make_networks(self, env, env_params):
        return po.mlp_actor_critic(env, env_params, hidden=(2,))


def own(cls):
    """A small configuration of a class of one's own."""
    small = tiny.ALGORITHMS["ppo"]
    return cls(**{f.name: getattr(small, f.name) for f in dataclasses.fields(small)})


@pytest.mark.parametrize("cls", [Renamed, Same])
def test_a_class_that_can_be_imported_is_stored_by_its_name(cls, tmp_path):
    config = tiny.experiment(algorithm=own(cls))
    po.run(config, tmp_path / "run", progress=False)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["algorithm"]["name"] == f"test_habits:{cls.__name__}"
    assert po.load_policy(tmp_path / "run", seed=3)(np.zeros(4)) in (0, 1)


@pytest.mark.parametrize("module", ["__main__", None])
def test_a_class_that_no_other_process_finds_is_not_stored(module, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Local(po.PPOConfig):
        name = "mine"

    if module:
        Local.__module__, Local.__qualname__ = module, "Local"
    config = tiny.experiment(algorithm=own(Local))
    with pytest.raises(ValueError, match="of what can be imported, got Local, which could"):
        po.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert po.run(config, progress=False).sizes["seed"] == 5


def test_a_keyword_in_the_wrong_place_is_told_its_place(subtests):
    for make, told in [
        (lambda: po.run("ppo"), "config must be an ExperimentConfig, such as"),
        (lambda: po.PPOConfig(learning_rate=3.0), r"PPOConfig\(hyperparams=PPOHyperparams\(learn"),
        (lambda: po.PPOConfig(hidden=(3,)), r"PPOConfig\(network=NetworkConfig\(hidden=…\)\)"),
        (lambda: ExperimentConfig(seeds=3), "has no field seeds; did you mean num_seeds?"),
        (lambda: ExperimentConfig(num_epochs=3), r"ExperimentConfig\(algorithm=PPOConfig\(num_ep"),
        (lambda: po.NetworkConfig(width=3), "NetworkConfig has no field width"),
    ]:
        with subtests.test(told), pytest.raises(ValueError, match=told):
            make()


def test_derived_parameters_follow():
    config = ExperimentConfig(env_params={"masscart": 3.0})
    assert config.make_env()[1].total_mass == pytest.approx(3.1)
    both = ExperimentConfig(env_params={"masspole": 1.0, "total_mass": 9.0}).make_env()[1]
    assert (both.total_mass, both.polemass_length) == (9.0, 0.5)
    assert parameters.follow("Pendulum-v1", both, {"m"}) is both


def test_a_sweep_over_a_field_that_others_follow_has_an_effect():
    swept = po.run(tiny.experiment(sweep={"env_params.masscart": (0.1, 100.0)}), progress=False)
    assert (swept["final_return"][0] != swept["final_return"][1]).any()


def test_several_runs_are_summarized(tmp_path):
    names = {"a": tiny.ALGORITHMS["a2c"], "b": tiny.ALGORITHMS["ppo"]}
    both = po.compare(names, num_seeds=2, total_steps=640, out=tmp_path, progress=False)
    found = po.summarize(both)["runs"]
    assert [run["algorithm"] for run in found] == ["a", "b"]
    loaded = po.summarize(po.load_runs(tmp_path))["runs"]
    assert [run["final_return"] for run in loaded] == [run["final_return"] for run in found]


def test_a_report_has_labels_and_formats(tmp_path):
    for seed in (0, 10):
        po.run(tiny.experiment(first_seed=seed), tmp_path / str(seed), progress=False)
    paths = page.labelled([f"old={tmp_path / '0'}", f"new[1]={tmp_path / '10'}"])
    _, path = po.report(paths, tmp_path / "report", formats=("svg", "csv", "tex"))
    names = {p.name for p in path.parent.iterdir()}
    assert {"report.html", "table.csv", "table.tex", "learning_curves.svg"} <= names
    table = (path.parent / "table.csv").read_text().splitlines()
    assert "ci_low,ci_high" in table[0]
    assert any("old" in line for line in table)
    assert all(line.count(",") == table[0].count(",") and '"' not in line for line in table)
    assert r"95 \% CI" in (path.parent / "table.tex").read_text()
    with pytest.raises(ValueError, match="each label must be given once"):
        page.labelled(["a=x", "a=y"])


def test_an_interval_depends_on_the_statistic_and_not_on_its_function():
    x = np.random.default_rng(0).normal(size=9)
    named = statistics.bootstrap_interval(x, statistics.mean)
    own = statistics.bootstrap_interval(x, lambda v, axis: np.sum(v, axis) / v.shape[axis])
    np.testing.assert_allclose(named, own)
    assert statistics.is_mean(statistics.optimality_gap)
    assert not statistics.is_mean(statistics.iqm)
    assert not statistics.is_mean(statistics.median)


def test_statistics_say_which_shape_they_got():
    x = [1.0, 2.0, 3.0, 4.0]
    assert statistics.aggregate(x).value == statistics.aggregate([x]).value
    assert statistics.probability_of_improvement(x, x).value == 0.5
    with pytest.raises(ValueError, match="got tasks of 2, 1 seeds; for several tasks"):
        statistics.bootstrap_interval([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match=r"got arrays \[1, 1\]"):
        statistics.aggregate([[[1.0]]])
