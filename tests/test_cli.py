"""The command line: one clear line and exit code 2 for a user's mistake, readable directories."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from purejax_po import cli
from purejax_po.cli import commands, entry, looking
from purejax_po.experiment.run import program
from purejax_po.experiment.run.signals import Interrupted, stop_signal

pytestmark = pytest.mark.usefixtures("compile_quickly")

TINY = ["--num-envs", "2", "--num-steps", "16", "--network.hidden", "8", "--total-steps", "640"]


def command(*arguments):
    return [sys.executable, "-m", "purejax_po", *map(str, arguments)]


@pytest.fixture
def quickly(compile_quickly):
    """The environment of a process that compiles as this one does."""
    return {**os.environ, **compile_quickly}


def test_train_as_a_subprocess(tmp_path, quickly):
    out = tmp_path / "run"
    done = subprocess.run(
        command("train", "ppo", "--env", "CartPole-v1", "--seeds", 3, *TINY, "--out", out,
                "--hyperparams.learning-rate", "1e-3"),
        capture_output=True, text=True, timeout=300, check=False, env=quickly,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "final return, IQM" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["num_seeds"] == 3
    config = json.loads((out / "config.json").read_text())
    assert config["algorithm"]["hyperparams"]["learning_rate"] == 1e-3


def long_run(out, env):
    """A run in a subprocess, once it trains."""
    process = subprocess.Popen(
        command("train", "ppo", "--seeds", 2, *TINY[:-1], 20_000_000, "--num-windows", 1000,
                "--out", out),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    wait = 'until [ -s "$0" ]; do sleep 0.1; done'
    try:
        subprocess.run(["sh", "-c", wait, str(out / "log.jsonl")], timeout=200, check=True)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_a_readable_directory(tmp_path, signal_number, quickly):
    out = tmp_path / "run"
    process = long_run(out, quickly)
    try:
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 128 + signal_number
    assert "interrupted" in errors
    assert "Traceback" not in errors
    json.loads((out / "config.json").read_text())
    log = (out / "log.jsonl").read_text()
    assert all(json.loads(line)["update"] > 0 for line in log.splitlines())
    assert {p.name for p in out.iterdir()} == {"config.json", "plan.json", "log.jsonl", "blocks"}
    assert not list(out.rglob("*.partial"))
    assert "purejax-po resume" in errors


def test_a_directory_that_vanishes_is_one_line(tmp_path, quickly):
    out = tmp_path / "run"
    process = long_run(out, quickly)
    try:
        shutil.rmtree(out)
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if "error" in line]
    assert line.endswith("cannot be written: No such file or directory; it has vanished")


@pytest.mark.parametrize(
    ("number", "saved", "left"),
    [
        (errno.ENOENT, None, "it has vanished"),
        (errno.ENOSPC, None, "nothing was saved yet"),  # what was begun has been removed
        (errno.ENOSPC, "blocks", "nothing was saved yet"),
        (errno.ENOSPC, "blocks/000000/.state-000001.partial-1", "nothing was saved yet"),
        (errno.ENOSPC, "blocks/000000/state-000001", "its last checkpoint is intact"),
        (errno.ENOSPC, "ppo/blocks/000000/result", "its last checkpoint is intact"),
    ],
)
def test_a_run_that_cannot_write_says_what_is_left(
    tmp_path, monkeypatch, capsys, number, saved, left
):
    out = tmp_path / "run"
    if saved:
        (out / saved).mkdir(parents=True)
        (out / saved / "manifest.json").touch()

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(commands.train, "execute", fail)
    assert commands._execute(SimpleNamespace(directory=out), commands.Host()) == 1
    line = f"purejax-po: error: {out} cannot be written: {os.strerror(number)}; {left}\n"
    assert capsys.readouterr().err == line


def test_a_table_is_printed_though_it_cannot_be_kept(tmp_path, monkeypatch, capsys):
    returns = np.arange(6.0).reshape(2, 3)
    evaluation = xr.Dataset(
        {"episode_return": (("seed", "episode"), returns)}, coords={"seed": [0, 1]}
    )

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(looking.evaluating, "evaluate_run", lambda *_, **__: evaluation)
    monkeypatch.setattr(looking.atomic, "write_json", full)
    assert cli.main(["evaluate", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "evaluation return, IQM" in shown.out
    assert shown.err == f"purejax-po: error: {tmp_path}: No space left on device\n"


def test_a_grid_is_printed_though_a_return_is_unknown_and_it_cannot_be_kept(monkeypatch, capsys):
    returns = np.stack([np.full((2, 3), np.nan), np.arange(6.0).reshape(2, 3)])
    grid = xr.Dataset(
        {"episode_return": (("l", "seed", "episode"), returns)},
        coords={"l": [0.0, 1.0], "seed": [0, 1]},
    )
    monkeypatch.setattr(looking.evaluating, "evaluate_grid", lambda *_, **__: grid)
    monkeypatch.setattr(looking, "use_compilation_cache", lambda: None)
    assert cli.main(["evaluate", "/proc", "--grid", "l=0,1"]) == 1
    shown = capsys.readouterr()
    rows = [re.findall(r"[\w.-]+", line) for line in shown.out.splitlines()]
    assert ["0", "-"] in rows
    assert any(row[:2] == ["1", "2.5"] for row in rows)
    assert shown.err.startswith("purejax-po: error: /proc")
    assert shown.err.count("\n") == 1


def test_signals_wait_for_what_must_not_be_lost():
    number = signal.SIGTERM
    with stop_signal() as stop:
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(number)
        assert caught.value.signal_number == number
        stop.number = None
        seen = []

        def work():
            with stop.deferred():
                signal.raise_signal(number)
                seen.append(bool(stop))

        with pytest.raises(Interrupted):
            work()
        assert seen == [True]


def test_a_signal_that_was_swallowed_is_not_lost():
    with stop_signal() as outer:
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), stop_signal():
            pass
        outer.number = None
        with stop_signal() as inner:
            assert inner is outer


def test_a_signal_is_noted_though_the_terminal_is_gone():
    code = """
import os, signal
from purejax_po.experiment.run.signals import Interrupted, stop_signal
os.close(2)
try:
    with stop_signal() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        print("saved")
except Interrupted:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["saved", "interrupted"]


def test_a_signal_within_a_destructor_is_kept_without_a_word():
    code = """
import os, signal
from purejax_po.experiment.run.signals import Interrupted, stop_signal
class Victim:
    def __init__(self, action): self.action = action
    def __del__(self): self.action()
try:
    with stop_signal() as stop:
        Victim(lambda: os.kill(os.getpid(), signal.SIGTERM))
        Victim(lambda: 1 / 0)
        stop.check()
except Interrupted:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["interrupted"]
    assert "ZeroDivisionError" in done.stderr
    assert "Interrupted" not in done.stderr


def test_listening_to_signals_leaves_the_hook_that_another_has_put_on_top(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", print)
    with stop_signal():
        assert sys.unraisablehook is not print
    assert sys.unraisablehook is print
    with stop_signal():
        sys.unraisablehook = repr
    assert sys.unraisablehook is repr


def test_a_second_signal_is_final():
    code = """
import os, signal
from purejax_po.experiment.run.signals import stop_signal
with stop_signal() as stop, stop.deferred():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    print("never reached")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout == b""


def test_a_signal_while_compiling_ends_at_once(tmp_path, monkeypatch, capsys):
    def compile_program(*arguments):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(program, "compile_program", compile_program)
    out = tmp_path / "run"
    assert cli.main(["train", "ppo", *TINY, "--out", str(out)]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "purejax-po: interrupted before training"
    assert not out.exists()


MISTAKES = {
    "algorithm": (["train", "pppo"], ["algorithm must be one of", "'pppo'", "did you mean ppo?"]),
    "environment": (
        ["train", "ppo", "--env", "CartPoel-v1"],
        ["env must be", "'CartPoel-v1'", "did you mean CartPole-v1?"],
    ),
    "no minibatches": (
        ["train", "ppo", "--num-minibatches", "0"],
        ["num_minibatches must be", "got 0"],
    ),
    "minibatches": (
        ["train", "ppo", "--num-minibatches", "7"],
        ["num_minibatches must divide the batch of 512 samples, got 7"],
    ),
    "discount": (
        ["train", "ppo", "--hyperparams.discount", "1.5"],
        ["hyperparams.discount must be a number in [0, 1], got 1.5"],
    ),
    "lambda": (
        ["train", "trpo", "--hyperparams.gae-lambda", "-0.1"],
        ["hyperparams.gae_lambda must be a number in [0, 1], got -0.1"],
    ),
    "not finite": (
        ["train", "ppo", "--hyperparams.learning-rate", "nan"],
        ["hyperparams.learning_rate must be a finite number > 0, got nan"],
    ),
    "not positive": (
        ["train", "ppo", "--hyperparams.clip-eps", "0"],
        ["hyperparams.clip_eps must be a finite number > 0, got 0.0"],
    ),
    "environments": (["train", "ppo", "--num-envs", "0"], ["num_envs must be", "got 0"]),
    "too few steps": (
        ["train", "ppo", "--total-steps", "100"],
        ["total_steps must be at least one update", "512", "got 100"],
    ),
    "zero seeds": (["train", "ppo", "--seeds", "0"], ["num_seeds must be", "got 0"]),
    "hyperparameter": (
        ["train", "ppo", "--hyperparams.learning-rat", "1"],
        ["--hyperparams.learning-rat", "did you mean --hyperparams.learning-rate?"],
    ),
    "not a number": (["train", "ppo", "--seeds", "many"], ["--seeds", "'many'"]),
    "env_params": (
        ["train", "ppo", "--env-params", "gravitas", "3"],
        ["env_params of CartPole-v1 must be among", "gravity", "got 'gravitas'"],
    ),
    "environment's options": (
        ["train", "ppo", "--env", "Chain-v0", "--env-options", "lenght", "8"],
        ["option of Chain-v0 must be one of length, got 'lenght'; did you mean length?"],
    ),
    "no options": (
        ["train", "ppo", "--env-options", "length", "8"],
        ["env CartPole-v1 has no options, got 'length'"],
    ),
    "length": (
        ["train", "ppo", "--env", "Chain-v0", "--env-options", "length", "0"],
        ["length must be a whole number ≥ 1, got 0"],
    ),
    "environment of our own": (
        ["train", "ppo", "--env", "chain"],
        ["env must be", "'chain'", "did you mean Chain-v0?"],
    ),
    "preset of another algorithm": (
        ["train", "trpo", "--preset", "ppo-pendulum"],
        ["preset must be one for trpo, got 'ppo-pendulum', which is for ppo"],
    ),
    "windows": (["train", "ppo", "--num-windows", "3"], ["num_windows", "≥ 10, got 3"]),
    "too many steps": (
        ["train", "ppo", "--total-steps", "100000000000000000"],
        ["total_steps must be fewer than 2^31 updates"],
    ),
    "too many seeds": (["train", "ppo", "--seeds", "2000000000"], ["num_seeds must be at most"]),
    "a whole number": (
        ["train", "ppo", "--env-params", "max_steps_in_episode", "50.5"],
        ["env_params.max_steps_in_episode must be a whole number, got 50.5"],
    ),
    "time limit": (
        ["train", "ppo", "--env-params", "max_steps_in_episode", "0"],
        ["env_params.max_steps_in_episode must be a finite number ≥ 1, got 0"],
    ),
    "lanes": (
        ["train", "ppo", "--lanes-per-device", "1000000000000"],
        ["lanes_per_device must be"],
    ),
    "long path": (["train", "ppo", "--out", "a" * 300], ["out must be writable", "too long"]),
    "no run": (["resume", "nowhere"], ["directory must be that of a run, got nowhere"]),
    "preset": (["train", "ppo", "--preset", "x"], ["preset must be one of", "got 'x'"]),
    "max_kl": (
        ["train", "trpo", "--hyperparams.max-kl", "0"],
        ["hyperparams.max_kl must be a finite number > 0, got 0.0"],
    ),
    "fisher_fraction": (
        ["train", "npg", "--fisher-fraction", "1.5"],
        ["fisher_fraction must be a number in (0, 1], got 1.5"],
    ),
    "cg_iterations": (["train", "trpo", "--cg-iterations", "0"], ["cg_iterations", "≥ 1, got 0"]),
    "critic minibatch": (
        ["train", "trpo", "--critic-minibatch-size", "100"],
        ["critic_minibatch_size must divide the batch of 1024 samples, got 100"],
    ),
    "discrete observations": (
        ["train", "ppo", "--env", "FrozenLake-misc", "--normalize-observations"],
        ["normalize_observations must be False unless observations are a Box of numbers"],
    ),
    "squashed discrete actions": (
        ["train", "ppo", "--network.action-distribution", "tanh_gaussian"],
        ["action_distribution must be gaussian unless actions are a Box, got Discrete"],
    ),
    "psi": (
        ["train", "reinforce", "--psi", "baselin"],
        ["--psi", "'baselin'"],
    ),
    "kl_target": (
        ["train", "ppo", "--surrogate", "adaptive_kl", "--hyperparams.kl-target", "0"],
        ["hyperparams.kl_target must be a finite number > 0, got 0.0"],
    ),
    "memory": (
        ["train", "trpo", "--network.memory", "gru", "--critic-minibatch-size", "64"],
        [
            "critic_minibatch_size must be a multiple of num_steps = 128, since a critic with "
            "memory learns from whole sequences, got 64"
        ],
    ),
    "sequences": (
        ["train", "ppo", "--network.memory", "gru", "--num-minibatches", "8"],
        ["num_minibatches must divide the batch of 4 environments' sequences, got 8"],
    ),
    "group of one": (
        ["train", "grpo", "--env", "tokens/copy", "--group-size", "1"],
        ["group_size must be a whole number ≥ 2, got 1"],
    ),
    "groups": (
        ["train", "grpo", "--num-envs", "12"],
        ["num_envs must be a multiple of group_size = 8, got 12"],
    ),
    "clip": (
        ["train", "grpo", "--env", "tokens/copy", "--hyperparams.clip-low", "1"],
        ["hyperparams.clip_low must be a number in (0, 1), got 1.0"],
    ),
    "kl_coef": (
        ["train", "grpo", "--env", "tokens/copy", "--hyperparams.kl-coef", "-0.1"],
        ["hyperparams.kl_coef must be a finite number ≥ 0, got -0.1"],
    ),
    "context": (
        ["train", "grpo", "--env", "tokens/copy", "--env-options", "length", "8", "context", "8"],
        ["context must be more than the prompt's 8 tokens, got 8"],
    ),
    "end token": (
        ["train", "grpo", "--env", "tokens/copy", "--env-options", "symbols", "0"],
        ["vocabulary must hold the end token and a symbol at least, got 1 tokens"],
    ),
    "transformer elsewhere": (
        ["train", "grpo", "--network.memory", "transformer"],
        [
            "network.memory must be one of none, gru, lstm for grpo on CartPole-v1, "
            "got 'transformer'"
        ],
    ),
    "heads": (
        ["train", "grpo", "--env", "tokens/sort", "--network.num-heads", "5"],
        ["num_heads must divide the width 32, got 5"],
    ),
    "longer than an output": (
        ["train", "grpo", "--env", "tokens/copy", "--num-steps", "50"],
        ["num_steps must be at most the transformer's 7 tokens of an output, got 50"],
    ),
    "command": (["trian"], ["command must be one of", "'trian'", "did you mean train?"]),
    "nothing": ([], ["train"]),
}


def test_a_token_task_brings_its_settings():
    plain, task, changed = (
        entry.parse(["train", "grpo", "--env", *flags])
        for flags in (
            ["CartPole-v1"],
            ["tokens/copy"],
            ["tokens/copy", "--group-size", "4", "--total-steps", "9000"],
        )
    )
    assert plain.preset is None
    assert plain.algorithm.network.memory == "none"
    assert task.preset == changed.preset == "grpo-copy"
    assert task.experiment.env == "tokens/copy"
    assert task.algorithm.network.memory == changed.algorithm.network.memory == "transformer"
    assert task.experiment.total_steps == 500 * 128 * 7
    assert changed.experiment.total_steps == 9000
    assert changed.algorithm.group_size == 4


def test_a_mistake_gets_one_line(subtests, capsys, tmp_path, monkeypatch):
    for name in MISTAKES:
        with subtests.test(name):
            monkeypatch.chdir(tmp_path)
            arguments, expected = MISTAKES[name]
            assert cli.main(arguments) == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1
            assert errors.startswith("purejax-po: error: ")
            for text in expected:
                assert text in errors
            assert not list(tmp_path.iterdir())


def test_output_directory_is_checked_before_training(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    held = tmp_path / "held"
    held.mkdir()
    (held / "config.json").write_text("{}")
    for out, text in ((file, "got the file"), (held, "--overwrite"), (file / "below", "writable")):
        assert cli.main(["train", "ppo", "--out", str(out)]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert text in errors


def test_foreign_files_are_never_deleted(capsys, tmp_path):
    foreign = tmp_path / "checkpoints" / "model"
    foreign.parent.mkdir()
    foreign.write_text("precious")
    for flags in ([], ["--overwrite"]):
        assert cli.main(["train", "ppo", "--out", str(tmp_path), *flags]) == 2
        assert "with checkpoints but no config.json" in capsys.readouterr().err
    assert foreign.read_text() == "precious"


@pytest.mark.parametrize("content", ["{}", "[]", "nonsense"])
def test_resuming_what_is_no_run(capsys, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert cli.main(["resume", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "directory must be that of a run" in errors


def test_read_only_file_system(capsys):
    assert cli.main(["train", "ppo", "--out", "/proc/run"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "out must be writable, got /proc/run" in errors


def test_help(subtests, capsys):
    for arguments in [
        [],
        ["train"],
        ["train", "ppo"],
        ["train", "trpo"],
        ["sweep", "ppo"],
        ["evaluate"],
        ["envs"],
    ]:
        with subtests.test(str(arguments)):
            with pytest.raises(SystemExit) as exit_:
                cli.main([*arguments, "--help"])
            assert exit_.value.code in (0, None)
            assert "usage: purejax-po" in capsys.readouterr().out


def test_lists(capsys):
    assert cli.main(["algorithms"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("npg", "trpo", "ppo", "ppo-pendulum"))
    assert cli.main(["envs"]) == 0
    shown = capsys.readouterr().out
    assert "CartPole-v1" in shown
    assert "Chain-v0" in shown
    lines = shown.splitlines()
    assert any(line.split() == ["CartPole-v1", "4", "2", "actions", "500"] for line in lines)
    assert any("Pendulum-v1" in line and "1 in [-2, 2]" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert cli.main(["envs", "--json"]) == 0
    listed = {each["id"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["CartPole-v1"]["time_limit"] == 500
    assert {line.split()[0] for line in lines[1:] if line} >= set(listed)
