"""What people type: numbers, lists, pairs, other libraries' names; and any output."""

import subprocess
import sys

import pytest

from purejax_po import cli
from purejax_po.cli import entry, listing, tables
from purejax_po.cli.arguments import normalize
from purejax_po.environments import catalogue
from purejax_po.experiment.config import specs


def test_arguments_are_read_as_they_are_typed(subtests):
    for typed, read in [
        ("--total-steps 1e5", "--total-steps 100000"),
        ("--total-steps=2.5e3", "--total-steps 2500"),
        ("--hyperparams.learning-rate 1e-3", "--hyperparams.learning-rate 1e-3"),
        ("--network.hidden 64,32", "--network.hidden 64 32"),
        ("--network.hidden=64,32", "--network.hidden 64 32"),
        ("--env-params gravity=9.8", "--env-params gravity 9.8"),
        ("--env-params gravity=9.8,length=1", "--env-params gravity 9.8 length 1"),
        ("--env-params gravity 9.8", "--env-params gravity 9.8"),
        ("--set learning_rate 1e-4,3e-4", "--set learning_rate=1e-4,3e-4"),
        ("--set learning_rate=1e-4,3e-4", "--set learning_rate=1e-4,3e-4"),
        ("--out 1e5 --seeds 1e2", "--out 1e5 --seeds 100"),
        ("--total-steps .5e5 --seeds 4.0", "--total-steps 50000 --seeds 4"),
        ("--env-params a=1 --seeds 2 --env-params b=3", "--seeds 2 --env-params a 1 b 3"),
        ("--format svg,csv --log-to a,b", "--format svg csv --log-to a b"),
        ("--overwrite --seeds 3", "--overwrite --seeds 3"),
    ]:
        with subtests.test(read):
            assert normalize(["train", "ppo", *typed.split()]) == ["train", "ppo", *read.split()]


def test_typed_arguments_reach_the_configuration():
    typed = "train ppo --total-steps 1e5 --network.hidden 8,4 --env-params gravity=9"
    command = entry.parse(normalize(typed.split()))
    config = command.config()
    assert config.total_steps == 100_000
    assert config.algorithm.network.hidden == (8, 4)
    assert config.env_params == {"gravity": 9.0}


@pytest.mark.parametrize("typed", ["grpo --env tokens/copy", "--env tokens/copy grpo"])
def test_a_presets_place_does_not_depend_on_the_order(typed):
    """The second form silently trained an MLP with 16 environments for 500,000 steps."""
    command = entry.parse(["train", *typed.split()])
    config = command.config()
    assert command.preset == "grpo-copy"
    assert config.algorithm.num_envs == 128
    assert config.algorithm.network.memory == "transformer"


def test_flags_win_over_a_preset():
    config = entry.parse(["train", "--preset", "ppo-pendulum", "ppo", "--num-envs", "2"])
    assert config.config().algorithm.num_envs == 2
    assert config.config().env == "Pendulum-v1"


def test_a_mistake_is_one_line(subtests, capsys, tmp_path, monkeypatch):
    for typed, told in [
        ("", "command must be given, one of train, sweep, tune, compare"),
        ("train ppo --lr 3", "here it is --hyperparams.learning-rate"),
        ("train ppo --total-timesteps 3", "here it is --total-steps"),
        ("compare ppo --clip-value", "it is no option of compare"),
        ("compare ppo:learning_rat=3", "did you mean learning_rate?"),
        ("compare ppo:num_envs=1.5", "num_envs must be a whole number, got '1.5'"),
        ("compare ppo=grpo-copy", "preset of ppo must be one of ppo-pendulum"),
        (
            "train ppo --env-params max_steps_in_episode=3000000000",
            "env_params.max_steps_in_episode",
        ),
        ("train ppo --env-params gravity=1e39", "env_params.gravity must be a finite number"),
        ("train ppo --env-params gravity=nan", "env_params.gravity must be a finite number"),
        ("train ppo --env Chain-v0 --env-options length=3000000000", "env_options.length"),
        (
            "train ppo --hyperparams.learning-rate 1e-60",
            "learning_rate must be a finite number > 0",
        ),
        ("sweep ppo --set target_kl=0.1,0.2", "target_kl must be read by ppo with these options"),
        ("train ppo --env Acrobot-v1 --env-params link_length_2=2", "has no effect there"),
        ("train ppo --out s3://bucket/run", "out must be a directory of this machine"),
        ("report x --out s3://x/y", "out must be a directory of this machine"),
        ("evaluate s3://x/y", "directory must be a directory of this machine"),
        (
            "sweep ppo --set env_params.masscart=1,2 --env-params total_mass=1.1",
            "env_params.masscart must be read by CartPole-v1, and has no effect there",
        ),
        ("report x --format gif", "format must be one of png, svg, pdf, csv, tex"),
    ]:
        with subtests.test(told):
            monkeypatch.chdir(tmp_path)
            assert cli.main(typed.split()) == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1
            assert told in errors
            assert not list(tmp_path.iterdir())


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("purejax-po 0.")


def test_an_algorithm_with_settings():
    config = specs.parse("ppo:learning_rate=1e-3,num_epochs=8,hidden=8x4,early_stop=true")
    assert config.hyperparams.learning_rate == 1e-3
    assert (config.num_epochs, config.network.hidden, config.early_stop) == (8, (8, 4), True)
    assert specs.parse("ppo=ppo-pendulum").num_steps == 256
    assert specs.parse("trpo") == type(specs.parse("trpo"))()


def test_kernels_are_ppo_s_own_and_the_network_s_by_their_place(capsys):
    config = specs.parse("ppo:kernels=pallas,network.kernels=4x3")
    assert (config.kernels, config.network.kernels) == ("pallas", (4, 3))
    assert specs.parse("a2c:kernels=4x3").network.kernels == (4, 3)
    for typed, told in [
        (["--kernels", "pallas"], "compare ppo:kernels=pallas"),
        (["--network.kernels", "4", "3"], "compare ppo:network.kernels=8x4x3"),
    ]:
        assert cli.main(["compare", "ppo", *typed]) == 2
        assert told in capsys.readouterr().err


ENCODINGS = """
import io, sys
from purejax_po.cli import main
for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert main(["algorithms"]) == 0, encoding
    sys.stdout.flush()
    assert b"trust" in sys.stdout.buffer.getvalue().lower(), encoding
"""


def test_lists_print_on_any_output():
    finished = subprocess.run([sys.executable, "-c", ENCODINGS], capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_a_closed_output_ends_without_a_traceback():
    code = f"{sys.executable} -m purejax_po algorithms >&-"
    finished = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stderr == ""


def test_names_with_brackets_are_printed_as_they_are(capsys):
    tables.print_rows("a[/b]", {"runs:fire:1": "[red]x[/red] purejax-po[brax]"})
    shown = capsys.readouterr().out
    for text in ("a[/b]", "runs:fire:1", "[red]x[/red] purejax-po[brax]"):
        assert text in shown


def test_what_installs_a_library_is_told_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    shown = "\n".join(listing.lines([listing.describe("brax/ant")]))
    assert "brax/ant     needs extra brax" in shown
    assert 'pip install "purejax-po[brax]"' in shown
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: name)
    assert listing.describe("brax/ant").note == "installed"


@pytest.mark.parametrize(
    "typed",
    [
        "train ppo --wrappers time_limit:9 --wrappers frame_stack:4",
        "compare ppo --env CartPole-v1 --env=Acrobot-v1",
        "report here --format png --format svg",
    ],
)
def test_several_values_of_one_option_are_given_at_once(typed, capsys):
    """The parser took the last ones, and the others were lost in silence."""
    assert cli.main(typed.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be given once" in line


@pytest.mark.parametrize(
    "before", ["--config=c.toml", "--checkpoint-every=0.5", "--env-params=gravity=9.8", "--out=a.b"]
)
def test_an_option_that_holds_its_value_has_the_algorithm_after_it(before):
    typed = ["train", before, "trpo", "--normalize-advantage", "false"]
    assert "--no-normalize-advantage" in normalize(typed)
