"""The search for settings: trials are lanes, and the best go on; fresh seeds are never its own."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import brought
import numpy as np
import pytest
import tiny
import xarray as xr

import purejax_po as po
from purejax_po import cli
from purejax_po.experiment import tuning
from purejax_po.experiment.config import ALGORITHMS, ExperimentConfig, specs
from purejax_po.experiment.run.observers import StoppedError, Window
from purejax_po.experiment.run.pool import Loss, run_all
from purejax_po.experiment.run.signals import StopSignal, stop_signal
from purejax_po.experiment.store import run_store
from purejax_po.experiment.store.run_store import read_config
from purejax_po.experiment.tune import halving, outcome, rungs, search, shipped, trials
from purejax_po.experiment.tune import space as spaces

pytest.importorskip("optuna", reason="the extra tune")
pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

SPACE = {
    "learning_rate": "log:1e-4..1e-2",
    "discount": [0.9, 0.99],
    "normalize_observations": [False, True],
}
SETTINGS = {"trials": 8, "batch": 4, "finalists": 2, "finalist_seeds": 3, "fresh_seeds": 4}


def experiment(**changes):
    return tiny.experiment(**{"num_seeds": 2, "first_seed": 3, "total_steps": 640, **changes})


def search_in(out, **changes):
    return po.tune(experiment(), out, SPACE, progress=False, **{**SETTINGS, **changes})


def of_storage(out):
    """What Optuna's storage holds of a search: number, point, state, reports, value."""
    config = experiment()
    study = trials.Record(out / search.TRIALS, "ppo-CartPole-v1", search.read(out).identity()).study
    assert study.study_name == f"{config.algorithm.name}-{config.env_name}"
    return [
        (t.number, t.params, t.state.name, t.intermediate_values, t.value) for t in study.trials
    ]


@pytest.fixture(scope="module")
def tuned(compile_quickly, no_pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("tune") / "search"
    return search_in(out), out


# Spaces and proposals, without training


def test_dimensions_read_as_they_are_written():
    space = spaces.parse(
        {"a": "log:1e-4..0.01", "b": "0..1", "c": "4,8", "d": [True, False], "e": [[64, 64], [8]]}
    )
    assert space == {
        "a": spaces.Range(1e-4, 0.01, True),
        "b": spaces.Range(0.0, 1.0),
        "c": spaces.Choices((4, 8)),
        "d": spaces.Choices((True, False)),
        "e": spaces.Choices(("64x64", "8")),
    }
    assert spaces.parse(json.loads(json.dumps(spaces.to_json(space)))) == space


@pytest.mark.parametrize("name", shipped.SPACES)
def test_shipped_spaces_fit_their_algorithms_and_hold_their_defaults(name):
    config = ExperimentConfig(algorithm=ALGORITHMS[name]())
    space = shipped.space_of(name)
    spaces.check(space, config)
    params = spaces.params_of(config, space)
    assert params is not None
    assert spaces.at(config, params) == config


MISTAKES = {
    "a typo": ({"learning_rat": "0.1..1"}, "got 'learning_rat'; did you mean learning_rate?"),
    "nothing": ({}, "space must hold at least one name"),
    "inverted": ({"learning_rate": "1..0.1"}, "a range LOW..HIGH with LOW < HIGH, got 1.0..0.1"),
    "empty": ({"discount": "0.9..0.9"}, "LOW < HIGH, got 0.9..0.9"),
    "log of 0": ({"entropy_coef": "log:0..1"}, "must begin above 0 on a logarithmic scale, got"),
    "no values": ({"num_envs": []}, "space.num_envs must hold at least one value, got none"),
    "twice": ({"num_envs": [2, 2]}, "must hold each value once, got 2,2"),
    "words": ({"discount": "a..b"}, "must be a range LOW..HIGH or log:LOW..HIGH, got 'a..b'"),
    "a range of a shape": ({"num_envs": "2..8"}, "a list of values such as 4,8,16, for it shapes"),
    "out of bounds": ({"discount": "0.9..1.1"}, "hyperparams.discount must be a number in [0, 1]"),
    "divisibility": (
        {"num_envs": [2, 4], "num_minibatches": [2, 3]},
        "space holds a trial with num_envs = 2, num_minibatches = 3: num_minibatches must divide "
        "the batch of 32 samples, got 3",
    ),
    "a flag": ({"learning_rate": [True, 1e-3]}, "space.learning_rate must hold numbers, got True"),
    "too many": (
        {"num_envs": list(range(1, 66)), "num_steps": list(range(1, 65))},
        "at most 4,096 combinations of choices that shape programs, got 4,160: 65 of num_envs × 64",
    ),
    "no effect": ({"target_kl": "0.1..1"}, "target_kl must be read by ppo with these options"),
    "a trial that no builder takes": (
        {"memory": ["none", "transformer"]},
        "space holds a trial with memory = transformer: network.memory must be one of none, gru",
    ),
    "no widths": ({"hidden": ["64", "abc"]}, "space.hidden must hold widths such as 64x64, got 'a"),
    "no numbers": ({"learning_rate": ["a", "b"]}, "learning_rate must hold numbers, got 'a'"),
}


def test_mistakes_in_spaces(subtests, tmp_path):
    for name in MISTAKES:
        with subtests.test(name):
            space, expected = MISTAKES[name]
            with pytest.raises(ValueError, match=re.escape(expected)):
                po.tune(experiment(), tmp_path / "out", space)
            assert not list(tmp_path.iterdir())


SETTINGS_MISTAKES = {
    "sampler's seed": ({"search_seed": 20_240_615}, "search_seed must be at most 4294867, got"),
    "seeds": ({"fresh_seeds": 2_000_000}, "fresh seeds 17 … 2000016: num_seeds must be at most"),
    "own storage": ({"storage": "{out}/trials.log"}, "storage must be outside of "),
    "below": ({"storage": "{out}/batches/x.log"}, "storage must be outside of "),
    "database": ({"storage": "sqlite:///{out}/x.db"}, "storage must be outside of "),
    "study": ({"study": 3}, "study must be a text, got 3"),
    "logger": ({"log_to": ("wandbx",)}, "got 'wandbx'; did you mean wandb?"),
}


def test_mistakes_in_settings_come_before_the_search(subtests, tmp_path):
    for name, (settings, expected) in SETTINGS_MISTAKES.items():
        with subtests.test(name):
            out = tmp_path / "out"
            given = {
                k: str(v).format(out=out) if k == "storage" else v for k, v in settings.items()
            }
            with pytest.raises(ValueError, match=re.escape(expected)):
                po.tune(experiment(), out, SPACE, **given)
            assert not list(tmp_path.iterdir())


def test_trials_train_equally_long(tmp_path):
    config = experiment(evaluate_every=5, stop_when_solved=60.0)
    with pytest.raises(ValueError, match="stop_when_solved must not be given to tune"):
        po.tune(config, tmp_path / "out", SPACE)


@pytest.mark.parametrize("name", [*search.FILES, search.FRESH, search.BATCHES])
def test_files_of_others_are_not_taken_for_a_search_s(name, tmp_path):
    (tmp_path / name).mkdir()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f"with {name} but no tune.json"):
            po.tune(experiment(), tmp_path, SPACE, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_shipped_dimension_that_training_does_not_read_is_left_out_in_words(tmp_path, capsys):
    algorithm = dataclasses.replace(tiny.ALGORITHMS["reinforce"], psi="reward_to_go")
    given = {**shipped.SPACES["reinforce"]}
    found = tuning.prepare(experiment(algorithm=algorithm), tmp_path / "out", given)
    assert set(given) - set(found.space) == {"critic_learning_rate"}
    assert "not searched: critic_learning_rate, which training" in capsys.readouterr().err
    both = {**given, "psi": ["reward_to_go", "td_residual"]}  # which some trials read
    found = tuning.prepare(experiment(algorithm=algorithm), tmp_path / "out", both)
    assert set(found.space) == set(both)
    given["critic_learning_rate"] = "0.1..1"
    with pytest.raises(ValueError, match="critic_learning_rate must be read by reinforce"):
        tuning.prepare(experiment(algorithm=algorithm), tmp_path / "out", given)


def test_kernels_of_a_network_have_their_place_in_front():
    """PPO's own `kernels` are another field."""
    network = po.NetworkConfig(channels=(4,), kernels=(3,))
    config = ExperimentConfig(algorithm=po.PPOConfig(network=network), env="Breakout-MinAtar")
    given = ["network.kernels=3,5", "network.hidden=32,64", "kernels=xla,pallas"]
    space = spaces.parse(spaces.parse_assignments(given, specs.places(config.algorithm)))
    assert [*space] == ["network.kernels", "hidden", "kernels"]
    spaces.check({k: v for k, v in space.items() if k != "kernels"}, config)
    found = spaces.at(config, {"network.kernels": 5, "hidden": "32x32", "kernels": "xla"})
    assert found.algorithm.network.kernels == (5,)
    assert found.algorithm.network.hidden == (32, 32)
    assert spaces.params_of(config, {"network.kernels": spaces.Choices((3, 5))}) == {
        "network.kernels": 3
    }


def test_one_layer_is_the_default_however_it_is_written():
    assert spaces.params_of(experiment(), spaces.parse({"hidden": "8,16x16"})) == {"hidden": 8}
    assert spaces.params_of(experiment(), spaces.parse({"hidden": [[8], [16]]})) == {"hidden": "8"}


def test_whole_numbers_among_hyperparameters_are_not_rounded(subtests, tmp_path):
    config = experiment(algorithm=brought.Counted())
    for space, expected in (
        ({"power": "1..3"}, "space.power must be a list of whole numbers, got the range"),
        ({"power": [1, 1.5]}, "hyperparams.power must be a whole number, got 1.5"),
    ):
        with subtests.test(str(space)), pytest.raises(ValueError, match=re.escape(expected)):
            po.tune(config, tmp_path / "out", space)
    swept = dataclasses.replace(config, sweep={"power": (1.0, 1.5)})
    with pytest.raises(ValueError, match=r"hyperparams\.power must be a whole number, got 1\.5"):
        po.run(swept)
    at = spaces.at(config, {"power": 2.0}).algorithm.hyperparams.power
    assert (at, type(at)) == (2, int)


def test_what_fresh_seeds_lack_is_told():
    final, diverged_at = [100.0, np.nan, 100.0, np.nan], [-1, -1, -1, 3]
    fresh = xr.Dataset(
        {"final_return": ("seed", final), "diverged_at": ("seed", diverged_at)},
        coords={"seed": [7, 8, 9, 10]},
    )
    space = spaces.parse(SPACE)
    tuning = search.Tuning(experiment(), space, search.Search(**SETTINGS), Path(), 2)
    trial = trials.Trial({"discount": 0.9}, {}, {640: 9.0}, True, [9.0, 9.0], 640)
    choice = outcome.Choice(0, trial.params, [9.0], [3])
    told = outcome.summary(tuning, [trial], [trial], choice, fresh, {})
    assert told["fresh"]["diverged"] == told["fresh"]["without_final_episodes"] == 1
    assert (told["searched_steps"], told["finalist_steps"]) == (640 * 2, 640 * 3)
    text = outcome.best_toml(tuning, choice, search.at_seeds(experiment(), range(7, 11)), told)
    assert "over 2 of 4 seeds (7 … 10) that the search never saw" in text


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi-random", "cmaes"])
def test_a_batch_depends_on_the_results_before_it_alone(sampler):
    space, algorithm = shipped.space_of("ppo"), po.PPOConfig()
    shape = spaces.shape_names(space, algorithm)
    settings = search.Search(trials=24, batch=8, sampler=sampler, search_seed=1, programs=2)
    tuning = search.Tuning(experiment(algorithm=algorithm), space, settings, Path(), 2)
    history, attributes, seen = [], {}, set()
    for batch in range(3):
        first, again = (trials.propose(tuning, batch, history, attributes) for _ in range(2))
        assert first == again
        assert json.loads(json.dumps(first)) == json.loads(json.dumps(again))
        proposed, attributes = first
        assert len({tuple(t.params[name] for name in shape) for t in proposed}) <= 2
        seen |= {t.params["learning_rate"] for t in proposed}
        history += [
            t._replace(reports={10: -float(i)}, is_complete=i < 4) for i, t in enumerate(proposed)
        ]
    assert len(seen) == 24


def test_halving_trains_half_of_all_steps_at_most():
    for number in (4, 8, 16, 17):
        schedule, alive, spent, before = search.Search(rungs=3), number, 0, 0
        for fraction in schedule.fractions:
            windows = rungs.windows_of(experiment(num_windows=100, total_steps=3200), fraction)
            spent += alive * (windows - before)
            before, alive = windows, schedule.num_survivors(alive)
        assert before == 100
        assert spent <= number * 100 / 2 or number == 17


@pytest.mark.parametrize("num_updates", [1, 2, 3])
def test_a_short_search_goes_on_from_the_states_of_its_rungs(num_updates, tmp_path):
    algorithm = tiny.ALGORITHMS["ppo"]
    steps = num_updates * algorithm.num_envs * algorithm.num_steps
    found = po.tune(
        experiment(total_steps=steps), tmp_path / "out", SPACE, progress=False, rungs=2, **SETTINGS
    )
    assert found.summary["num_complete"] >= 1


def test_nobody_is_stopped_before_all_are_judged():
    """Else the trials with long rollouts would stop, or go on, for that alone."""
    half, low = search.Search(), -math.inf
    assert halving.survivors({0: 1.0, 1: 3.0, 2: 2.0, 3: low}, [], half) == [1, 2]
    assert halving.survivors({0: 1.0, 1: 3.0, 2: low, 3: low}, [3], half) == [0, 1, 3]


def test_trials_whose_episodes_are_longer_than_a_rung_go_on(tmp_path):
    """Episodes of Pendulum have 200 steps: the first rung ends before one of sixteen does."""
    config = experiment(env="Pendulum-v1", total_steps=6_400, num_windows=20)
    space = {"num_envs": [2, 16]}
    settings = {"trials": 2, "batch": 2, "finalists": 0, "fresh_seeds": 2, "rungs": 2}
    found = po.tune(config, tmp_path / "search", space, progress=False, **settings)
    assert [row["state"] for row in found.trials] == ["complete", "complete"]
    assert [row["steps"] for row in found.trials] == [6_400, 6_400]


def test_seeds_are_disjoint():
    seeds = search.seeds_of(experiment(num_seeds=4, first_seed=7), search.Search())
    assert seeds.search == range(7, 11)
    sets = [set(x) for x in seeds]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 4 + 12 + 16


# Searches


def test_fresh_seeds_are_never_the_searchs(tuned):
    result, out = tuned
    seen = set(result.summary["search"]["seeds"])
    fresh = set(result.fresh["seed"].values.tolist())
    assert seen == {3, 4, 5, 6, 7}
    assert fresh == set(result.summary["fresh"]["seeds"]) == {8, 9, 10, 11}
    config = read_config(out / search.FRESH)
    assert (config.first_seed, config.num_seeds) == (8, 4)
    assert result.best == config


def test_a_trial_is_the_run_of_its_point_to_the_bit(tuned):
    result, out = tuned
    for number in range(2):
        batch = search.read_batch(search.batch_folder(out, number))
        done = [i for i, t in enumerate(batch.trials) if t.is_complete]
        assert len(done) == 1
        config = spaces.at(experiment(num_seeds=4), batch.trials[done[0]].params)
        final = po.run(config, progress=False)["final_return"].values
        np.testing.assert_array_equal(final[:2], batch.trials[done[0]].returns)
    assert result.trials[0]["learning_rate"] == experiment().algorithm.hyperparams.learning_rate


def test_the_worse_half_stops_at_each_rung(tuned):
    result, out = tuned
    batch = search.read_batch(search.batch_folder(out, 0))
    assert sorted(t.steps for t in batch.trials) == [128, 128, 320, 640]
    for step, number in ((128, 4), (320, 2)):
        scores = {i: t.reports[step] for i, t in enumerate(batch.trials) if step in t.reports}
        assert len(scores) == number
        best = sorted(scores, key=lambda i: -scores[i])[: number // 2]
        assert set(best) == {i for i, t in enumerate(batch.trials) if t.steps > step}
    assert result.summary["searched_steps"] == 2 * 2 * (128 + 128 + 320 + 640)


def test_storage_and_files_hold_the_trials(tuned):
    result, out = tuned
    stored = of_storage(out)
    assert [t[0] for t in stored] == list(range(8))
    for (_, params, state, reports, value), row in zip(stored, result.trials, strict=True):
        assert params == {name: row[name] for name in SPACE}
        assert state == {"complete": "COMPLETE", "stopped": "PRUNED"}[row["state"]]
        assert reports[row["steps"]] == row["score"] == value
    assert {*search.FILES, search.TUNE} <= {path.name for path in out.iterdir()}
    assert not list(out.rglob("program-*"))
    assert len((out / search.TABLE).read_text().splitlines()) == 9
    assert json.loads((out / search.SUMMARY).read_text()) == json.loads(json.dumps(result.summary))


def test_the_file_of_the_best_trains_it_again(tuned):
    result, out = tuned
    assert po.load_config(out / search.BEST) == result.best
    again = po.run(po.load_config(out / search.BEST), progress=False)
    np.testing.assert_array_equal(again["final_return"], result.fresh["final_return"])


class KilledError(Exception):
    pass


def killing(function, calls):
    """The function, of which one call is the last thing that the process does."""
    left = [calls]

    def killed(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        return function(*args, **kwargs)

    return killed


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (rungs.RunStore, "save", 2),  # half of a rung's states are carried over
        (search, "write_batch", 4),  # a batch is trained, and not noted
        (trials.Record, "finish", 2),
        (tuning, "_train_fresh", 1),
    ],
)
def test_a_search_that_is_killed_goes_on_with_the_same_trials(
    owner, name, calls, tuned, tmp_path, monkeypatch
):
    result, out = tuned
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), calls))
        with pytest.raises(KilledError):
            search_in(tmp_path / "killed")
    again = po.resume_tune(tmp_path / "killed", progress=False)
    assert again.trials == result.trials
    assert of_storage(tmp_path / "killed") == of_storage(out)
    assert again.summary["fresh"] == result.summary["fresh"]
    assert again.best == result.best


def test_a_damaged_rung_is_trained_again(tuned, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(search, "write_batch", killing(search.write_batch, 2))
        with pytest.raises(KilledError):
            search_in(out)
    for path in out.rglob("rung-*/blocks/000000/result/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    assert po.resume_tune(out, progress=False).trials == tuned[0].trials


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_whose_process_is_killed_three_times(tmp_path):
    """In the first batch, in the second, and while the fresh seeds train."""
    flags = [
        "--env", "CartPole-v1", "--seeds", "3", "--num-envs", "2", "--num-steps", "16",
        "--network.hidden", "8", "--total-steps", "400000", "--trials", "16", "--batch", "8",
        "--search", "learning_rate=log:1e-4..1e-2", "--search", "num_epochs=2,4",
        "--finalists", "2", "--fresh-seeds", "16",
    ]  # fmt: skip
    program, out = [sys.executable, "-m", "purejax_po"], tmp_path / "search"
    whole = tmp_path / "whole"
    subprocess.run([*program, "tune", "ppo", *flags, "--out", whole], check=True, timeout=900)
    command = [*program, "tune", "ppo", *flags, "--out", out]
    for begun in (search.batch_folder(out, 0), search.batch_folder(out, 1), out / search.FRESH):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        process.kill()
        process.wait(timeout=60)
        command = [*program, "resume", out]
    subprocess.run([*program, "resume", out], check=True, timeout=900)
    for name in (search.TABLE, search.BEST):
        assert (out / name).read_text() == (whole / name).read_text()
    summaries = [json.loads((path / search.SUMMARY).read_text()) for path in (out, whole)]
    assert summaries[0]["fresh"] == summaries[1]["fresh"]


def test_a_signal_saves_what_is_under_way(tuned, tmp_path, monkeypatch):
    result, _ = tuned
    count, left = tuning._Count.__call__, [9]

    def signalling(self, steps):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        count(self, steps)

    monkeypatch.setattr(tuning._Count, "__call__", signalling)
    for attempt in range(5):  # blocks that end before the signal is heard leave nothing to save
        out, left[0] = tmp_path / f"search-{attempt}", 9
        with pytest.raises(po.Interrupted, match="resume_tune"):
            search_in(out)
        if list(out.rglob("state-*")):
            break
    assert list(out.rglob("state-*"))
    assert cli.main(["resume", str(out)]) == 0
    assert po.resume_tune(out, progress=False).trials == result.trials


def test_a_diverged_trial_is_never_chosen():
    reports = {10: -5.0}
    sound = trials.Trial({"x": 1.0}, {}, reports, True)
    found = [sound._replace(is_complete=False), sound, sound._replace(reports={10: -4.0})]
    assert outcome.best(found, 2) == [2, 1]
    assert halving._score([1.0, math.nan], False) is None
    assert halving._score([1.0, 2.0], True) is None


def test_a_storage_of_another_search_is_refused(tuned, tmp_path):
    _, out = tuned
    with pytest.raises(ValueError, match="whose study 'ppo-CartPole-v1' is another's"):
        search_in(tmp_path / "new", storage=str(out / search.TRIALS), search_seed=5)
    with pytest.raises(ValueError, match="storage must be a file or a database"):
        search_in(tmp_path / "new", storage="nosql://nowhere")
    with pytest.raises(ValueError, match="out must hold no search yet"):
        search_in(out)


def test_a_storage_is_the_same_file_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"st.log": f"{tmp_path}/st.log", Path("st.log"): f"{tmp_path}/st.log"}
    places |= {x: x for x in ("", "/a/b.log", "mysql://here/b", "sqlite://", "sqlite:////a/b.db")}
    places |= {x: x for x in ("sqlite:///", "sqlite:///:memory:", "sqlite:///file:b.db?uri=true")}
    places["sqlite:///b.db"] = f"sqlite:///{tmp_path}/b.db"
    for given, there in places.items():
        assert search.Search(storage=given).located().storage == there


def test_a_search_with_another_last_batch_is_another(tuned):
    _, out = tuned
    known = search.read(out)._replace(begun_as="")
    assert known.identity() == search.read(out).identity()

    def with_trials(number, storage="elsewhere"):
        changed = dataclasses.replace(known.search, trials=number, storage=storage)
        return known._replace(search=changed).identity()

    assert with_trials(12) == known.identity()
    assert with_trials(10) != known.identity()
    assert with_trials(10, storage="") == known.identity()  # as searches of before have noted it


def test_no_run_is_put_into_a_search(tuned):
    """`resume` there goes on with the search."""
    _, out = tuned
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"out must hold no search, got .* with a tune\.json"):
            po.run(experiment(), out, overwrite=overwrite)
        with pytest.raises(ValueError, match="out must hold no search"):
            po.compare(["ppo", "a2c"], "CartPole-v1", out, overwrite=overwrite)


COMMANDS = {
    "sampler": (["--sampler", "tp"], "sampler must be one of tpe, random, "),
    "gp": (["--sampler", "gp"], "sampler gp needs torch, which is not installed"),
    "search": (["--search", "num_envs"], "search must be NAME=LOW..HIGH, NAME=log:LOW..HIGH or"),
    "twice": (["--search", "a=1,2", "--search", "a=1"], "must give each name once, got a twice"),
    "space": (["--space", "shiped"], "got 'shiped'; did you mean shipped?"),
    "nothing": (["--space", "none"], "space must hold at least one name, got none"),
    "reduction": (["--reduction", "1"], "reduction must be a whole number ≥ 2, got 1"),
    "unknown": (["--search", "numenvs=4,8"], "got 'numenvs'; did you mean num_envs?"),
    "preset": (["--preset", "grpo-copy"], "preset must be one for ppo, got 'grpo-copy', which is"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_on_the_command_line_gets_one_line(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, expected = COMMANDS[name]
    if name == "gp" and trials.importlib.util.find_spec("torch"):
        pytest.skip("torch is installed")
    assert cli.main(["tune", "ppo", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert expected in errors
    assert not list(tmp_path.iterdir())


def test_the_command_reads_its_file_and_flags(tmp_path, monkeypatch):
    given = {}

    def prepare(*args):
        given["args"] = args
        raise ValueError("enough")

    monkeypatch.setattr(tuning, "prepare", prepare)
    path = tmp_path / "mine.toml"
    path.write_text(
        'algorithm = "trpo"\ntrials = 6\nbatch = 3\nseeds = 2\n[space]\nmax_kl = "log:1e-3..0.1"\n'
    )
    flags = ["--batch", "2", "--search", "num_envs=4,8", "--out", str(tmp_path)]
    assert cli.main(["tune", "--config", str(path), *flags]) == 2
    config, out, space, settings, _ = given["args"]
    assert (config.algorithm.name, config.num_seeds, out) == ("trpo", 2, tmp_path)
    assert space == {"max_kl": "log:1e-3..0.1", "num_envs": "4,8"}
    assert settings == dataclasses.replace(search.Search(), trials=6, batch=2)
    assert cli.main(["tune", "--config", str(path), "--space", "shipped"]) == 2
    assert given["args"][2] == spaces.to_json(shipped.space_of("trpo"))
    path.write_text('algorithm = "trpo"\n[space]\n')
    assert cli.main(["tune", "--config", str(path), *flags]) == 2
    assert given["args"][2] == {"num_envs": "4,8"}


def test_a_space_in_a_file_is_a_table(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("space = 3")
    with pytest.raises(ValueError, match=r"space in .*mine\.toml must be a table, got 3"):
        tuning.space_of(str(path), "ppo")
    path.write_text("[space]")
    assert tuning.space_of(str(path), "ppo") == {}


def test_a_block_that_only_repeats_windows_is_given_up():
    plan = SimpleNamespace(lengths=[1], steps_per_update=5, num_real=lambda block: 2)
    store = SimpleNamespace(result=lambda block: None)
    events = [Window(0, 0, None), Loss(0, "it died")]
    pool = SimpleNamespace(submit=lambda block: None, poll=lambda seconds: events)
    told = []
    on_window = rungs._first_seen(plan, told.append)
    with pytest.raises(StoppedError, match=r"block 0 has lost 5 workers .* the last one: it died"):
        run_all(pool, [0], store, StopSignal(), on_window=on_window)
    assert told == [10]


def test_a_search_goes_on_after_its_configuration_has_a_new_field(tmp_path, monkeypatch):
    out = tmp_path / "out"
    search_in(out)
    whole = po.ExperimentConfig.identity
    monkeypatch.setattr(po.ExperimentConfig, "identity", lambda self: {**whole(self), "new": 0})
    assert len(po.resume_tune(out, progress=False).trials) == 8


def test_a_database_is_in_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search.check_free(Path(), search.Search(storage="mysql://host/db"), overwrite=False)


def test_columns_of_a_table_have_names_of_their_own():
    trial = trials.Trial({"steps": 3, "discount": 0.9}, {}, {640: 9.0}, True, [9.0], 640)
    (row,) = outcome.rows([trial])
    assert (row["steps"], row["space.steps"], row["discount"]) == (640, 3, 0.9)


def test_what_is_searched_is_an_experiment(tmp_path):
    with pytest.raises(ValueError, match="config must be an ExperimentConfig, such as"):
        po.tune(po.PPOConfig(), tmp_path / "out")


def test_a_rung_that_others_have_begun_is_trained_anew(tmp_path):
    """By an earlier version's rule, which another trial had survived."""
    (group,) = halving._groups(experiment(), [{"learning_rate": 1e-3}])
    with stop_signal() as stop:
        host = po.Host(progress=False, num_devices=1)
        settings = search.Search(rungs=1)
        work = rungs.Work(experiment(), settings, 2, host, stop, lambda steps: None)
        other = run_store.RunStore(tmp_path, ("other",))
        (tmp_path / "blocks").mkdir()
        other.save(0, 2, {"['state'].x": np.ones(2)}, {})
        plan = rungs.rung(work, group, [0], 1.0)
        scores = rungs.train_rung(work, group, [0], plan, tmp_path, None)
    assert len(scores[0][0]) == 2


def test_an_edited_search_does_not_go_on(tmp_path):
    out = tmp_path / "out"
    search_in(out)
    edited = json.loads((out / search.TUNE).read_text())
    edited["config"]["total_steps"] *= 2
    (out / search.TUNE).write_text(json.dumps(edited))
    with pytest.raises(ValueError, match="storage must be of this search"):
        po.resume_tune(out, progress=False)
