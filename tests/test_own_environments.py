"""Environments that users bring: by name and as objects, in every command, checked by one call."""

import json

import grid
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po import cli, environments, named
from purejax_po.environments import registry

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

MISTAKES = {
    "FiveValues": "step must return six values",
    "NoFinal": 'before any reset as info["final_observation"], got an empty info',
    "Bools": "step must return terminated as a JAX bool, got Python's False",
    "IntegerReward": "step must return a float reward, got int32",
    "LimitAsEnd": "step must tell a time limit as truncated, got terminated",
    "Endless": "step must return finite rewards",
    "WrongDtype": "reset must return observations float32 as its space, got int32",
    "WrongShape": "reset must return observations of the shape [4] that observation_space has, got",
    "Outside": "observation must lie in its space",
    "ChangingState": "place must keep its dtype from step to step, got float32 after int32",
    "ChangingStructure": "the state must keep its structure from step to step",
    "NoSpace": "action_space(env_params) must return a space such as",
    "SpaceWithoutParams": "action_space(env_params) must return a space, and fails: TypeError",
    "FixedKey": "reset must draw its randomness from its key, and uses a fixed one",
    "FixedStepKey": "step must draw its randomness from its key, and uses a fixed one",
    "NumpyNoise": "must draw its randomness from its key alone, and one key gave two",
}


def test_each_mistake_is_found_and_named(subtests):
    for name in MISTAKES:
        with subtests.test(name):
            problems = po.check_env(getattr(grid, name)(), raises=False)
            assert any(MISTAKES[name] in line for line in problems), problems
            assert all("\n" not in line for line in problems)
            assert len(problems) <= 3, problems
            with pytest.raises(ValueError, match="must"):
                po.check_env(f"grid:{name}")


@pytest.mark.parametrize("env", [grid.GRID, "grid:Grid", "grid:make", "CartPole-v1", "Pendulum-v1"])
def test_a_correct_environment_has_no_problems(env):
    assert po.check_env(env) == []


def test_own_environments_are_made_by_name():
    assert po.make_env("grid:Grid", size=7)[0].size == 7
    assert po.make_env("grid:GRID")[0] is grid.GRID
    assert po.make_env(grid.Grid)[0].size == 4
    assert po.make_env("grid:make")[1].max_steps_in_episode == 6
    environments.check_name("grid:make")


WRONG = {
    "grid:Gird": "env grid:Gird is not there: grid has no Gird; did you mean Grid?",
    "no_such:Grid": "no module named no_such",
    "tests.grid": "got 'tests.grid'; yours are named module:name, such as my_pkg.my_module:MyClass",
    "grid:SpaceWithoutParams": "action_space(env_params) must return a space, and fails",
    "grid:nothing": "env grid:nothing must make an environment with reset and step, got None",
    "grid:MISTAKE": "grid has no MISTAKE",
}


def test_a_wrong_name_is_one_line(subtests, capsys):
    for name in WRONG:
        with subtests.test(name):
            assert cli.main(["train", "ppo", "--env", name]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert WRONG[name] in line


def test_options_that_an_environment_has_not_are_named():
    with pytest.raises(ValueError, match="option of grid:Grid must be one of size, got 'sise'"):
        po.make_env("grid:Grid", sise=3)
    with pytest.raises(ValueError, match="env grid:GRID has no options, got 'size'"):
        po.make_env("grid:GRID", size=3)


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    return po.register_env


def test_names_are_registered(register):
    register("Grid-v0", "grid:Grid")
    register("Grid-v1", lambda size=6: grid.Grid(size))
    assert {"Grid-v0", "Grid-v1"} <= set(environments.names())
    assert po.make_env("Grid-v1")[0].size == 6
    config = tiny.experiment(env="Grid-v0", env_options={"size": 5})
    assert po.run(config, progress=False).attrs["env"] == "Grid-v0"
    for name, target in {"CartPole-v1": grid.Grid, "a:b": grid.Grid, "new": 3}.items():
        with pytest.raises(ValueError, match="must be"):
            register(name, target)


def test_a_registered_name_does_not_reach_a_cluster(register, tmp_path):
    register("Grid-v0", "grid:Grid")
    with pytest.raises(ValueError, match="env must be named by module:name on a cluster"):
        po.run(tiny.experiment(env="Grid-v0"), tmp_path, cluster="auto")


def test_a_class_is_called_by_its_name():
    assert tiny.experiment(env=grid.Grid).env_name == "Grid"
    assert tiny.experiment(env=grid.make).env_name == "make"


def test_entry_points_give_short_names(monkeypatch):
    found = {"their/Grid": "grid:Grid", "CartPole-v1": "grid:Grid", "Chain-v0": "grid:Grid"}
    monkeypatch.setattr(named, "entry_points", lambda group: found)
    assert po.make_env("their/Grid", size=6)[0].size == 6
    assert "their/Grid" in environments.names()
    for ours in ("CartPole-v1", "Chain-v0"):
        assert not isinstance(po.make_env(ours)[0], grid.Grid)


def test_an_object_is_trained_without_out_and_refused_with_it(tmp_path):
    config = tiny.experiment(env=grid.Grid(5))
    found = po.run(config, progress=False)
    assert found.attrs["env"] == "Grid"
    with pytest.raises(ValueError, match="must name its environment, got an object Grid"):
        po.run(config, tmp_path / "run")
    both = po.compare(
        {"a": tiny.ALGORITHMS["a2c"]}, [grid.Grid(3)], num_seeds=1, total_steps=320, progress=False
    )
    assert both.attrs["env"] == "Grid"


@pytest.mark.parametrize("name", tiny.ALGORITHMS)
def test_every_algorithm_trains_on_an_own_environment_from_the_command_line(name, tmp_path):
    out, known = tmp_path / "run", tiny.SMALL.keys() & vars(tiny.ALGORITHMS[name]).keys()
    flags = ["--network.hidden", "8"]
    for option in known - {"network"}:
        flags += [f"--{option.replace('_', '-')}", str(tiny.SMALL[option])]
    call = ["train", name, "--env", "grid:Grid", "--env-options", "size", "3", *flags]
    assert cli.main([*call, "--seeds", "2", "--total-steps", "640", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["env"] == "grid:Grid"
    assert cli.main(["evaluate", str(out), "--episodes", "3"]) == 0


def test_an_own_environment_is_drawn_by_its_picture(tmp_path, monkeypatch):
    config = tiny.experiment(algorithm=tiny.ALGORITHMS["a2c"], env="grid:Grid")
    po.run(config, tmp_path / "run", progress=False)
    refused = r"Grid cannot be drawn: .* no method picture|needs pygame"
    with pytest.raises(ValueError, match=refused):
        po.render(tmp_path / "run", seed=0)
    drawn = []

    def picture(self, state, env_params):
        drawn.append(int(state.place))
        return np.full((4, 4, 3), 60 * state.place, np.uint8)

    monkeypatch.setattr(grid.Grid, "picture", picture, raising=False)
    path, frames = po.render(tmp_path / "run", seed=0)
    assert path.stat().st_size
    assert frames == len(drawn)
