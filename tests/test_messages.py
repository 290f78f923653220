"""One line for a mistake: what the parser, Python's calls and outputs would say at length."""

import os
import subprocess
import sys
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
import xarray as xr
from gymnax.environments import spaces
from gymnax.wrappers.gym import GymnaxToGymWrapper

import purejax_po as po
from purejax_po import cli
from purejax_po.cli import arguments, messages, output
from purejax_po.experiment import policies
from purejax_po.experiment.config import ALGORITHMS, NetworkConfig
from purejax_po.experiment.results import join


def test_what_does_not_parse_is_one_short_line(subtests, capsys, tmp_path, monkeypatch):
    for typed, told in [
        ("train ppo --set learning_rate=1,2", "sweep ppo --set learning_rate=1,2"),
        ("train ppo --set learning_rate 1 2", "sweep ppo --set learning_rate=1,2"),
        (
            "evaluate x --seed 3",
            "no option of evaluate (it has --episodes, --sample, --point, --best, --env, --grid)",
        ),
        ("compare ppo --lr 1e-3", "purejax-po compare ppo:learning_rate=1e-3"),
        ("compare a2c --no-normalize-advantage", "compare a2c:normalize_advantage=false"),
        ("compare ppo --network.hidden 8 8", "compare ppo:hidden=64x64"),
        ("train grpo --gae-lambda 0.9", "grpo has no gae_lambda, which reinforce, a2c"),
        ("train trpo --lr 0.9", "trpo has no learning_rate, which"),
        ("train ppo --learning_rate=1e-3", "here it is --hyperparams.learning-rate"),
        ("train ppo --learning-rate 1e-3", "here it is --hyperparams.learning-rate"),
        ("train ppo --hyperparams.lr 1", "here it is --hyperparams.learning-rate"),
        ("train --num-envs 8 trpo", "must stand after the algorithm: purejax-po train trpo --num"),
        ("train --cg-iterations 8 trpo", "purejax-po train trpo --cg-iterations 8"),
        ("train --network.hidden 8 trpo", "purejax-po train trpo --network.hidden 8"),
        ("train brought:Powered --num-env 1", "did you mean --num-envs?"),
        ("sweep --num-envs 1 brought:Powered", "sweep brought:Powered --num-envs 1"),
        ("train brought:Powered --num-envs 1.5", "--num-envs must be a whole number, got '1.5'"),
        ("train ppo --num-env 3", "unrecognised option --num-env; did you mean --num-envs?"),
        ("train ppo --zyx", "unrecognised option --zyx (see: purejax-po train --help)"),
        ("train ppo a2c", "for several: purejax-po compare ppo a2c"),
        ("evaluate a b", "evaluate takes no argument 'b' here"),
        ("train ppo --env-params gravity=abc", "env_params.gravity must be a number"),
        ("train ppo --env-params gravity=", "env_params.gravity must be a number"),
        ("train ppo --env-params gravity", "env_params.gravity must be a number"),
        ("train ppo --env-params", "env_params must be given names and values"),
        ("train ppo --network.hidden", "network.hidden must be whole numbers"),
        ("train ppo --network.hidden 64x64", "64 64 or 64,64 (for none: --network.hidden=), got"),
        ("train ppo --overwrite=maybe", "--overwrite must be true or false, got 'maybe'"),
        ("train ppo --seeds x", "--seeds must be a whole number, got 'x'"),
        ("train ppo --seeds", "--seeds must be given a value"),
        ("train ppo --memory-gib x", "--memory-gib must be a number, got 'x'"),
        ("train ppo --surrogate clop", "--surrogate must be one of clip, clip_only, unclipped"),
        ("evaluate", "directory must be given, such as: purejax-po evaluate runs/"),
        ("compare", "algorithms must be given, such as: purejax-po compare ppo a2c"),
        ("report", "directories must be given, such as: purejax-po report runs/"),
    ]:
        with subtests.test(told):
            monkeypatch.chdir(tmp_path)
            assert cli.main(typed.split()) == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1
            assert len(errors) < 240
            assert told in errors
            assert not list(tmp_path.iterdir())


def test_an_empty_out_is_not_this_folder(subtests, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (
        ["train", "ppo", "--out", ""],
        ["train", "ppo", "--out="],
        ["compare", "ppo", "a2c", "--out", ""],
        ["report", "x", "--out", ""],
    ):
        with subtests.test(str(given)):
            assert cli.main(given) == 2
            told = "out must be a path, such as 'runs/ppo-CartPole-v1', got ''"
            assert capsys.readouterr().err == f"purejax-po: error: {told}\n"
            assert not list(tmp_path.iterdir())
    (tmp_path / "mine.toml").write_text('out = ""\n')
    assert cli.main(["train", "ppo", "--config", "mine.toml"]) == 2
    assert "error: out in mine.toml must be a path, such as" in capsys.readouterr().err


def test_values_are_read_as_they_are_typed(subtests):
    for typed, read in [
        (["ppo", "--network.hidden", "64 64"], "ppo --network.hidden 64 64"),
        (["ppo", "--network.hidden", "(64, 32)"], "ppo --network.hidden 64 32"),
        (["ppo", "--network.hidden="], "ppo --network.hidden"),
        (["--network.hidden", "8", "ppo"], "--network.hidden 8 ppo"),
        (["--set", "learning_rate", "1e-4", "3e-4", "ppo"], "--set learning_rate=1e-4,3e-4 ppo"),
        (["ppo", "--set", "learning_rate=1e-4,", "3e-4"], "ppo --set learning_rate=1e-4,3e-4"),
        (["--point", "learning_rate", "1e-4", "7"], "--point learning_rate=1e-4 7"),
        (["ppo", "--normalize-observations", "true"], "ppo --normalize-observations"),
        (["ppo", "--normalize_observations=True"], "ppo --normalize-observations"),
        (["ppo", "--clip-value", "false"], "ppo --no-clip-value"),
        (["ppo", "--no-clip-value", "false"], "ppo --clip-value"),
        (["ppo", "--normalize-advantage", "off"], "ppo --normalize-advantage off"),
        (["a2c", "--normalize-advantage", "False"], "a2c --no-normalize-advantage"),
        (["--env-params", "a=1", "ppo", "--env-params=b=2"], "ppo --env-params a 1 b 2"),
        (["ppo", "--env-params", "gravity", "-9.8"], "ppo --env-params gravity -9.8"),
    ]:
        with subtests.test(read):
            assert arguments.normalize(["train", *typed]) == ["train", *read.split()]


def test_flags_are_those_of_the_commands():
    found = set()
    for command in cli.entry.COMMANDS.values():
        found |= {name for name, kind in messages.options(command).items() if kind is bool}
    of_network = {k for k, kind in messages.options(NetworkConfig).items() if kind is bool}
    assert found | {f"--network.{k[2:]}" for k in of_network} == set(arguments.FLAGS)
    for name, config in ALGORITHMS.items():
        own = {k for k, kind in messages.options(config).items() if kind is bool}
        assert own <= arguments._flags(name)


def test_every_alias_leads_to_an_option():
    known = {k for name in ALGORITHMS for k in messages.options(cli.commands.Train, name)}
    known |= set(messages.options(cli.looking.Evaluate))
    assert set(arguments.ALIASES.values()) <= known


def test_a_table_in_ascii_is_laid_out_for_what_is_shown():
    code = (
        "from purejax_po.cli import output, tables; output.use_any_output();"
        "tables.print_rows('a … b', {'min … max': '1 × 2', 'other name': 'x'})"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env)
    lines = done.stdout.decode().splitlines()
    assert lines[0].strip() == "a ... b"
    assert len({len(line) for line in lines[1:]}) == 1
    assert "| min ... max | 1 x 2 |" in lines


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_named(unbuffered):
    code = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -m purejax_po --version >/dev/full"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    expected = f"purejax-po: error: {output.OUTPUT}: No space left on device\n"
    assert done.stderr == expected


def test_a_failure_to_print_does_not_blame_the_run(monkeypatch, capsys):
    class Full:
        encoding = "utf-8"

        def write(self, text):
            raise OSError(28, "No space left on device")

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(output, "discard", lambda: None)
    assert cli.main(["algorithms"]) == 1
    told = capsys.readouterr().err
    assert told == f"purejax-po: error: {output.OUTPUT}: No space left on device\n"


@pytest.mark.parametrize("how", ["module", "script"])
def test_ctrl_c_while_jax_is_imported_is_one_line(how, tmp_path):
    (tmp_path / "jax.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    )
    script = tmp_path / "purejax-po"
    script.write_text("from purejax_po.cli import main\nraise SystemExit(main())\n")
    place = os.path.dirname(os.path.dirname(po.__file__))
    command = ["-m", "purejax_po"] if how == "module" else [str(script)]
    # A shell that runs this in the background would have SIGINT ignored.
    start = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    start += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", start, *command, "envs"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{place}"},
    )
    assert (done.returncode, done.stderr) == (130, "purejax-po: interrupted\n")


def test_calls_say_where_an_argument_belongs(subtests):
    for make, told in [
        (lambda: po.PPOConfig(64), r"PPOConfig\(num_envs=…\), got 64 without one"),
        (lambda: po.ppo(learning_rate=1e-3), r"hyperparams=PPOHyperparams\(learning_rate=…\)"),
        (lambda: po.ppo(lr=1e-3), r"lr is no argument of ppo but a hyperparameter: ppo\(policy"),
        (po.ppo, r"such as ppo\(\*mlp_actor_critic\(env, env_params\)\)"),
        (po.grpo, r"such as grpo\(mlp_actor_critic\(env, env_params\)\[0\]\)"),
        (lambda: po.a2c(None, None, clip=1), "a2c has no argument clip"),
        (lambda: po.PPOConfig(lr=1e-3), "lr is called learning_rate here, a field of PPOHyper"),
        (lambda: po.PPOConfig(gamma=0.9), "gamma is called discount here, a field of PPOHyper"),
        (lambda: po.PPOConfig(n_steps=3), "did you mean num_steps?"),
        (lambda: po.PPOHyperparams(lr=1), r"called learning_rate here: PPOHyperparams\(learning"),
        (
            lambda: po.ExperimentConfig(learning_rate=1),
            r"\(algorithm=PPOConfig\(hyperparams=PPOHyperparams\(learning_rate=…\)\)\)",
        ),
        (lambda: po.ExperimentConfig(num_envs=8), r"\(algorithm=PPOConfig\(num_envs=…\)\)"),
    ]:
        with subtests.test(told):
            with pytest.raises(ValueError, match=told) as error:
                make()
            assert "\n" not in str(error.value)


def test_paths_results_and_seeds_are_checked(subtests):
    for call, told in [
        (lambda: po.compare(["ppo"], out=3), "out must be a path, such as"),
        (lambda: po.resume_compare(3), "out must be a path"),
        (lambda: po.report(3), "paths must be a path"),
        (lambda: po.report("x", 3), "out must be a path"),
        (lambda: po.load_runs([3]), "paths must be a path"),
        (lambda: po.load_results(3), "path must be a path"),
        (lambda: po.save_results(None, 3), "path must be a path"),
        (lambda: po.evaluate_run(3), "out must be a path"),
        (lambda: po.load_policy(3, seed=0), "out must be a path"),
        (lambda: po.render(3, seed=0), "out must be a path"),
        (lambda: po.render("x", 3, seed=0), "path must be a path"),
        (lambda: po.run(po.ExperimentConfig(), ""), "out must be a path, such as .*, got ''"),
        (lambda: po.load_policy("", seed=0), "out must be a path, such as .*, got ''"),
        (lambda: po.load_runs("s3://b/x"), "must be a directory of this machine .* s3://b/x"),
        (lambda: po.load_runs({"a": "s3://b/x"}), "must be a directory of this machine"),
        (lambda: po.load_results("s3://b/x"), "must be a directory of this machine"),
        (lambda: po.save_results(None, "s3://b/x.nc"), "must be a directory of this machine"),
        (lambda: po.resume("s3://b/x"), "must be a directory of this machine"),
        (lambda: po.resume_compare("s3://b/x"), "must be a directory of this machine"),
        (lambda: po.compare(["ppo"], out="s3://b/x"), "must be a directory of this machine"),
        (lambda: po.plot(evaluation()), "without final_return; an evaluation has returns of"),
        (lambda: po.plot_diagnostics(evaluation()), "an evaluation has returns of episodes"),
        (lambda: po.plot_comparison(evaluation()), "an evaluation has returns of episodes"),
        (lambda: po.plot(3), "dataset must be results of run, .* got int"),
        (
            lambda: po.evaluate_run("x", evaluation_seed=-1),
            "evaluation_seed must be a whole number",
        ),
        (lambda: po.evaluate_run("x", evaluation_seed=1.5), "evaluation_seed must be a whole numb"),
        (
            lambda: po.evaluate_run("x", evaluation_seed=2**70),
            r"evaluation_seed must be below 2\^32",
        ),
    ]:
        with subtests.test(told):
            with pytest.raises(ValueError, match=told) as error:
                call()
            assert "\n" not in str(error.value)


def evaluation():
    """What `evaluate_run` returns."""
    return xr.Dataset({"episode_return": (("seed", "episode"), np.zeros((2, 3)))})


@pytest.mark.parametrize("seed", [-1, 1.5, "x", 2**70])
def test_a_seed_that_the_run_has_not_is_told(seed):
    trained = policies.TrainedPolicies(cast(Any, None), np.arange(3), np.zeros(3, bool), {})
    with pytest.raises(ValueError, match=f"run's finished seeds, 0 … 2, got {seed}"):
        policies._params_of(trained, cast(int, seed))


def test_a_run_chosen_from_several_is_summarized():
    two = {(name, "CartPole-v1"): synthetic.make_run(name) for name in ("a2c", "ppo")}
    both = join.join(two)
    chosen = po.summarize(both.isel(algorithm=1))
    assert (chosen["algorithm"], chosen["num_seeds"]) == ("ppo", 8)
    assert chosen == po.summarize(both)["runs"][1]


def test_table1_refuses_an_object_store(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["table1", "--out", "s3://b/x"]) == 2
    assert "out must be a directory of this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


ENV, ENV_PARAMS = po.make_env("CartPole-v1")
WITHOUT_ACTIONS = type("Idle", (type(ENV),), {"action_space": lambda *_: spaces.Discrete(0)})()
BLIND = type("Blind", (type(ENV),), {"observation_space": lambda *_: spaces.Box(0, 1, (0,))})()
HOST = GymnaxToGymWrapper(ENV)


def trainer(env):
    algorithm = po.ppo(*po.mlp_actor_critic(ENV, ENV_PARAMS))
    return po.make_trainer(env, ENV_PARAMS, algorithm, num_envs=1, num_steps=4)


def test_environments_spaces_and_seeds_are_checked(subtests):
    for make, told in [
        (lambda: po.mlp_actor_critic("CartPole-v1", None), r"make_env\('CartPole-v1'\)"),
        (lambda: po.gru_actor_critic("CartPole-v1", None), "got the name 'CartPole-v1'"),
        (lambda: po.linear_critic("CartPole-v1", None), "got the name 'CartPole-v1'"),
        (lambda: po.softmax_linear_policy("CartPole-v1", None), "got the name 'CartPole-v1'"),
        (lambda: po.gru_policy("tokens/copy", None), "got the name 'tokens/copy'"),
        (lambda: po.mlp_actor_critic(type(ENV), ENV_PARAMS), r"make one: CartPole\(\)"),
        (lambda: trainer(type(ENV)), r"got the class CartPole; make one: CartPole\(\)"),
        (lambda: trainer("CartPole-v1"), "got the name 'CartPole-v1'"),
        (
            lambda: po.mlp_actor_critic(WITHOUT_ACTIONS, ENV_PARAMS),
            "actions must have at least one",
        ),
        (lambda: trainer(WITHOUT_ACTIONS), "actions of .* must have at least one value"),
        (lambda: po.mlp_actor_critic(BLIND, ENV_PARAMS), "observations must have at least one val"),
        (lambda: trainer(BLIND), "observations of .* must have at least one value"),
        (
            lambda: po.shape_reward(HOST, lambda s: s.x, 0.9),
            "shape_reward needs an environment who",
        ),
        (lambda: po.reset_from(HOST, lambda *_: 0), "GymnaxToGymWrapper fails .*; wrap the gymnax"),
        (lambda: po.judge_outcome(HOST, lambda o: 0.0), "judge_outcome needs an environment whose"),
        (lambda: po.shape_reward("CartPole-v1", lambda s: s.x, 0.9), "got the name 'CartPole-v1'"),
        (
            lambda: po.seed_keys([[1, 2], [3]]),
            r"one list of whole numbers, got \[\[1, 2\], \[3\]\]",
        ),
        (lambda: po.seed_keys(2**70), "seeds must be a number in"),
        (lambda: po.seed_keys([2**70]), r"seeds must be whole numbers in \[0, 2\^32\), got 118059"),
        (lambda: jax.jit(po.seed_keys)(jnp.ones(2)), r"where they are traced, got float32\[2\]"),
        (lambda: jax.jit(po.seed_keys)(3), r"where they are traced, got int32\[\]"),
    ]:
        with subtests.test(told):
            with pytest.raises(ValueError, match=told) as error:
                make()
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        ({"num_steps": 10**12}, r"num_steps must be below 2\^31, got 1000000000000"),
        ({"num_epochs": 10**12}, r"num_epochs must be below 2\^31"),
        ({"num_envs": 2**20, "num_steps": 2**12}, r"fewer than 2\^31 samples of an update, got"),
        (
            {"network": po.NetworkConfig(hidden=(10**10,))},
            r"network.hidden must make fewer than 2\^31 weights",
        ),
        (
            {"network": po.NetworkConfig(hidden=(10**6, 10**6))},
            r"network.hidden must make fewer than 2\^31 weights",
        ),
    ],
)
def test_sizes_that_no_memory_holds_are_refused_by_the_configuration(algorithm, told):
    config = po.ExperimentConfig(algorithm=po.PPOConfig(**algorithm), total_steps=10**15)
    with pytest.raises(ValueError, match=told):
        config.check()
