"""Algorithms that users bring: by name, in every command, stored and read back."""

import dataclasses
import json
import os
import subprocess
import sys

import brought
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po import cli, named
from purejax_po.experiment.compare import prepare
from purejax_po.experiment.config import algorithm_config, file, specs

FILE = '''
"""A third party's algorithm, in one file."""
from dataclasses import dataclass, field
import purejax_po as po

@dataclass(frozen=True, kw_only=True)
class Mine(po.PPOConfig):
    """Mine: PPO by another name."""
    name = "mine"
    num_epochs: int = 1
    """Passes of mine."""
    loud: bool = False
    """A flag of mine."""
    network: po.NetworkConfig = field(default_factory=lambda: po.NetworkConfig(hidden=(8,)))
'''
pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")
TINY = ["--num-envs", "2", "--num-steps", "16", "--total-steps", "640", "--seeds", "2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with `my_pkg/mine.py` and mistakes beside it, where commands are called."""
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg/__init__.py").touch()
    (tmp_path / "my_pkg/mine.py").write_text(FILE)
    (tmp_path / "my_pkg/broken.py").write_text("import this_is_not_installed\n")
    (tmp_path / "my_pkg/fails.py").write_text("raise RuntimeError('first line\\nsecond')\n")
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "my_pkg":
            del sys.modules[name]


def command(*arguments):
    program = "import sys; from purejax_po.cli import main; sys.exit(main())"
    return [sys.executable, "-P", "-c", program, *map(str, arguments)]


def call(environment, *arguments):
    """A command in a process of its own, whose current folder is not on the path before."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_algorithm_is_trained_evaluated_and_reported_by_name(folder, compile_quickly):
    assert cli.main(["train", "my_pkg.mine:Mine", *TINY, "--out", "run"]) == 0
    stored = json.loads((folder / "run/config.json").read_text())["algorithm"]
    assert (stored["name"], stored["num_epochs"]) == ("my_pkg.mine:Mine", 1)
    assert json.loads((folder / "run/summary.json").read_text())["algorithm"] == "mine"
    assert "evaluation" in call(compile_quickly, "evaluate", "run", "--episodes", 2)
    assert cli.main(["resume", "run"]) == 0
    assert cli.main(["report", "run"]) == 0
    values = ["--set", "learning_rate=1e-4,1e-3"]
    assert cli.main(["sweep", "my_pkg.mine:Mine", *TINY, *values, "--out", "sweep"]) == 0
    both = ["compare", "my=my_pkg.mine:Mine", "my_pkg.mine:Mine:num_epochs=2", "--seeds", "1"]
    assert cli.main([*both, "--total-steps", "2000", "--out", "both"]) == 0
    runs = json.loads((folder / "both/comparison.json").read_text())["runs"]
    assert [run["algorithm"] for run in runs] == ["my", "mine:num_epochs=2"]


def test_help_shows_the_options_of_an_own_algorithm(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "my_pkg.mine:Mine", "--help"])
    shown = capsys.readouterr().out
    assert "Passes of mine." in shown
    assert "--hyperparams.clip-eps" in shown


def test_a_flag_of_an_own_algorithm_takes_true_and_false(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    before = ["train", "--env", "grid:Grid", "my_pkg.mine:Mine"]
    for typed, is_loud in ((["--loud", "true"], True), (["--loud=false"], False)):
        found = cli.entry.parse(cli.arguments.normalize([*before, *typed]))
        assert found.algorithm.loud is is_loud


def test_options_stand_before_an_own_algorithm_too(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    found = cli.entry.parse(["train", "--env", "Acrobot-v1", "my_pkg.mine:Mine"])
    assert found.algorithm.name == "mine"
    assert found.experiment.env == "Acrobot-v1"


MISTAKES = {
    "no_such_pkg.a:B": "algorithm no_such_pkg.a:B is not there: no module named no_such_pkg",
    "my_pkg.minne:Mine": "is not there: no module named my_pkg.minne",
    "my_pkg.mine": "got 'my_pkg.mine'; yours are named module:name, such as my_pkg.my_module",
    "my_pkg/mine.py:Mine": "yours are named module:name",
    "my_pkg.mine:Mien": "my_pkg.mine has no Mien; did you mean Mine?",
    "my_pkg.broken:A": "importing my_pkg.broken fails: No module named 'this_is_not_installed'",
    "my_pkg.fails:A": "importing my_pkg.fails fails: RuntimeError: first line",
    "brought:NoAlgorithm": "must be a subclass of purejax_po.AlgorithmConfig, got <class",
    "brought:Nameless": "algorithm brought:Nameless must have a name, as PPOConfig has",
    "brought:Plain": "algorithm brought:Plain must be a frozen dataclass",
    "brought:NoDefault": "must have a default for its field num_envs",
}


def test_a_wrong_name_is_one_line(subtests, folder, capsys):
    for name in MISTAKES:
        with subtests.test(name):
            assert cli.main(["train", name]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert MISTAKES[name] in line
            with pytest.raises(ValueError, match="algorithm"):
                specs.parse(name)


def test_a_run_whose_algorithm_has_gone_says_so(folder, capsys):
    assert cli.main(["train", "my_pkg.mine:Mine", *TINY, "--out", "run"]) == 0
    (folder / "my_pkg/mine.py").unlink()
    for name in ("my_pkg.mine", "my_pkg"):
        del sys.modules[name]
    capsys.readouterr()
    assert cli.main(["evaluate", "run"]) == 2
    assert "my_pkg.mine:Mine is not there: no module" in capsys.readouterr().err


def test_own_networks_and_hyperparameters_are_read_back():
    algorithm = brought.Powered(
        network=brought.Network(extras=[3]), hyperparams=brought.Hyperparams(power=2.0)
    )
    config = po.ExperimentConfig(algorithm=algorithm, total_steps=320)
    config.check()
    config.check_stored()
    again = po.ExperimentConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.algorithm.network.extras == [3]
    # A class other than that of the defaults is named.
    other = dataclasses.replace(po.PPOConfig(), network=brought.Network())
    config = dataclasses.replace(config, algorithm=other)
    config.check_stored()
    data = json.loads(json.dumps(config.to_dict()))
    assert data["algorithm"]["network"]["class"] == "brought:Network"
    assert po.ExperimentConfig.from_dict(data) == config


def test_own_hyperparameters_are_trained_and_resumed(tmp_path):
    config = tiny.experiment(algorithm=brought.Powered())
    first = po.run(config, tmp_path / "run", progress=False)
    again = po.resume(tmp_path / "run", progress=False)
    np.testing.assert_array_equal(first["episode_return"], again["episode_return"])


def test_entry_points_give_short_names(monkeypatch, capsys):
    found = {"powered": "brought:Powered", "broken": "brought:Missing"}
    monkeypatch.setattr(named, "entry_points", lambda group: found)
    assert algorithm_config("powered") is brought.Powered
    assert cli.entry.parse(["train", "--seeds", "2", "powered"]).algorithm.name == "powered"
    for before in ("train --env-params gravity 9", "tune --study ppo"):
        typed = [*before.split(), "powered", "--seeds", "2"]
        assert cli.entry.parse(cli.arguments.normalize(typed)).algorithm.name == "powered"
    with pytest.raises(
        ValueError, match=r"must stand after the algorithm: purejax-po train powered"
    ):
        cli.entry.parse(cli.arguments.normalize(["train", "--network.hidden", "8", "powered"]))
    typed = ["train", "ppo", "--log-to", "tensorboard", "brought:Logger", "--out", "here"]
    assert cli.entry.parse(typed).host.log_to == ("tensorboard", "brought:Logger")
    assert cli.main(["algorithms"]) == 0
    shown = capsys.readouterr().out
    assert "a third party's algorithm" in shown
    assert "brought has no Missing" in shown
    with pytest.raises(ValueError, match="did you mean powered"):
        algorithm_config("powerd")


def test_an_entry_point_s_name_stands_in_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(named, "entry_points", lambda group: {"short": "brought:Powered"})
    path = tmp_path / "short.toml"
    path.write_text('algorithm = "short"\nnum_envs = 4\n')
    for flags in ([], ["short"]):
        command = cli.entry.parse(["train", *flags, "--config", str(path)])
        command._check_start(command.config())
        assert command.config().algorithm == brought.Powered(num_envs=4)
    base = po.ExperimentConfig(algorithm=brought.Powered(num_steps=8))
    assert file.experiment({"algorithm": "short"}, path, base) == base
    found, config, *_ = specs.labelled(f"short={path}")
    assert (found, config) == ("short", brought.Powered(num_envs=4))
    with pytest.raises(ValueError, match="must be settings of ppo, got brought:Powered's"):
        specs.labelled(f"ppo={path}")


def test_the_package_s_settings_are_not_taken_for_a_class_of_the_same_name(
    subtests, monkeypatch, capsys
):
    monkeypatch.setattr(named, "entry_points", lambda group: {"own": "brought:OwnPPO"})
    own = "train brought:OwnPPO --env Acrobot-v1"
    for typed, told in [
        (f"{own} --preset zoo", "preset must be left out for brought:OwnPPO, got 'zoo'"),
        (f"{own} --preset ppo-pendulum", "one for brought:OwnPPO, got 'ppo-pendulum', which is fo"),
        (f"{own} --preset x", "preset must be one of ppo-pendulum, "),
        ("compare own=zoo --env Acrobot-v1", "preset must be left out for brought:OwnPPO"),
        ("compare own --preset zoo --env Acrobot-v1", "must be left out for brought:OwnPPO"),
    ]:
        with subtests.test(typed):
            assert cli.main(typed.split()) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert told in line


@pytest.mark.parametrize(
    ("text", "label", "num_epochs"),
    [
        ("ppo", "ppo", 4),
        ("ppo:num_epochs=2", "ppo:num_epochs=2", 2),
        ("slow=ppo:num_epochs=2", "slow", 2),
        ("tuned=ppo=ppo-pendulum", "tuned", 10),
        ("my=test_habits:Same:num_epochs=3", "my", 3),
        ("test_habits:Renamed:num_epochs=3", "mine:num_epochs=3", 3),
    ],
)
def test_labels_and_settings_of_names(text, label, num_epochs):
    found, config, *_ = specs.labelled(text)
    assert (found, config.num_epochs) == (label, num_epochs)
    assert list(prepare([text], "CartPole-v1").experiments) == [(label, "CartPole-v1")]


def test_a_setting_without_a_value_is_still_told():
    with pytest.raises(ValueError, match=r"algorithm must be \[LABEL=\]NAME"):
        specs.parse("ppo:num_epochs")


def test_a_state_without_parameters_is_one_line():
    env, env_params = po.make_env("CartPole-v1")
    algorithm = po.a2c(*po.mlp_actor_critic(env, env_params, hidden=(4,)))
    bare = algorithm._replace(init=lambda key, hyperparams: tuple(algorithm.init(key, hyperparams)))
    with pytest.raises(ValueError, match="must return a state with a field params"):
        po.make_trainer(env, env_params, bare, num_envs=2, num_steps=4)
