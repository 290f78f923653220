"""Tuned settings as data: files that read back, presets, seeds that no search has seen."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import tiny

import purejax_po as po
from purejax_po import cli
from purejax_po.cli import entry
from purejax_po.experiment import compare
from purejax_po.experiment.config import zoo

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EVIDENCE = {
    **{"num_seeds": 16, "first_seed": 0, "iqm": 480.25, "ci_low": 470.0, "ci_high": 490.0},
    **{"min": 400.0, "evaluation_iqm": 499.0, "search_seeds": [1_000_000, 3], "commit": "abc"},
}


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import zoo_search

    yield zoo_search
    sys.modules.pop("zoo_search")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A zoo of PPO on two environments and of A2C on one."""
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    ppo = dataclasses.replace(
        tiny.ALGORITHMS["ppo"], hyperparams=po.PPOHyperparams(learning_rate=3e-3, discount=0.98)
    )
    configs = [
        po.ExperimentConfig(algorithm=ppo, env="CartPole-v1", total_steps=640),
        po.ExperimentConfig(algorithm=ppo, env="Acrobot-v1", normalize_observations=True),
        po.ExperimentConfig(algorithm=tiny.ALGORITHMS["a2c"], env="CartPole-v1"),
    ]
    for config in configs:
        zoo.write(zoo.Entry(config, EVIDENCE), zoo.FOLDER)
    zoo.entries.cache_clear()
    yield configs
    zoo.entries.cache_clear()


def test_fresh_seeds_are_never_the_search_s(search):
    assert set(search.FRESH_SEEDS).isdisjoint({*search.SEARCH_SEEDS, *search.FINAL_SEEDS})
    assert set(search.SEARCH_SEEDS).isdisjoint(search.FINAL_SEEDS)
    for name in search.zoo_tasks.FLOATS:
        for env, task in search.zoo_tasks.TASKS.items():
            assert search.zoo_tasks.num_fresh(name, env) >= 16 or task.total_steps >= 10_000_000
            reported = search.fresh_seeds(name, env)
            assert len(reported) == search.zoo_tasks.num_fresh(name, env)
            assert set(reported) <= set(search.FRESH_SEEDS)
            last = search.zoo_tasks.num_final(name, env)
            assert len(search.final_seeds(name, env)) == last
    for found in zoo.entries().values():
        evidence = found.evidence
        fresh = range(evidence["first_seed"], evidence["first_seed"] + evidence["num_seeds"])
        seconds = 16 / evidence["num_seeds"] * evidence["run_seconds"]
        assert evidence["num_seeds"] >= (4 if seconds > 3600 else 16)
        for first, number in (evidence["search_seeds"], evidence.get("final_seeds", [0, 0])):
            assert set(fresh).isdisjoint(range(first, first + number))


def test_every_file_of_the_zoo_is_a_valid_experiment_at_its_place():
    for (algorithm, env), found in zoo.entries().items():
        found.config.check()
        assert zoo.read(zoo.path_of(algorithm, env)) == found


def test_what_is_written_reads_back(folder):
    assert [found.config for found in zoo.entries().values()] == [folder[2], folder[1], folder[0]]
    for found in zoo.entries().values():
        assert found.evidence == EVIDENCE


def test_drawn_floats_begin_with_the_defaults(search):
    for name, shapes in search.zoo_tasks.SHAPES.items():
        columns = search.draw(name, 5, seed=0)
        default = entry.parse(["train", name]).config().algorithm
        for column, values in columns.items():
            assert values[0] == pytest.approx(getattr(default.hyperparams, column), rel=1e-2)
        for shape in shapes:
            dataclasses.replace(default, **shape).check()


def test_every_cell_can_be_searched(search):
    tasks = search.zoo_tasks
    assert {reference.env for reference in tasks.REFERENCES} <= tasks.TASKS.keys()
    for env, task in tasks.TASKS.items():
        assert 0 < task.final_seeds <= len(search.FINAL_SEEDS)
        for name in task.algorithms:
            default = entry.parse(["train", name]).config().algorithm
            columns = search.draw(name, 3, 0, env)
            for shape in tasks.shapes_of(name, env):
                rows = ({key: column[i] for key, column in columns.items()} for i in range(3))
                for row in rows:
                    floats = default.hyperparams.replace(**row)
                    algorithm = dataclasses.replace(default, hyperparams=floats, **shape)
                    search.experiment(algorithm, env).check()


def test_the_preset_is_what_flags_start_from(folder):
    parsed = entry.parse(
        ["train", "ppo", "--env", "Acrobot-v1", "--preset", "zoo", "--num-epochs", "2"]
    )
    expected = dataclasses.replace(
        folder[1], algorithm=dataclasses.replace(folder[1].algorithm, num_epochs=2)
    )
    assert parsed.config() == expected
    assert po.zoo_config("ppo", "CartPole-v1", num_seeds=3) == dataclasses.replace(
        folder[0], num_seeds=3
    )


def test_a_comparison_takes_each_pair_s_settings(folder):
    envs = ["CartPole-v1", "Acrobot-v1"]
    algorithms = ["ppo", "mine=ppo=zoo:num_epochs=2", "a2c:num_envs=2"]
    found = compare.prepare(algorithms, envs, preset="zoo", total_steps=320).experiments
    for i, env in enumerate(envs):
        config = found["ppo", env].config
        assert config.algorithm == folder[i].algorithm
        assert config.normalize_observations == (env == "Acrobot-v1")
        assert config.total_steps == 320
        assert found["mine", env].config.algorithm.num_epochs == 2
        assert found["mine", env].config.algorithm.hyperparams.discount == 0.98
        assert found["a2c:num_envs=2", env].config.algorithm == po.A2CConfig(num_envs=2)
    with pytest.raises(ValueError, match="preset must be"):
        compare.prepare(["ppo"], envs, preset="best")


def test_a_comparison_takes_the_wrappers_that_settings_are_for(folder):
    config = po.ExperimentConfig(
        algorithm=tiny.ALGORITHMS["a2c"], env="Pendulum-v1", wrappers=("action_repeat:2",)
    )
    zoo.write(zoo.Entry(config, EVIDENCE), zoo.FOLDER)
    zoo.entries.cache_clear()
    found = compare.prepare(["a2c"], "Pendulum-v1", preset="zoo", total_steps=320).experiments
    assert found["a2c", "Pendulum-v1"].config.wrappers == config.wrappers


def test_a_comparison_is_of_one_environment_and_of_the_zoo_s_budget(folder, tmp_path):
    repeated = po.ExperimentConfig(
        algorithm=tiny.ALGORITHMS["a2c"], env="Pendulum-v1", wrappers=("action_repeat:2",)
    )
    zoo.write(zoo.Entry(repeated, EVIDENCE), zoo.FOLDER)
    zoo.entries.cache_clear()
    expected = "same for all algorithms on Pendulum-v1, got tuned: action_repeat:2; ppo: none; --wr"
    with pytest.raises(ValueError, match=expected):
        compare.prepare(["tuned=a2c=zoo", "ppo"], "Pendulum-v1", total_steps=320)
    both = compare.prepare(
        ["tuned=a2c=zoo", "ppo"], "Pendulum-v1", wrappers=["action_repeat:2"], total_steps=640
    )
    assert {tuple(x.config.wrappers) for x in both.experiments.values()} == {repeated.wrappers}

    found = compare.prepare(["ppo", "a2c"], "CartPole-v1", preset="zoo", default_steps=99_840)
    steps = {label: x.config.total_steps for (label, _), x in found.experiments.items()}
    assert steps == {"ppo": 500_000, "a2c": 500_000}  # of the larger budget, for both
    found = compare.prepare(["ppo", "a2c"], "CartPole-v1", default_steps=99_840)
    assert {x.config.total_steps for x in found.experiments.values()} == {99_840}


def test_settings_that_are_given_stay_also_where_they_are_the_default_ones(folder, tmp_path):
    default = po.PPOConfig()
    (tmp_path / "mine.toml").write_text('algorithm = "ppo"\n')
    given = ["ppo:clip_eps=0.2", f"mine={tmp_path / 'mine.toml'}", "zoo=ppo", default]
    found = compare.prepare(given, "CartPole-v1", preset="zoo", total_steps=99_840).experiments
    for label in ("ppo:clip_eps=0.2", "mine", "ppo"):
        assert found[label, "CartPole-v1"].config.algorithm == default
    assert found["zoo", "CartPole-v1"].config.algorithm == folder[0].algorithm


def test_files_and_the_zoo_keep_their_normalisation_where_it_is_off_too(folder, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('algorithm = "ppo"\nnormalize_rewards = false\n')
    flags = {"normalize_observations": True, "normalize_rewards": True, "total_steps": 99_840}
    algorithms = [f"mine={path}", "ppo=zoo", "a2c"]
    found = compare.prepare(algorithms, ("CartPole-v1", "Acrobot-v1"), **flags).experiments
    kept = {
        key: (x.config.normalize_observations, x.config.normalize_rewards)
        for key, x in found.items()
    }
    for env, of_zoo in (("CartPole-v1", (False, False)), ("Acrobot-v1", (True, False))):
        assert kept["mine", env] == (False, False)
        assert kept["ppo=zoo", env] == of_zoo
        assert kept["a2c", env] == (True, True)


@pytest.mark.parametrize("field", ["env_params = {gravity = 3.0}", 'randomize = ["gravity=8:12"]'])
def test_a_file_in_a_comparison_does_not_change_the_task_in_silence(field, tmp_path):
    (tmp_path / "mine.toml").write_text(f'algorithm = "ppo"\n{field}\n')
    name = field.partition(" ")[0]
    mine = [f"mine={tmp_path / 'mine.toml'}", "a2c"]
    with pytest.raises(ValueError, match=f"mine must leave {name} to the comparison"):
        compare.prepare(mine, "CartPole-v1")
    if name == "randomize":
        compare.prepare(mine, "CartPole-v1", randomize=("gravity=8:12",))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train a2c --env Acrobot-v1 --preset zoo", "no settings of a2c on Acrobot-v1; it has a2c"),
        ("train trpo --env Acrobot-v1 --preset zoo", "it has ppo on Acrobot-v1"),
        ("compare a2c=zoo --env Acrobot-v1", "no settings of a2c on Acrobot-v1"),
        ("train ppo --preset zooo", "preset must be"),
        ("zoo --env Catch-bsuite", "zoo has no such pair; it has a2c on CartPole-v1"),
    ],
)
def test_what_the_zoo_lacks_is_one_line(command, message, folder, capsys):
    assert cli.main(command.split()) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_the_zoo_lists_its_numbers(folder, capsys):
    assert cli.main(["zoo", "--env", "CartPole-v1"]) == 0
    assert "480.2" in (shown := capsys.readouterr().out)
    assert "Acrobot" not in shown
    assert cli.main(["zoo", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["evidence"]["iqm"] for row in rows] == [480.25] * 3
    assert rows[0]["settings"]["algorithm"] == "ppo"
