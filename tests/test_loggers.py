"""Loggers besides `log.jsonl`: what they are told, by seed; extras that are not installed."""

import dataclasses
import importlib.util
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

import purejax_po as po
from purejax_po import cli
from purejax_po.experiment.run import loggers

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

TINY = po.PPOConfig(
    num_envs=2,
    num_steps=16,
    num_epochs=1,
    num_minibatches=2,
    network=po.NetworkConfig(hidden=(8,)),
)
CONFIG = po.ExperimentConfig(algorithm=TINY, num_seeds=3, total_steps=640, lanes_per_device=2)


class Writer:
    """Stands in for tensorboardX.SummaryWriter."""

    opened: ClassVar[dict] = {}

    def __init__(self, path):
        self.scalars, self.closed = [], False
        Writer.opened[path] = self

    def add_scalar(self, name, value, steps):
        self.scalars.append((name, value, steps))

    def close(self):
        self.closed = True


class WandbRun:
    """Stands in for a run of wandb."""

    def __init__(self, options):
        self.options, self.logged, self.metrics, self.finished = options, [], [], False

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


def install(monkeypatch, name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members, __spec__=importlib.util.spec_from_loader(name, None))
    monkeypatch.setitem(sys.modules, name, module)


def test_both_are_told_every_window_of_every_seed(tmp_path, monkeypatch):
    wandb_runs = []

    def init(**options):
        wandb_runs.append(WandbRun(options))
        return wandb_runs[-1]

    install(monkeypatch, "tensorboardX", SummaryWriter=Writer)
    install(monkeypatch, "wandb", init=init)
    monkeypatch.setattr(Writer, "opened", {})
    monkeypatch.delenv("WANDB_MODE", raising=False)
    out = tmp_path / "run"
    config = dataclasses.replace(CONFIG, evaluate_every=5, evaluation_episodes=2)
    dataset = po.run(config, out, progress=False, log_to=["tensorboard", "wandb"])

    names = {str(out / "tensorboard" / f"seed-{seed}") for seed in range(3)}
    assert set(Writer.opened) == names
    for seed in range(3):
        writer = Writer.opened[str(out / "tensorboard" / f"seed-{seed}")]
        assert writer.closed
        for name in ("kl", "episode_return"):
            values = dataset[name].sel(seed=seed)
            expected = {
                int(step): value
                for step, value in zip(dataset["step"].values, values.values, strict=True)
                if np.isfinite(value)
            }
            assert {s: v for n, v, s in writer.scalars if n == name} == expected
        evaluated = dataset["evaluation_return"].sel(seed=seed)
        found = {s: v for n, v, s in writer.scalars if n == "evaluation_return"}
        assert found == dict(zip(dataset["evaluation"].values, evaluated.values, strict=True))

    (run,) = wandb_runs
    assert run.finished
    assert run.options["mode"] == "offline"
    assert run.options["config"]["num_seeds"] == 3
    assert run.metrics == [("*", "env_steps")]
    found = {x["env_steps"]: x["kl/seed-2"] for x in run.logged if "kl/seed-2" in x}
    expected = dict(zip(dataset["step"].values, dataset["kl"].sel(seed=2).values, strict=True))
    assert found == expected


def test_loggers_are_closed_when_a_run_breaks_off(tmp_path, monkeypatch):
    install(monkeypatch, "tensorboardX", SummaryWriter=Writer)
    monkeypatch.setattr(Writer, "opened", {})

    def stop(steps, episode_return):
        if Writer.opened:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        po.run(CONFIG, tmp_path / "run", progress=stop, log_to=["tensorboard"])
    assert all(writer.closed for writer in Writer.opened.values())


def test_a_missing_extra_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    for name, module in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        out = tmp_path / "run"
        for command in (["train", "ppo"], ["compare", "ppo"]):
            assert cli.main([*command, "--log-to", name, "--out", str(out)]) == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1
            assert f"log_to {name} needs {module}, which is not installed" in errors
            assert f"pip install 'purejax-po[{name}]'" in errors
        assert not out.exists()


def test_mistakes(tmp_path, monkeypatch):
    install(monkeypatch, "tensorboardX", SummaryWriter=Writer)
    with pytest.raises(ValueError, match=r"did you mean tensorboard\?"):
        po.run(CONFIG, tmp_path / "run", log_to=["tensorbord"])
    with pytest.raises(ValueError, match="needs a directory"):
        po.run(CONFIG, log_to=["tensorboard"])
    many = dataclasses.replace(CONFIG, num_seeds=1000)
    with pytest.raises(ValueError, match="at most 256 seeds, got 1000"):
        po.run(many, tmp_path / "run", log_to=["tensorboard"])


class Kept:
    """A logger of one's own."""

    made: ClassVar[list] = []

    def __init__(self, directory, config):
        self.directory, self.config, self.values, self.closed = directory, config, [], False
        Kept.made.append(self)

    def on_window(self, plan, labels, window):
        steps = plan.updates[window.number] * plan.steps_per_update
        self.values += [(steps, *x) for x in loggers.scalars(labels.names, window)]

    def close(self):
        self.closed = True


@pytest.mark.parametrize("name", ["test_loggers:Kept", "kept"])
def test_loggers_of_ones_own_are_named(tmp_path, monkeypatch, name):
    """By module:name, or by an entry point; they see each scalar of each lane and window."""
    monkeypatch.setattr(Kept, "made", [])
    found = {"kept": "test_loggers:Kept"}
    monkeypatch.setattr(loggers.named, "entry_points", lambda group: found)
    results = po.run(CONFIG, tmp_path / "run", progress=False, log_to=[name])
    (kept,) = sys.modules["test_loggers"].Kept.made
    assert kept.closed
    assert kept.config == CONFIG
    entropies = {(lane, steps): x for steps, lane, what, x in kept.values if what == "entropy"}
    assert len(entropies) == results["entropy"].size
    for seed in range(3):
        last = results["entropy"].sel(seed=seed).values[-1]
        assert entropies[f"seed-{seed}", 640] == pytest.approx(last)


def test_overwriting_a_run_removes_its_logs(tmp_path):
    out = tmp_path / "run"
    (out / "tensorboard" / "seed-0").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"with tensorboard but no config\.json"):
        po.run(CONFIG, out, overwrite=True, progress=False)
    (out / "config.json").write_text("{}")
    po.run(CONFIG, out, overwrite=True, progress=False)
    assert not (out / "tensorboard").exists()


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboardX")
    po.run(CONFIG, tmp_path / "run", progress=False, log_to=["tensorboard"])
    assert len(list((tmp_path / "run" / "tensorboard").glob("seed-*/events*"))) == 3


def test_wandb_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    po.run(CONFIG, tmp_path / "run", progress=False, log_to=["wandb"])
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
