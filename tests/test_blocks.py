"""Blocks as tasks: who is told of windows, settings of the caller, words for what is wrong."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from breaking import run_until

import purejax_po as po
from purejax_po.experiment.config import sweep
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import block, observers, pool
from purejax_po.experiment.run.plan import Plan
from purejax_po.metrics import Log, Moments

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


class Notes:
    def __init__(self):
        self.seen, self.closed = [], False

    def on_window(self, plan, labels, window):
        assert labels.columns["seeds"] == plan.labels(window.block).columns["seeds"]
        assert len(window.log.episode_return.count) == len(labels.names)
        self.seen.append((window.block, window.number))

    def close(self):
        self.closed = True


def test_an_observer_is_told_of_every_window_once_and_in_order(tmp_path):
    notes = Notes()
    po.run(tiny.experiment(), tmp_path / "run", progress=False, observers=[notes])
    assert notes.closed
    assert sorted(notes.seen) == [(b, w) for b in range(3) for w in range(10)]
    for i in range(3):
        assert [w for b, w in notes.seen if b == i] == list(range(10))


def test_a_resumed_run_tells_only_of_what_is_new(tmp_path):
    notes, out = Notes(), tmp_path / "run"
    run_until(out, 13)
    po.resume(out, progress=False, observers=[notes])
    assert sorted(notes.seen) == [(1, w) for w in range(3, 10)] + [(2, w) for w in range(10)]


def test_observers_of_a_run_that_is_complete_are_closed(tmp_path):
    notes, out = Notes(), tmp_path / "run"
    po.run(tiny.experiment(), out, progress=False)
    po.resume(out, progress=False, observers=[notes])
    assert notes.closed
    assert notes.seen == []


def test_an_observer_that_fails_ends_the_run_and_what_was_done_is_kept(tmp_path):
    class Failing(Notes):
        def on_window(self, plan, labels, window):
            raise RuntimeError("no more")

    notes, out = Failing(), tmp_path / "run"
    with pytest.raises(RuntimeError, match="no more"):
        po.run(tiny.experiment(num_seeds=40), out, progress=False, observers=[notes])
    assert notes.closed
    assert not (out / "summary.json").exists()
    assert po.resume(out, progress=False).sizes["seed"] == 40


def test_lanes_are_numbered_in_one_place():
    config = tiny.experiment(num_seeds=3, sweep={"learning_rate": (1e-4, 1e-3)})
    plan = Plan(config, 4, "cpu")
    assert [plan.numbers(block).tolist() for block in range(plan.num_blocks)] == [
        [0, 1, 2, 3],
        [4, 5],
    ]
    assert plan.labels(1).names == ["learning_rate=0.001/seed-1", "learning_rate=0.001/seed-2"]
    assert plan.updates == list(range(1, 11))


def test_the_log_of_a_complete_run_is_in_the_order_of_blocks(tmp_path):
    out = tmp_path / "run"
    po.run(tiny.experiment(), out, progress=False, num_devices=2)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = [(tuple(x["seeds"]), x["update"]) for x in lines]
    assert names == [(s, u) for s in ((0, 1), (2, 3), (4,)) for u in range(1, 11)]


def test_a_return_that_is_not_finite_is_null_in_the_log():
    plan = Plan(tiny.experiment(num_seeds=2), 2, "cpu")
    count, mean = np.ones(2), np.array([np.inf, 1.23456])
    log = Log(Moments(count, {}, {}), *[Moments(count, mean, count)] * 2)
    line = observers._line(plan, plan.labels(0), observers.Window(0, 0, log))
    assert json.loads(line, parse_constant=pytest.fail)["episode_return"] == [None, 1.2346]


def test_double_precision_of_a_context_reaches_the_workers():
    with jax.enable_x64(True):
        dataset = po.run(tiny.experiment(num_seeds=2), progress=False)
    assert dataset["entropy"].dtype == np.float64
    assert po.run(tiny.experiment(num_seeds=2), progress=False)["entropy"].dtype == np.float32


def test_what_is_wrong_about_the_host_is_one_line(subtests):
    for where, message in [
        ({"progres": False}, r"an argument must be one of .* did you mean progress\?"),
        ({"num_devices": 0}, "num_devices must be a whole number"),
        ({"checkpoint_every": -1}, "checkpoint_every must be"),
        ({"log_to": "wandb"}, "log_to must be a sequence of names"),
        ({"progress": 3}, "progress must be True, False or a function"),
        ({"observers": (3,)}, r"observers must be objects with on_window\("),
        ({"observers": print}, "observers must be a sequence"),
        ({"overwrite": "yes"}, "overwrite must be True or False"),
    ]:
        with subtests.test(message):
            with pytest.raises(ValueError, match=message) as error:
                po.run(tiny.experiment(), **where)
            assert "\n" not in str(error.value)


def test_what_says_where_a_run_takes_place_is_no_field_of_an_experiment():
    with pytest.raises(ValueError, match=r"num_devices says where .* purejax_po\.run\(config, num"):
        po.ExperimentConfig(num_devices=2)
    names = {f.name for f in dataclasses.fields(po.ExperimentConfig)}
    assert names.isdisjoint({f.name for f in dataclasses.fields(po.Host)})


def test_no_axis_has_the_name_of_something_in_the_results():
    log = Log(*[Moments(np.ones((1, 1)), x, x) for x in ({}, *[np.ones((1, 1))] * 2)])
    dataset = results.to_dataset(log, seeds=[0], updates=[1], steps_per_update=1)
    assert {*map(str, dataset.variables), *results.LABELS} <= set(sweep.RESERVED)


THREADS = pool.Threads


class Lossy:
    """Threads whose first receipt is told of as a loss: the worker died when it was done."""

    def __init__(self, *arguments):
        self._threads, self.submitted = THREADS(*arguments), []

    def __getattr__(self, name):
        return getattr(self._threads, name)

    def submit(self, block):
        self.submitted.append(block)
        self._threads.submit(block)

    def poll(self, timeout):
        events = self._threads.poll(timeout)
        for i, event in enumerate(events):
            if isinstance(event, block.Receipt) and not hasattr(self, "lost"):
                self.lost = events[i] = pool.Loss(event.block, "the worker died")
        return events


def test_a_block_whose_receipt_got_lost_is_not_run_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(pool, "Threads", lambda *x: made.append(Lossy(*x)) or made[-1])
    po.run(tiny.experiment(), tmp_path / "run", progress=False)
    po.run(tiny.experiment(), tmp_path / "expected", progress=False)
    assert sorted(made[0].submitted) == [0, 1, 2]
    for name in ("results.nc", "log.jsonl"):
        found = [(tmp_path / out / name).read_bytes() for out in ("run", "expected")]
        assert found[0] == found[1]
