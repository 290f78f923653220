"""Comparisons: the same runs as alone, resumable, one table, a report that needs no network."""

import base64
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from synthetic import make_run, save_run

import purejax_po as po
from purejax_po import cli
from purejax_po.experiment import compare as comparison
from purejax_po.experiment import config, train
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import join as runs
from purejax_po.experiment.store import lock

pytestmark = pytest.mark.usefixtures("compile_quickly")

TINY = po.PPOConfig(
    num_envs=2,
    num_steps=16,
    num_epochs=1,
    num_minibatches=2,
    network=po.NetworkConfig(hidden=(8,)),
)
FAST = dataclasses.replace(TINY, hyperparams=po.PPOHyperparams(learning_rate=1e-2))
LABELLED = {"slow": TINY, "fast": FAST}
SETTINGS = {"num_seeds": 3, "total_steps": 640, "lanes_per_device": 2}
PICTURES = {
    "learning_curves.png",
    "final_returns.png",
    "performance_profile.png",
    "probability_of_improvement.png",
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of two settings of PPO: its results and its directory."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    return po.compare(LABELLED, "CartPole-v1", out=out, progress=False, **SETTINGS), out


def test_each_run_is_what_it_is_alone(compared):
    dataset, _ = compared
    alone = po.run(po.ExperimentConfig(algorithm=FAST, **SETTINGS), progress=False)
    run = runs.split(dataset)["fast", "CartPole-v1"]
    for name in alone:
        assert alone[name].values.tobytes() == run[name].values.tobytes(), name
    assert not np.array_equal(dataset["kl"].sel(algorithm="slow"), run["kl"])


def test_directory(compared):
    dataset, out = compared
    directories = {"slow-CartPole-v1", "fast-CartPole-v1"}
    expected = {"comparison.json", "report.html", *PICTURES, *directories}
    assert {path.name for path in out.iterdir()} == expected
    xr.testing.assert_identical(po.load_runs(out), dataset)
    found = json.loads((out / "comparison.json").read_text())
    assert [(r["algorithm"], r["env"]) for r in found["runs"]] == list(runs.split(dataset))
    assert found["runs"][1]["config"]["algorithm"]["hyperparams"]["learning_rate"] == 1e-2
    summaries = found["results"]["summaries"]
    for run, summary in zip(runs.split(dataset).values(), summaries, strict=True):
        assert summary == po.summarize(run)
    (pair,) = found["results"]["probability_of_improvement"]
    assert (pair["x"], pair["y"]) == ("slow", "fast")
    for name in PICTURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_comparison_is_resumed(compared, tmp_path, monkeypatch):
    original, calls = train.execute, []

    def interrupted(study, *rest):
        calls.append(study)
        if len(calls) == 2:
            raise po.Interrupted(15)
        return original(study, *rest)

    monkeypatch.setattr(train, "execute", interrupted)
    out = tmp_path / "out"
    with pytest.raises(po.Interrupted):
        po.compare(LABELLED, "CartPole-v1", out=out, progress=False, **SETTINGS)
    assert json.loads((out / "comparison.json").read_text())["results"] is None
    with pytest.raises(ValueError, match="out must hold no comparison yet"):
        po.compare(LABELLED, "CartPole-v1", out=out, progress=False, **SETTINGS)
    (out / "fast-CartPole-v1").mkdir()  # killed that early
    (out / "fast-CartPole-v1" / ".lock").touch()
    resumed = po.resume_compare(out, progress=False)
    for name in compared[0]:
        if name not in runs.FIGURES:
            xr.testing.assert_identical(resumed[name], compared[0][name])
    assert (out / "report.html").exists()


def test_a_run_at_work_is_not_taken_away(compared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(compared[1], out)

    def files():
        return {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and "lock" not in p.name}

    before = files()
    with lock.hold(out / "fast-CartPole-v1"):
        with pytest.raises(ValueError, match=r"directory must be free, got .*fast-CartPole-v1"):
            po.compare(LABELLED, "CartPole-v1", out=out, overwrite=True, **SETTINGS)
        assert files() == before


def test_observers_are_closed_after_the_last_run():
    class Told:
        def __init__(self):
            self.labels = []

        def on_window(self, plan, labels, window):
            self.labels.append(float(plan.config.algorithm.hyperparams.learning_rate))

        def close(self):
            self.labels.append("closed")

    told = Told()
    po.compare(LABELLED, "CartPole-v1", progress=False, observers=[told], **SETTINGS)
    assert told.labels[-1] == "closed"
    assert len(set(told.labels[:-1])) == 2
    assert told.labels.count("closed") == 1


def test_no_run_is_put_into_a_comparison(compared):
    """`resume` there goes on with the comparison."""
    for overwrite in (False, True):
        with pytest.raises(
            ValueError, match=r"out must hold no comparison, got .*comparison\.json"
        ):
            po.run(po.ExperimentConfig(), compared[1], overwrite=overwrite)


def test_a_run_that_is_overwritten_is_not_taken_for_the_new_one(compared, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(compared[1], out)

    def interrupted(*_):
        raise po.Interrupted(2)

    monkeypatch.setattr(train, "execute", interrupted)
    longer = {**SETTINGS, "total_steps": 6400}
    with pytest.raises(po.Interrupted):
        po.compare(LABELLED, "CartPole-v1", out=out, overwrite=True, progress=False, **longer)
    prepared = comparison.prepare_resume(out)
    assert {x.config.total_steps for x in prepared.experiments.values()} == {6400}
    assert not any(x.is_resumed for x in prepared.experiments.values())


class Page(HTMLParser):
    """What a page loads, and its text."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(path):
    page = Page()
    page.feed(path.read_text())
    assert not page.open
    return page


@pytest.fixture
def four(tmp_path):
    """A directory with runs of two algorithms on two environments."""
    for name in ("trpo", "ppo"):
        for env in ("CartPole-v1", "Acrobot-v1"):
            save_run(tmp_path / "runs" / f"{name}-{env}", name, env, best=480.0 + len(name))
    return tmp_path / "runs"


def test_report_is_one_file_that_needs_nothing_else(four, tmp_path):
    dataset, path = po.report(four, tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    page = read_page(path)
    assert len(page.sources) == 5
    for source in page.sources:
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    text = path.read_text()
    assert not re.search(r"https?://|@import|url\(", text)
    for row in report.table(dataset):
        assert all(cell in page.text for cell in row.values())
    assert any("lanes each" in part for part in page.text)
    assert {p.name for p in path.parent.iterdir()} == {"report.html", "aggregates.png", *PICTURES}


def test_report_of_one_run_leaves_its_directory_as_it_is(tmp_path):
    save_run(tmp_path / "run")
    before = {path.name for path in (tmp_path / "run").iterdir()}
    _, path = po.report(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == before | {"report.html"}
    assert len(read_page(path).sources) == 3  # curve, bars, diagnostics


def test_report_shows_hostile_names_as_text(tmp_path):
    save_run(tmp_path / "run", "<script>alert(1)</script>")
    _, path = po.report(tmp_path / "run")
    read_page(path)
    assert "<script" not in path.read_text()


def test_report_where_every_seed_diverged(tmp_path):
    for name, diverged in (("ppo", range(8)), ("npg", range(8)), ("trpo", [])):
        save_run(tmp_path / "runs" / name, name, diverged=diverged)
    dataset, path = po.report(tmp_path / "runs")
    assert [row["IQM"] == "-" for row in report.table(dataset)] == [True, True, False]
    read_page(path)


def test_figures_of_a_comparison(four):
    found = report.figures(po.load_runs(four))
    assert set(found["aggregates"]) == {"trpo", "ppo"}
    assert set(found["aggregates"]["ppo"]) == {"iqm", "mean", "median", "optimality_gap"}
    for value in found["aggregates"]["ppo"].values():
        assert value["ci_low"] <= value["value"] <= value["ci_high"]
    json.dumps(found)
    assert "aggregates" not in report.figures(make_run())


MISTAKES = {
    "algorithm": (["ppoo"], "CartPole-v1", {}, "did you mean ppo?"),
    "environment": (["ppo"], ["CartPole-v1", "Acrobt-v1"], {}, "did you mean Acrobot-v1?"),
    "twice": (["ppo", "ppo"], "CartPole-v1", {}, "got ppo more than once; a label tells two"),
    "environment twice": (["ppo"], ["Acrobot-v1"] * 2, {}, "each env must be given once"),
    "nothing": ([], "CartPole-v1", {}, "algorithm must be given at least once"),
    "no environment": (["ppo"], [], {}, "env must be given at least once"),
    "setting": (["ppo"], "CartPole-v1", {"num_seed": 3}, "did you mean num_seeds?"),
    "one directory for two": (
        {"clip <": "ppo", "clip >": "ppo"},
        "CartPole-v1",
        {},
        "got clip--CartPole-v1 for clip < on CartPole-v1 and clip > on CartPole-v1",
    ),
    "wrappers of the zoo": (
        ["ppo=zoo", "a2c"],
        "MountainCar-v0",
        {"wrappers": ("time_limit:100",)},
        "wrappers must be left out for ppo=zoo on MountainCar-v0",
    ),
    "pair": (["ppo", "npg"], "CartPole-v1", {"total_steps": 600}, "npg on CartPole-v1: total_st"),
}


def test_a_mistake_in_any_pair_gets_one_line_before_training(subtests, tmp_path, monkeypatch):
    for name in MISTAKES:
        with subtests.test(name):
            monkeypatch.setattr(train, "execute", lambda *_, **__: pytest.fail("trained"))
            algorithms, envs, settings, message = MISTAKES[name]
            with pytest.raises(ValueError, match=re.escape(message)) as error:
                po.compare(algorithms, envs, out=tmp_path / "out", **settings)
            assert "\n" not in str(error.value)
            assert not list(tmp_path.iterdir())


def test_what_tells_two_apart_can_be_typed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.toml").write_text('algorithm = "ppo"\n')
    first, second = (str(tmp_path / name / "best.toml") for name in ("a", "b"))
    for algorithms, label in (
        ([first, f"{second}:num_epochs=2"], f"other={second}:num_epochs=2"),
        ([f"ppo={first}", f"ppo={second}"], f"other={second}"),
        (["ppo=ppo-pendulum"] * 2, "other=ppo=ppo-pendulum"),
    ):
        with pytest.raises(ValueError, match=f"two apart: {re.escape(label)}$"):
            comparison.prepare(algorithms, "CartPole-v1")
        comparison.prepare([algorithms[0], label], "CartPole-v1")
    with pytest.raises(ValueError, match=r"two apart: \{'other': PPOConfig\(…\)\}$"):
        comparison.prepare([TINY, FAST], "CartPole-v1")


def test_foreign_directories(tmp_path, compared):
    save_run(tmp_path / "run")
    with pytest.raises(ValueError, match="out must hold no run yet"):
        po.compare(["ppo"], out=tmp_path / "run")
    (tmp_path / "comparison.json").write_text('{"runs": [{}]}')
    with pytest.raises(ValueError, match=r"comparison\.json must be that of a comparison"):
        po.resume_compare(tmp_path)
    plan = json.loads((compared[1] / "comparison.json").read_text())
    plan["runs"][0]["config"]["colour"] = "red"
    (tmp_path / "comparison.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="configurations of this version") as error:
        po.resume_compare(tmp_path)
    assert "\n" not in str(error.value)


def test_every_algorithm_can_be_compared():
    prepared = comparison.prepare(tuple(config.ALGORITHMS), ["CartPole-v1", "Acrobot-v1"])
    assert len(prepared.experiments) == 2 * len(config.ALGORITHMS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig(po.PPOConfig):
    """PPO with settings that compile fast by default, as the command line takes no others."""

    num_envs: int = 2
    num_steps: int = 16
    num_epochs: int = 1
    num_minibatches: int = 2
    network: po.NetworkConfig = dataclasses.field(default_factory=lambda: TINY.network)


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(config.ALGORITHMS, "ppo", TinyConfig)
    out = str(tmp_path / "out")
    settings = ["--seeds", "3", "--total-steps", "640", "--lanes-per-device", "2"]
    command = ["compare", "ppo", "--env", "CartPole-v1", *settings, "--out", out]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    of_training = [column for column in report.BRIEF if not column.startswith("evaluation")]
    assert all(column in shown for column in of_training)
    assert "report.html" in shown
    assert cli.main(command) == 2
    assert "out must hold no comparison yet" in capsys.readouterr().err
    for again in (["resume", out], ["report", out]):
        assert cli.main(again) == 0
        assert capsys.readouterr().out == shown
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["compare", "ppp", "--out", str(tmp_path / "new")]) == 2
    assert "did you mean ppo?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
