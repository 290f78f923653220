"""Evaluation between windows: what it finds, what it leaves alone, lanes that end when solved."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import synthetic
import tiny
from breaking import run_until

import purejax_po as po
from purejax_po import cli, evaluation
from purejax_po.experiment import policies
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.report import formats, page
from purejax_po.experiment.results import dataset, evaluated, join
from purejax_po.experiment.run import evaluating, plan
from purejax_po.experiment.run.trainer import build_trainer

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

EVALUATED = {"evaluate_every": 3, "evaluation_episodes": 4}
THRESHOLD = 9.5


@pytest.fixture(scope="module")
def plain(compile_quickly, no_pictures):
    return po.run(tiny.experiment(), progress=False)


@pytest.fixture(scope="module")
def full(compile_quickly, no_pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "full"
    config = tiny.experiment(**EVALUATED, solve_return=THRESHOLD)
    return out, po.run(config, out, progress=False)


@pytest.mark.parametrize("actions", ["greedy", "sampled"])
def test_lanes_are_evaluated_as_each_alone(actions):
    trainer = build_trainer(tiny.experiment())
    hyperparams = trainer.algorithm.hyperparams
    states = jax.jit(jax.vmap(lambda key: trainer.init(key, hyperparams)))(po.seed_keys(3))
    env_params = plan.repeat(range(3), hyperparams, trainer.env_params).env_params
    key = jax.random.key(7)
    options = {"num_episodes": 5, "num_steps": 100, "greedy": actions == "greedy"}
    params = states.acting_params
    found = jax.jit(
        lambda params: evaluation.evaluate_lanes(key, trainer, env_params, params, **options)
    )(params)
    whose = key, trainer.env, trainer.env_params, trainer.actor
    evaluate = jax.jit(lambda own: po.evaluate(*whose, own, **options))
    for i in range(3):
        alone = evaluate(jax.tree.map(lambda x, i=i: x[i], params))
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), found, alone)


def test_an_environment_that_computes_its_bounds_with_jax_is_evaluated():
    found = po.run(tiny.experiment(env="PointRobot-misc", **EVALUATED), progress=False)
    assert np.isfinite(found["final_evaluation"].values).all()


def test_training_has_the_same_bits_with_evaluation(plain, full):
    for name in plain.variables:
        np.testing.assert_array_equal(plain[name], full[1][name], err_msg=str(name))


def test_sampled_actions_reach_another_return_than_greedy_ones(full):
    config = tiny.experiment(**EVALUATED, evaluation_actions="sampled")
    sampled, greedy = po.run(config, progress=False), full[1]
    np.testing.assert_array_equal(sampled["episode_return"], greedy["episode_return"])
    assert (sampled["evaluation_return"] != greedy["evaluation_return"]).any()


def test_of_token_tasks_evaluations_tell_the_share_of_exact_outputs():
    algorithm = dataclasses.replace(tiny.ALGORITHMS["grpo"], num_envs=8, group_size=4)
    config = tiny.experiment(algorithm=algorithm, env="tokens/parity", total_steps=1280)
    found = po.run(dataclasses.replace(config, evaluate_every=5), progress=False)
    exact = found["evaluation_return"].values * config.evaluation_episodes
    assert ((exact >= 0) & (exact <= config.evaluation_episodes)).all()
    np.testing.assert_array_equal(exact, np.round(exact))


def test_evaluations_are_labelled_by_steps_and_the_last_is_the_final_one(full):
    _, found = full
    assert found["evaluation_return"].dims == ("seed", "evaluation")
    assert found["evaluation"].values.tolist() == [96, 192, 288, 320]
    returns = found["evaluation_return"].values
    np.testing.assert_array_equal(found["final_evaluation"], returns[:, -1])
    reached = returns >= THRESHOLD
    first = found["evaluation"].values[np.argmax(reached, axis=1)]
    np.testing.assert_array_equal(found["solved_at"], np.where(reached.any(axis=1), first, np.nan))
    summary = po.summarize(found)
    assert summary["final_evaluation"]["max"] == returns[:, -1].max()
    assert summary["solved"]["num_seeds"] == reached.any(axis=1).sum()


@pytest.mark.parametrize(
    ("steps", "half"), [([9, 1, np.nan, np.nan], 9), ([1, np.nan, np.nan], None), ([3, 1, 2], 2)]
)
def test_the_step_by_which_half_of_the_seeds_have_solved_their_task(steps, half):
    found = dataset.number(dataset._half_by(np.asarray(steps, float)))
    assert found == half


def test_the_log_tells_of_each_evaluation(full):
    out, found = full
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    told = [line for line in lines if "evaluation_return" in line]
    assert len(told) == 3 * 4  # blocks, evaluations
    for line in told:
        row = found["evaluation_return"].sel(seed=line["seeds"], evaluation=line["steps"])
        np.testing.assert_allclose(line["evaluation_return"], row, atol=1e-4)


@pytest.mark.parametrize("windows", [4, 13])
def test_a_resumed_run_has_the_same_evaluations(windows, full, tmp_path):
    for changes in ({"solve_return": THRESHOLD}, {"stop_when_solved": THRESHOLD}):
        out = tmp_path / next(iter(changes))
        config = tiny.experiment(**EVALUATED, **changes)
        run_until(out, windows, config)
        found, whole = po.resume(out, progress=False), po.run(config, progress=False)
        assert found.drop_attrs().identical(whole.drop_attrs())


def test_a_seed_that_has_solved_its_task_ends_there(full):
    _, whole = full
    config = tiny.experiment(**EVALUATED, stop_when_solved=THRESHOLD)
    found = po.run(config, progress=False, stop_on_divergence=True)
    np.testing.assert_array_equal(found["solved_at"], whole["solved_at"])
    assert (found["diverged_at"] < 0).all()
    for seed in found["seed"].values:
        own, undisturbed = found.sel(seed=seed), whole.sel(seed=seed)
        end = float(own["solved_at"])
        end = np.inf if np.isnan(end) else end
        trained = own["step"] <= end
        for name in ("episode_return", "entropy"):
            np.testing.assert_array_equal(own[name][trained], undisturbed[name][trained])
            assert np.isnan(own[name][~trained]).all()
        after = own["evaluation_return"][own["evaluation"] >= end].values
        assert (after == after[:1]).all()


def test_the_state_of_a_seed_that_has_ended_stays_what_it_was(tmp_path):
    hyperparams = po.PPOHyperparams(learning_rate_decay=0.0)  # no schedule knows the end
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], hyperparams=hyperparams)
    config = tiny.experiment(algorithm=algorithm, num_seeds=3)
    ending = dataclasses.replace(config, **EVALUATED, stop_when_solved=-1.0)
    found = po.run(ending, tmp_path / "ended", progress=False)
    assert (found["solved_at"] == 96).all()
    po.run(dataclasses.replace(config, total_steps=96), tmp_path / "short", progress=False)
    ended, short = (policies.load_policies(tmp_path / name).params for name in ("ended", "short"))
    jax.tree.map(np.testing.assert_array_equal, ended, short)


def test_the_best_policy_is_that_of_a_run_which_ends_where_it_was_evaluated(tmp_path):
    """Kept across a stop; training and the final policy stay what they are."""
    hyperparams = po.PPOHyperparams(learning_rate=0.02, learning_rate_decay=0.0)
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], hyperparams=hyperparams)
    config = tiny.experiment(algorithm=algorithm, num_seeds=3, normalize_observations=True)
    config = dataclasses.replace(config, **EVALUATED)
    keeping, out = dataclasses.replace(config, keep_best=True), tmp_path / "keeping"
    run_until(out, 7, keeping)
    found = po.resume(out, progress=False)
    whole = po.run(config, tmp_path / "whole", progress=False)
    assert found.drop_attrs().identical(whole.drop_attrs())
    final, own = (policies.load_policies(tmp_path / x).params for x in ("whole", "keeping"))
    jax.tree.map(np.testing.assert_array_equal, final, own)
    best = policies.load_policies(out, best=True).params
    chosen = found["evaluation"].values[np.argmax(found["evaluation_return"].values, axis=1)]
    assert set(chosen) != {320}
    for steps in set(chosen):
        short = tmp_path / str(steps)
        po.run(dataclasses.replace(config, total_steps=int(steps)), short, progress=False)
        ended = policies.load_policies(short).params
        of = chosen == steps
        jax.tree.map(lambda x, y, of=of: np.testing.assert_array_equal(x[of], y[of]), best, ended)


def test_the_best_policies_are_evaluated_exported_and_refused_where_none_are_kept(
    tmp_path, full, capsys
):
    config = tiny.experiment(**EVALUATED, num_seeds=2, keep_best=True)
    out = tmp_path / "run"
    po.run(config, out, progress=False)
    assert cli.main(["evaluate", str(out), "--episodes", "4", "--best"]) == 0
    assert json.loads((out / "evaluation-best.json").read_text())["policies"] == "best"
    found = po.evaluate_run(out, num_episodes=4, best=True)
    per_seed = json.loads((out / "evaluation-best.json").read_text())["per_seed"]
    means = found["episode_return"].mean("episode")
    assert list(per_seed.values()) == means.values.tolist()
    assert (
        cli.main(["evaluate", str(out), "--episodes", "4", "--best", "--grid", "gravity=9.8"]) == 0
    )
    (at,) = json.loads((out / "evaluation-best-grid.json").read_text())["points"]
    assert at["final_return"]["mean"] == pytest.approx(means.values.mean())
    exported = po.export(out, seed=1, to="safetensors", best=True, num_episodes=0)
    assert exported.folder.name == "seed-1-best"
    assert "best by evaluation" in exported.card.read_text()
    capsys.readouterr()
    assert cli.main(["evaluate", str(full[0]), "--best"]) == 2
    assert "best must be False" in capsys.readouterr().err
    with pytest.raises(ValueError, match="keep_best must be False where nothing is evaluated"):
        tiny.experiment(keep_best=True).check()


def test_memory_and_frozen_statistics_are_those_of_the_final_policy(tmp_path):
    network = po.NetworkConfig(hidden=(8,), memory="gru")
    algorithm = dataclasses.replace(tiny.ALGORITHMS["a2c"], network=network)
    config = tiny.experiment(
        algorithm=algorithm, normalize_observations=True, evaluate_every=10, num_seeds=2
    )
    found = po.run(config, tmp_path / "run", progress=False)
    loaded = policies.load_policies(tmp_path / "run")
    trainer = loaded.study.trainer
    key = jax.random.fold_in(jax.random.key(evaluating.SEED), 0)
    whose = key, trainer.env, trainer.env_params, trainer.actor
    evaluate = jax.jit(lambda own: po.evaluate(*whose, own, num_episodes=16, num_steps=500))
    for i in range(2):
        alone = evaluate(jax.tree.map(lambda x, i=i: x[i], loaded.params))
        assert found["final_evaluation"].values[i] == np.mean(alone.episode_return)


def test_wrong_values_are_one_line(subtests):
    for changes, message in [
        ({"evaluate_every": -1}, "evaluate_every must be a whole number ≥ 0, got -1"),
        ({"evaluate_every": 200}, "evaluate_every must be at most num_windows = 10, got 200"),
        ({"evaluate_every": 1, "evaluation_episodes": 0}, "evaluation_episodes must be"),
        ({"evaluate_every": 1, "evaluation_episodes": 10**6}, "evaluation_episodes must be at mo"),
        ({"evaluate_every": 1, "evaluation_actions": "best"}, "evaluation_actions must be"),
        ({"solve_return": 475.0}, "solve_return must be None where nothing is evaluated"),
        ({"stop_when_solved": 1.0}, "stop_when_solved must be None where nothing is evaluated"),
        ({"evaluate_every": 1, "solve_return": float("nan")}, "solve_return must be a finite"),
        (
            {"evaluate_every": 1, "solve_return": 1.0, "stop_when_solved": 2.0},
            "solve_return must be None or as stop_when_solved, 2.0, got 1.0",
        ),
    ]:
        told = message.replace("(", r"\(")
        with subtests.test(message), pytest.raises(ValueError, match=told):
            tiny.experiment(**changes).check()


def test_a_configuration_without_the_fields_has_their_defaults():
    data = {k: v for k, v in tiny.experiment().to_dict().items() if "evaluat" not in k}
    del data["solve_return"], data["stop_when_solved"]
    assert ExperimentConfig.from_dict(data) == tiny.experiment()


def with_evaluation(run, returns, every=5, **changes):
    windows = list(range(every - 1, run.sizes["update"], every))
    returns = np.asarray(returns)[:, None] + np.arange(len(windows))
    return evaluated.add(run, returns, windows=windows, **changes).assign_attrs(run.attrs)


def test_runs_are_joined_and_ranked_with_their_evaluations():
    good = synthetic.make_run("ppo", best=400.0, steps_per_update=512)
    bad = synthetic.make_run("trpo", best=100.0, steps_per_update=1024)
    plain = synthetic.make_run("a2c")
    parts = {
        ("ppo", "CartPole-v1"): with_evaluation(good, np.arange(8.0)),
        ("trpo", "CartPole-v1"): with_evaluation(bad, 100 + np.arange(8.0)),
        ("a2c", "CartPole-v1"): plain,
    }
    joined = join.join(parts)
    for key, run in join.split(joined).items():
        assert run.drop_attrs().identical(parts[key].drop_attrs())
    names = [row["algorithm"] for row in page.table(joined, "evaluation")]
    assert names == ["trpo", "ppo", "a2c"]
    assert [row["algorithm"] for row in page.table(joined, "training")][-1] == "trpo"
    ranked = po.ranked_by(joined, "evaluation")
    np.testing.assert_array_equal(ranked["final_return"], joined["final_evaluation"])
    with pytest.raises(ValueError, match="rank_by must be training for runs without evaluation"):
        po.ranked_by(plain, "evaluation")
    axes = po.plot(joined)
    assert "ppo, evaluation" in axes.get_legend_handles_labels()[1]


def test_a_table_has_the_same_columns_where_one_run_has_no_threshold():
    returns = np.linspace(100, 500, 4) * np.ones((8, 1))
    parts = {}
    for name, threshold in (("ppo", None), ("trpo", 400.0)):
        run = synthetic.make_run(name, solve_return=threshold)
        added = evaluated.add(run, returns, windows=[4, 9, 14, 19], threshold=threshold)
        parts[name, "CartPole-v1"] = added
    rows = page.table(join.join(parts))
    assert rows[0].keys() == rows[1].keys()
    assert {row["algorithm"]: row["solved"] for row in rows} == {"ppo": "-", "trpo": "8"}
    lines = formats.to_csv(rows).splitlines()
    assert len({line.count(",") for line in lines}) == 1


def test_the_command_line_evaluates_and_ranks(tmp_path, capsys):
    small = "--total-steps 2560 --num-envs 2 --num-steps 16 --network.hidden 8 --num-windows 10"
    base = f"ppo {small} --num-epochs 1 --num-minibatches 2 --seeds 2 --out {tmp_path}/run"
    flags = "--evaluate-every 5 --evaluation-episodes 2 --stop-when-solved 9"
    assert cli.main(f"train {base} {flags}".split()) == 0
    assert "evaluation return, IQM" in capsys.readouterr().out
    assert cli.main(["report", f"{tmp_path}/run", "--rank-by", "evaluation"]) == 0
    assert "Ranked by the evaluation" in (tmp_path / "run" / "report.html").read_text()
    assert cli.main(f"train {base} --overwrite --solve-return 3".split()) == 2
    assert "solve_return must be None where nothing is evaluated" in capsys.readouterr().err


def test_a_grid_of_whole_numbers_holds_no_others(tmp_path):
    out = tmp_path / "run"
    po.run(tiny.experiment(env="MemoryChain-bsuite", num_seeds=1), out, progress=False)
    with pytest.raises(ValueError, match=r"grid memory_length must be a whole number, got 3\.4"):
        po.evaluate_grid(out, {"memory_length": (3, 3.4)}, num_episodes=2)


def test_a_seed_without_an_evaluation_hides_no_other_s():
    run = synthetic.make_run(seeds=range(8))
    run["final_evaluation"] = "seed", np.array([np.nan, *range(1, 8)])
    assert dataset.summarize(run)["final_evaluation"]["median"] == 4.0
