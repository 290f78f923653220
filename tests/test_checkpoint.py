"""Checkpoints and resuming: every fault is detected, and a resumed run ends in the same bits."""

import dataclasses
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from breaking import KilledError, killed_at, run_until
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po.experiment import layout, policies, train
from purejax_po.experiment.run import devices, program
from purejax_po.experiment.run import study as driver
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.pool import Fit
from purejax_po.experiment.store import arrays as checkpoint
from purejax_po.experiment.store import run_store
from purejax_po.experiment.store.arrays import CheckpointError

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


@pytest.fixture(scope="module", params=tiny.ALGORITHMS)
def undisturbed(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    po.run(tiny.experiment(request.param), out, progress=False)
    return request.param, out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of an undisturbed run of PPO."""
    out = tmp_path_factory.mktemp("whole") / "run"
    po.run(tiny.experiment(), out, progress=False)
    return out


def assert_same_run(a, b):
    assert (a / "results.nc").read_bytes() == (b / "results.nc").read_bytes()
    assert (a / "log.jsonl").read_bytes() == (b / "log.jsonl").read_bytes()
    assert json.loads((a / "config.json").read_text()) == json.loads(
        (b / "config.json").read_text()
    )


def assert_equal(a, b):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("number", [3, 19])
def test_a_broken_off_run_ends_in_the_same_bits(undisturbed, tmp_path, number):
    name, expected = undisturbed
    out = tmp_path / "run"
    run_until(out, number, name=name)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"update": 3, "st')  # a line cut short
    po.resume(out, progress=False, checkpoint_every=0.0)
    assert_same_run(out, expected)


def test_resuming_a_complete_run_changes_nothing(undisturbed, tmp_path):
    _, expected = undisturbed
    out = tmp_path / "run"
    shutil.copytree(expected, out)
    po.resume(out, progress=False)
    assert_same_run(out, expected)


def test_the_time_of_a_run_is_counted_once(tmp_path):
    """Blocks that end while it runs add nothing; a run that goes on adds what was stored."""
    begun = time.perf_counter()
    whole = po.run(tiny.experiment(), tmp_path / "whole", progress=False, num_devices=1)
    assert 0.0 < whole.attrs["run_seconds"] <= time.perf_counter() - begun
    run_until(tmp_path / "run", 4)
    paths = (tmp_path / "run").glob("blocks/*/*/manifest.json")
    stored = max(json.loads(path.read_text())["meta"]["run_seconds"] for path in paths)
    begun = time.perf_counter()
    resumed = po.resume(tmp_path / "run", progress=False, num_devices=1)
    assert stored < resumed.attrs["run_seconds"] <= stored + time.perf_counter() - begun


def test_a_run_may_be_resumed_with_another_number_of_devices(whole, tmp_path):
    out = tmp_path / "run"
    run_until(out, 4)
    po.resume(out, progress=False, num_devices=3)
    assert (out / "results.nc").read_bytes() == (whole / "results.nc").read_bytes()


def test_going_on_with_other_versions_is_said(tmp_path):
    out = tmp_path / "run"
    run_until(out, 4)
    begun = json.loads((out / "plan.json").read_text())
    changed = {**begun, "versions": {**begun["versions"], "jaxlib": "0.0.1"}}
    (out / "plan.json").write_text(json.dumps(changed))
    with pytest.warns(UserWarning, match=r"was begun with jaxlib 0\.0\.1, now .* last bits"):
        po.resume(out, progress=False)


def test_only_the_newest_states_are_kept(tmp_path):
    out = tmp_path / "run"
    run_until(out, 9)
    names = sorted(p.name for p in (out / "blocks" / "000000").iterdir())
    assert names == ["state-000008", "state-000009"]


def stored(out):
    """The states and results of a run, block by block."""
    return sorted((out / "blocks").glob("*/[!.]*"))


def place(path):
    return f"{path.parent.name}/{path.name}"


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A run broken off in its last block, with two finished ones."""
    out = tmp_path_factory.mktemp("broken-off") / "run"
    run_until(out, 23)
    assert [place(p) for p in stored(out)] == [
        *("000000/result", "000001/result"),
        *("000002/state-000002", "000002/state-000003"),
    ]
    return out


@pytest.fixture(scope="module")
def restore(broken_off):
    """A function that tells what a run would start from: blocks done, windows, problems."""
    study = train.prepare_resume(broken_off)
    trainer = study.trainer
    lanes = Plan(study.config, 2, "cpu").lanes(0, trainer)
    state = jax.eval_shape(
        jax.vmap(lambda s, h, e: trainer.init(jax.random.key(s), h, e, 1)), *lanes
    )
    log = jax.eval_shape(
        jax.vmap(lambda h, s, e: trainer.step(h, s, e)[1]),
        lanes.hyperparams, state, lanes.env_params,
    )  # fmt: skip
    fit = Fit(2, "cpu", "cpu", 1, 0.0, 0.0, log)

    def restored(out):
        loop = driver._Loop(study, po.Host(), None, fit, [])
        loop._store = store_of(out)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logs = loop._restore(loop._store)
        windows = [logs[b].log.info.count.shape[1] if b in logs else 0 for b in range(3)]
        return sorted(loop._results), windows, [str(w.message) for w in caught]

    return restored


def store_of(out):
    return run_store.RunStore(out, run_store.stored_hashes(out))


def corrupt(path, kind, rng):
    """Damage a checkpoint; returns the checkpoints that are no longer what they were."""
    victims = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size > 0)
    victim = rng.choice(victims)
    content = bytearray(victim.read_bytes())
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        victim.write_bytes(content)
    elif kind == "truncate":
        victim.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "remove":
        victim.unlink()
    elif kind == "dangle":
        victim.unlink()
        victim.symlink_to("nothing")
    elif kind == "add":
        (victim.parent / "stray").write_bytes(b"x")
    elif kind == "swap":
        other = rng.choice([p for p in stored(path.parents[2]) if p != path])
        hold = path.with_name(".hold")
        path.rename(hold)
        other.rename(path)
        hold.rename(other)
        return {place(path), place(other)}
    return {place(path)}


@pytest.mark.parametrize("kind", ["flip", "truncate", "remove", "add", "swap", "dangle"])
def test_every_corruption_is_detected(broken_off, restore, tmp_path, kind):
    """40 random faults of each kind, 240 in all: none is loaded, and the newest valid step is."""
    rng = random.Random(kind)
    assert restore(broken_off) == ([0, 1], [10, 10, 3], [])
    for i in range(40):
        out = tmp_path / str(i)
        shutil.copytree(broken_off, out)
        damaged = corrupt(rng.choice(stored(out)), kind, rng)
        for path in stored(out):
            if place(path) in damaged:
                with pytest.raises(CheckpointError, match=place(path)):
                    store_of(out).read(path)
            else:
                store_of(out).read(path)
        done = [b for b in (0, 1) if f"00000{b}/result" not in damaged]
        states = [w for w in (3, 2) if f"000002/state-00000{w}" not in damaged]
        windows = [10 if b in done else 0 for b in (0, 1)] + [states[0] if states else 0]
        noticed = {name for name in damaged if name != "000002/state-000002"}
        both = {"000002/state-000002", "000002/state-000003"}
        expected = len(noticed) + (both <= damaged)
        found_done, found_windows, problems = restore(out)
        assert (found_done, found_windows) == (done, windows)
        assert len(problems) == expected
        shutil.rmtree(out)


@pytest.mark.parametrize("kind", ["flip", "truncate", "remove", "add", "swap"])
def test_a_damaged_run_still_ends_in_the_same_bits(broken_off, whole, tmp_path, kind):
    out = tmp_path / "run"
    shutil.copytree(broken_off, out)
    corrupt(stored(out)[-1], kind, random.Random(kind))
    with pytest.warns(UserWarning, match=r"is unusable: .*; (an older one is|its seeds start)"):
        po.resume(out, progress=False)
    assert_same_run(out, whole)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    assert sorted((out / "blocks").glob("*/*")) == stored(out)
    assert {p.name for p in stored(out)} == {"result"}


def test_a_run_without_its_checkpoints_says_that_it_starts_anew(broken_off, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(broken_off, out)
    shutil.rmtree(out / "blocks")
    with pytest.warns(UserWarning, match="holds no checkpoint: all seeds start again"):
        po.resume(out, progress=False)
    assert_same_run(out, whole)


def test_a_damaged_policy_is_left_out_aloud(tmp_path):
    out = tmp_path / "run"
    po.run(tiny.experiment(), out, progress=False, checkpoint_every=0.0)
    (stored(out)[0] / "manifest.json").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged; its seeds are left out"):
        evaluation = po.evaluate_run(out, num_episodes=1)
    left_out = evaluation.attrs["unfinished_seeds"]
    assert 0 < len(left_out) < 5
    assert sorted([*evaluation["seed"].values, *left_out]) == [0, 1, 2, 3, 4]


def test_lanes_are_noted_before_the_first_checkpoint(tmp_path):
    """Killed before anything was saved, and resumed where another number would be chosen."""
    out, expected = tmp_path / "run", tmp_path / "expected"
    config = tiny.experiment(num_seeds=4, lanes_per_device=None)
    po.run(config, expected, progress=False, num_devices=2)
    with killed_at(0), pytest.raises(KilledError):
        po.run(config, out, progress=False, num_devices=2)
    assert stored(out) == []
    assert po.resume(out, progress=False, num_devices=1).attrs["lanes_per_device"] == 2
    assert (out / "results.nc").read_bytes() == (expected / "results.nc").read_bytes()


def test_a_kill_while_the_directory_is_made_leaves_what_can_be_resumed(
    whole, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    for number in range(2):  # after the configuration, after the lanes
        original, calls = run_store.atomic.write_json, []

        def write_json(path, data, number=number, original=original, calls=calls):
            if len(calls) > number:
                raise KilledError
            calls.append(path)
            original(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(run_store.atomic, "write_json", write_json)
            with pytest.raises(KilledError):
                po.run(tiny.experiment(), out, overwrite=True, progress=False)
        assert (out / "config.json").exists()
        po.resume(out, progress=False)
        assert_same_run(out, whole)


def test_one_run_at_a_time_in_a_directory(tmp_path):
    out, refused = tmp_path / "run", []

    def progress(steps, episode_return):
        for start in (po.resume, lambda out: po.run(tiny.experiment(), out, overwrite=True)):
            with pytest.raises(ValueError, match=r"must be free, got .*a run is at work \(process"):
                start(out)
            refused.append(start)
        raise KilledError

    with pytest.raises(KilledError):
        po.run(tiny.experiment(), out, progress=progress)
    assert len(refused) == 2
    assert not (out / ".lock").exists()
    po.resume(out, progress=False)


def test_a_run_that_fails_before_training_leaves_nothing(tmp_path, monkeypatch):
    def compile_program(*arguments):
        raise KilledError

    monkeypatch.setattr(program, "compile_program", compile_program)
    program._compiled.clear()
    with pytest.raises(KilledError):
        po.run(tiny.experiment(), tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_no_valid_checkpoint_at_all_is_one_clear_line(broken_off, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(broken_off, out)
    for path in stored(out):
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no other one: start again") as error:
        po.resume(out, progress=False)
    assert "\n" not in str(error.value)


def test_another_configuration_is_refused(broken_off, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(broken_off, out)
    data = json.loads((out / "config.json").read_text())
    data["algorithm"]["hyperparams"]["discount"] = 0.5
    (out / "config.json").write_text(json.dumps(data))
    with pytest.raises(run_store.ForeignError, match="belongs to another configuration"):
        po.resume(out, progress=False)


def test_policies_and_results_of_another_configuration_are_refused(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    data = json.loads((out / "config.json").read_text())
    data["algorithm"]["network"]["activation"] = "relu"
    (out / "config.json").write_text(json.dumps(data))
    for use in (functools.partial(po.load_policy, seed=0), po.evaluate_run, po.resume):
        with pytest.raises(ValueError, match=r"belongs to another configuration than config\.json"):
            use(out)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"directory must be that of a run, got .*config\.json"):
        po.resume(tmp_path)


STATE = {"a": jnp.ones((2, 3)), "key": jax.random.key(0), "none": jnp.zeros((0, 4))}


def test_arrays_and_keys_come_back_to_the_bit(tmp_path):
    checkpoint.save(tmp_path / "one", checkpoint.flatten(STATE), {"n": 1})
    arrays, meta = checkpoint.load(tmp_path / "one")
    again = checkpoint.unflatten(STATE, arrays)
    assert meta == {"n": 1}
    assert (
        jax.random.key_data(again["key"]).tobytes() == jax.random.key_data(STATE["key"]).tobytes()
    )
    np.testing.assert_array_equal(again["a"], STATE["a"])
    assert again["none"].shape == (0, 4)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({**STATE, "b": jnp.ones(1)}, r"lacks a leaf of the run: \['b'\]"),
        ({k: v for k, v in STATE.items() if k != "a"}, r"leaf that the run has not: \['a'\]"),
        ({**STATE, "a": jnp.ones((3, 2))}, r"\['a'\] must be float32\[3, 2\] in the run"),
        ({**STATE, "a": jnp.ones((2, 3), int)}, r"\['a'\] must be int32\[2, 3\] in the run"),
    ],
)
def test_another_structure_is_refused_by_leaf(template, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.unflatten(template, checkpoint.flatten(STATE))


def test_a_failed_save_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch):
    target = tmp_path / "one"
    checkpoint.save(target, {"a": np.ones(3)}, {})

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(target, {"a": np.zeros(3)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["one"]
    assert checkpoint.load(target)[0]["a"].tolist() == [1, 1, 1]


def test_a_place_that_cannot_be_freed_ends_a_save(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "one", {"a": np.ones(3)}, {})
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *arguments, **options: None)
    with pytest.raises(OSError, match="not empty"):
        checkpoint.save(tmp_path / "one", {"a": np.zeros(3)}, {})
    assert checkpoint.load(tmp_path / "one")[0]["a"].tolist() == [1, 1, 1]


FULL = """
import errno, subprocess, sys
from pathlib import Path
import purejax_po as po
import tiny

disk, whole = map(Path, sys.argv[1:])
for size in ("12k", "40k", "80k"):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
    out = disk / "run"
    try:
        po.run(tiny.experiment(), out, progress=False, checkpoint_every=0.0)
        raise AssertionError("it has fitted")
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    print(size, len(list(out.glob("blocks/*/state-*"))), "states", flush=True)
    subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
    if (out / "config.json").exists():
        po.resume(out, progress=False)
    else:
        po.run(tiny.experiment(), out, progress=False)
    for name in ("results.nc", "log.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), (size, name)
    subprocess.run(["umount", disk], check=True)
"""


def test_a_disk_that_is_full_loses_nothing(whole, tmp_path, compile_quickly):
    """A real one, in a mount namespace: before anything is saved, and while states are."""
    alone, disk = ["unshare", "--mount"], tmp_path / "disk"
    disk.mkdir()
    mounting = [*alone, "mount", "-t", "tmpfs", "none", disk]
    if shutil.which("unshare") is None or subprocess.run(mounting, check=False).returncode:
        pytest.skip("needs a mount namespace")
    tests = Path(__file__).parent
    path = f"{tests}{os.pathsep}{tests.parent}"
    environment = {**os.environ, **compile_quickly, "PYTHONPATH": path}
    command = [*alone, sys.executable, "-c", FULL, disk, whole]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {int(line.split()[1]) > 0 for line in done.stdout.splitlines()}
    assert found == {False, True}, done.stdout


@pytest.mark.parametrize(("keep", "left"), [(1, [6]), (2, [6, 5])])
def test_states_stay_beside_a_newer_one_that_is_damaged(tmp_path, keep, left):
    """Else each of them would go as soon as it is written."""
    out = tmp_path / "run"
    run_until(out, 5)
    folder = layout.block_folder(out, 0)
    shutil.copytree(folder / layout.state_name(5), damaged := folder / layout.state_name(9))
    (damaged / checkpoint.ARRAYS).write_bytes(b"")
    store = run_store.RunStore(out, run_store.stored_hashes(out), keep)
    stored, problems = store.newest(0)
    assert len(problems) == 1
    store.save(0, 6, stored.arrays, stored.meta)
    assert [number for number, _ in layout.states(folder)] == left


def test_what_is_overwritten_may_be_a_link(whole, tmp_path):
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(whole, out)
    (out / "blocks").rename(elsewhere)
    (out / "blocks").symlink_to(elsewhere)
    po.run(tiny.experiment(), out, overwrite=True, progress=False)
    assert_same_run(out, whole)
    assert list(elsewhere.iterdir())  # of whoever has made the link


def test_an_interruption_before_training_leaves_the_run_that_was_to_be_replaced(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)

    def interrupt(*arguments):
        raise po.Interrupted(signal.SIGINT)

    with mock.patch.object(train, "open_pool", interrupt), pytest.raises(po.Interrupted) as stop:
        po.run(tiny.experiment(total_steps=640), out, overwrite=True, progress=False)
    assert str(stop.value) == f"interrupted before training; {out} is as it was"
    assert stop.value.saved_to is None
    assert_same_run(out, whole)


def test_another_number_of_cores_is_told(tmp_path, monkeypatch):
    """Last bits of large products may depend on it."""
    out = tmp_path / "run"
    monkeypatch.setattr(devices, "SPLIT_PRODUCT", 1)
    run_until(out, 4)
    plan = json.loads((out / "plan.json").read_text())
    monkeypatch.setenv("PJRT_NPROC", "99")
    with pytest.warns(UserWarning, match=f"begun with XLA's threads {plan['threads']}, now 99: "):
        po.resume(out, progress=False)


def test_products_that_xla_splits():
    small, large = po.PPOConfig(), po.PPOConfig(num_envs=64, num_steps=64)
    assert not devices.depends_on_threads(small)
    assert devices.depends_on_threads(large)
    assert devices.depends_on_threads(po.TRPOConfig(network=po.NetworkConfig(hidden=(128, 128))))
    assert devices.depends_on_threads(po.PPOConfig(network=po.NetworkConfig(channels=(8,))))


@pytest.mark.parametrize("name", ["plain", "lr=[1e-3,3e-4]", "C:\\runs\\x", "a[/b]*?{c}"])
def test_any_folder_name_reads_back(tmp_path, name):
    """A library that takes a path for a pattern would find nothing there."""
    place = tmp_path / name.replace("/", "-")
    place.mkdir()
    checkpoint.save(place / "done-000001", {"w": np.ones(3, np.float32)}, {})
    assert checkpoint.load(place / "done-000001")[0]["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int8", "uint32", "bool"])
def test_arrays_of_every_dtype_and_layout_come_back_to_the_bit(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(jnp.dtype(dtype))
    arrays = {"rows": array, "columns": array.T, "every other": array[:, ::2], "one": array[1, 1]}
    checkpoint.save(tmp_path / "one", {k: np.asarray(v) for k, v in arrays.items()}, {})
    for name, found in checkpoint.load(tmp_path / "one")[0].items():
        assert found.dtype == array.dtype
        assert found.tobytes() == np.asarray(arrays[name]).tobytes()
        assert found.shape == arrays[name].shape


def test_a_run_in_a_folder_with_brackets_is_resumed_and_evaluated(whole, tmp_path):
    out = tmp_path / "lr=[1e-3]" / "a\\b"
    run_until(out, 4)
    po.resume(out, progress=False)
    assert_same_run(out, whole)
    assert po.evaluate_run(out, num_episodes=1).sizes["seed"] == 5


def test_the_first_checkpoint_is_read_back_where_it_was_written(tmp_path, monkeypatch):
    """A place that loses what it is given ends the run at once, not at the resume."""
    write = checkpoint._write

    def lossy(path, content):
        write(path, content[:-1] if path.name == checkpoint.ARRAYS else content)

    monkeypatch.setattr(checkpoint, "_write", lossy)
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: "the same")
    with pytest.raises(CheckpointError, match="is unreadable"):
        po.run(tiny.experiment(), tmp_path / "run", progress=False, checkpoint_every=0.0)


def test_checkpoints_of_version_0_1_are_read(tmp_path):
    """They were written by orbax; their manifest is the same but for its format."""
    import orbax.checkpoint as ocp

    place = tmp_path / "run[1]" / "done-000001"
    place.mkdir(parents=True)
    plain = tmp_path / "arrays"
    ocp.PyTreeCheckpointer().save(plain, {"00000": np.arange(3)})
    shutil.move(plain, place / "arrays")
    files = [p for p in (place / "arrays").rglob("*") if p.is_file()]
    manifest = {
        "format": 1,
        "name": place.name,
        "meta": {"n": 1},
        "leaves": ["w"],
        "files": {str(p.relative_to(place)): checkpoint._sha256(p) for p in files},
    }
    signed = {"sha256": checkpoint._sha256_of_json(manifest), **manifest}
    (place / checkpoint.MANIFEST).write_text(json.dumps(signed))
    arrays, meta = checkpoint.load(place)
    assert (arrays["w"].tolist(), meta) == ([0, 1, 2], {"n": 1})


@pytest.mark.parametrize("out", ["s3://bucket/run", "gs://bucket", "hdfs://host/x"])
def test_an_object_store_is_refused_in_one_line(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"out must be a directory of this machine.*"):
        po.run(tiny.experiment(), out)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_log_is_written_anew_from_the_checkpoints(undisturbed, tmp_path):
    name, expected = undisturbed
    out = tmp_path / "run"
    run_until(out, 13, name=name)
    (out / "log.jsonl").write_bytes(b'12\n{"updbte": 1, "seeds": [0]}\n\xff\xfe\n{"update": 2, "s')
    po.resume(out, progress=False)
    assert_same_run(out, expected)


@pytest.fixture
def of_0_1(whole, tmp_path):
    """A complete run as version 0.1 left it, but that orbax wrote its arrays."""
    out = tmp_path / "old"
    shutil.copytree(whole, out)
    data = json.loads((out / "config.json").read_text())
    del data["format"]
    identity = json.dumps(data, sort_keys=True).encode()
    arrays = {
        f"{int(path.parent.name)}/{name}": array
        for path in stored(out)
        for name, array in checkpoint.load(path)[0].items()
    }
    meta = {
        "lanes_per_device": 2,
        "config_sha256": hashlib.sha256(identity).hexdigest(),
        "blocks": [0, 1, 2],
        "versions": {"purejax-po": "0.1.0"},
    }
    shutil.rmtree(out / "blocks")
    (out / "plan.json").unlink()
    (out / "checkpoints").mkdir()
    checkpoint.save(out / "checkpoints" / "done-000001", arrays, meta)
    old = {**data, "num_devices": 1, "memory_gib": None, "stop_on_divergence": False}
    (out / "config.json").write_text(json.dumps(old))
    return out


def test_a_complete_run_of_version_0_1_stays_readable(of_0_1, whole, tmp_path):
    assert po.load_runs([of_0_1]).sizes["seed"] == 5
    po.resume(of_0_1, progress=False)
    found = [po.evaluate_run(out, num_episodes=2) for out in (of_0_1, whole)]
    np.testing.assert_array_equal(*(x["episode_return"] for x in found))
    po.report([of_0_1], tmp_path / "report")


def test_an_unfinished_run_of_version_0_1_is_refused_in_one_line(of_0_1):
    (of_0_1 / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"begun by purejax-po 0\.1, .* start again") as error:
        po.resume(of_0_1)
    assert "\n" not in str(error.value)
    po.run(tiny.experiment(), of_0_1, overwrite=True, progress=False)
    assert not (of_0_1 / "checkpoints").exists()


def test_a_run_that_lost_its_plan_goes_on(whole, tmp_path):
    out = tmp_path / "run"
    run_until(out, 15)
    (finished,) = (out / "blocks").glob("*/result/*.safetensors")
    written = finished.stat().st_mtime_ns
    (out / "plan.json").unlink()
    resumed = po.resume(out, progress=False, num_devices=1)
    assert finished.stat().st_mtime_ns == written
    expected = po.load_results(whole)
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name])


def test_a_field_that_config_json_lacks_has_its_default(whole, tmp_path):
    """As where a later version has a field more; one that it does not know is named."""
    out = tmp_path / "run"
    run_until(out, 4)
    data = json.loads((out / "config.json").read_text())
    del data["matmul_precision"], data["algorithm"]["network"]["mlp_ratio"]
    (out / "config.json").write_text(json.dumps(data))
    (out / "config.json").write_text(json.dumps({**data, "colour": 1}))
    with pytest.raises(ValueError, match="ExperimentConfig has no field colour"):
        po.resume(out)
    (out / "config.json").write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(ValueError, match="its format is 99, and this version reads 1 … 4"):
        po.resume(out)
    (out / "config.json").write_text(json.dumps(data))
    po.resume(out, progress=False)
    assert (out / "results.nc").read_bytes() == (whole / "results.nc").read_bytes()
    assert po.evaluate_run(out, num_episodes=1).sizes["seed"] == 5


def test_results_that_are_lost_are_made_anew(undisturbed, tmp_path):
    _, expected = undisturbed
    out = tmp_path / "run"
    shutil.copytree(expected, out)
    (out / "results.nc").unlink()
    with pytest.warns(UserWarning, match="made again from the checkpoints"):
        po.resume(out, progress=False)
    assert_same_run(out, expected)


def test_policies_come_out(undisturbed):
    _, out = undisturbed
    act = po.load_policy(out, seed=3)
    actions = act(jnp.zeros((7, 4)))
    assert actions.shape == (7,)
    evaluation = po.evaluate_run(out, num_episodes=4)
    assert dict(evaluation.sizes) == {"seed": 5, "episode": 4}
    assert (evaluation["episode_length"] >= 8).all()
    with pytest.raises(ValueError, match=r"seed must be one of .* 0 … 4, got 5"):
        po.load_policy(out, seed=5)
    with pytest.raises(ValueError, match=r"num_episodes must be at most 2000000 for 5 seeds"):
        po.evaluate_run(out, num_episodes=10**13)
    with pytest.raises(ValueError, match=r"path must end in \.gif for CartPole-v1, got .*a\.mp4"):
        po.render(out, out / "a.mp4", seed=3)


def test_a_run_that_normalises_is_resumed_and_its_policies_come_out(tmp_path):
    """The statistics are in checkpoints under way, and with the policies of finished seeds."""
    options = {"normalize_observations": True, "normalize_rewards": True}
    expected, out = tmp_path / "expected", tmp_path / "run"
    po.run(tiny.experiment(**options), expected, progress=False)
    run_until(out, 19, **options)
    po.resume(out, progress=False, checkpoint_every=0.0)
    assert_same_run(out, expected)
    runs = [policies.load_policies(path) for path in (out, expected)]
    assert_equal(*(run.params for run in runs))

    found, trainer = runs[0].params, runs[0].study.trainer
    np.testing.assert_array_equal(found.obs.count, 320.0)
    assert len(np.unique(found.obs.mean[:, 0])) == 5
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for seed in (0, 3):
        lane = jax.tree.map(lambda x, seed=seed: x[seed], found)
        std = np.sqrt(lane.obs.m2 / lane.obs.count)
        normalized = jnp.asarray(np.clip((obs - lane.obs.mean) / std, -10, 10))
        _, distribution = trainer.algorithm.actor.act(
            lane.params, (), normalized, jnp.zeros(50, bool)
        )
        actions = po.load_policy(out, seed=seed)(jnp.asarray(obs))
        np.testing.assert_array_equal(actions, distribution.mode())

    # Seed 3 without its statistics plays the same episodes otherwise.
    evaluation = po.evaluate_run(out, num_episodes=4)
    whose = jax.random.key(0), trainer.env, trainer.env_params, trainer.algorithm.actor
    without = jax.jit(lambda p: po.evaluate(*whose, p, num_episodes=4, num_steps=500))(lane.params)
    assert (evaluation["episode_return"].sel(seed=3).values != without.episode_return).any()


class Switches(environment.Environment):
    """Two switches of two and three positions; the reward counts those in the right one."""

    name = "Switches"

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=4)

    def reset_env(self, key, params):
        return jnp.ones(1), environment.EnvState(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        reward = jnp.float32(action[0] == 1) + jnp.float32(action[1] == 2)
        state = environment.EnvState(time=state.time + 1)
        return jnp.ones(1), state, reward, jnp.bool_(False), {}

    def action_space(self, params):
        return spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (1,))


@pytest.mark.parametrize("name", ["ppo", "trpo"])
def test_several_discrete_actions_are_learned_and_come_out(tmp_path, monkeypatch, name):
    """From training to executable actions: the policies find both right positions, of return 8."""
    env = Switches()
    monkeypatch.setattr(po.ExperimentConfig, "make_env", lambda self: (env, env.default_params))
    whole = tiny.experiment(name, num_seeds=2, total_steps=3200, normalize_observations=True)
    if name == "ppo":
        fast = po.PPOHyperparams(learning_rate=3e-2)
        algorithm = dataclasses.replace(whole.algorithm, hyperparams=fast)
        whole = dataclasses.replace(whole, algorithm=algorithm)
    po.run(whole, tmp_path / "run", progress=False)
    evaluation = po.evaluate_run(tmp_path / "run", num_episodes=3)
    np.testing.assert_array_equal(evaluation["episode_return"], 8.0)
    act = po.load_policy(tmp_path / "run", seed=1)
    for shape in ((), (5,)):
        actions = act(jnp.ones((*shape, 1)))
        assert isinstance(actions, tuple)
        for action, best in zip(actions, (1, 2), strict=True):
            np.testing.assert_array_equal(action, np.full(shape, best))
    _, _, reward, *_ = env.step(
        jax.random.key(0), env.reset(jax.random.key(0))[1], act(jnp.ones(1))
    )
    assert reward == 2.0


def test_squashed_policies_with_memory_come_out_within_the_bounds(tmp_path):
    network = po.NetworkConfig(hidden=(8,), action_distribution="tanh_gaussian", memory="gru")
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], network=network)
    whole = tiny.experiment(env="Pendulum-v1", algorithm=algorithm, normalize_observations=True)
    po.run(whole, tmp_path / "run", progress=False)
    found = policies.load_policies(tmp_path / "run")
    lane = jax.tree.map(lambda x: x[2], found.params)
    actor, act = found.study.trainer.actor, po.load_policy(tmp_path / "run", seed=2)
    memory, carry = None, actor.initial_carry(1)
    for t, obs in enumerate(np.random.default_rng(0).normal(size=(3, 1, 3)).astype(np.float32)):
        carry, distribution = actor.act(lane, carry, jnp.asarray(obs), jnp.full(1, t == 0))
        action, memory = act(jnp.asarray(obs[0]), memory)
        np.testing.assert_allclose(action, 2.0 * np.tanh(distribution.mean[0]), atol=1e-5)
        assert action.shape == (1,)


def test_squashed_policies_come_out_within_the_bounds(tmp_path):
    network = po.NetworkConfig(hidden=(8,), action_distribution="tanh_gaussian")
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], network=network)
    whole = tiny.experiment(env="Pendulum-v1", algorithm=algorithm, normalize_observations=True)
    po.run(whole, tmp_path / "run", progress=False)
    found = policies.load_policies(tmp_path / "run")
    lane = jax.tree.map(lambda x: x[2], found.params)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    _, distribution = found.study.trainer.actor.act(lane, (), obs, jnp.zeros(20, bool))
    actions = po.load_policy(tmp_path / "run", seed=2)(obs)
    np.testing.assert_allclose(actions, 2.0 * np.tanh(distribution.mean), rtol=1e-5, atol=1e-6)
    assert (po.evaluate_run(tmp_path / "run", num_episodes=2)["episode_length"] == 200).all()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["ppo", "trpo", "npg"])
@pytest.mark.parametrize("signal_name", ["KILL", "TERM"])
def test_thirty_kills(tmp_path, name, signal_name):
    """A run in a subprocess is killed at 30 random moments and resumed each time."""
    flags = [
        "--env", "CartPole-v1", "--seeds", "6", "--num-envs", "2", "--num-steps", "16",
        "--network.hidden", "8", "--lanes-per-device", "2", "--num-windows", "400",
        "--total-steps", "2400000",
        *([] if name == "ppo" else ["--critic-minibatch-size", "16"]),
    ]  # fmt: skip
    often = ["--checkpoint-every", "0.005"]
    program = [sys.executable, "-m", "purejax_po"]
    expected, out = tmp_path / "expected", tmp_path / "run"
    subprocess.run([*program, "train", name, *flags, "--out", expected], check=True, timeout=1200)
    rng = random.Random(name + signal_name)
    log = out / "log.jsonl"
    command = [*program, "train", name, *flags, *often, "--out", out]
    for number in range(30):
        size = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = rng.uniform(0.0, 8.0)  # also while it starts, compiles and restores
        if number % 2 or not size:  # while it trains and saves
            grown = (
                'until [ "$(stat -c %s "$0" 2>/dev/null || echo 0)" -gt "$1" ]; do sleep 0.05; done'
            )
            subprocess.run(["sh", "-c", grown, log, str(size)], check=True, timeout=300)
            seconds = rng.uniform(0.0, 0.5)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        process.send_signal(getattr(signal, f"SIG{signal_name}"))
        process.wait(timeout=120)
        if (out / "config.json").exists():
            command = [*program, "resume", out, *often]
    subprocess.run([*program, "resume", out], check=True, timeout=1200)
    assert (out / "results.nc").read_bytes() == (expected / "results.nc").read_bytes()


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"lanes_per_device": "x"}', '{"lanes_per_device": -3}']
)
def test_a_plan_that_cannot_be_one_is_as_if_lost(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    assert run_store.read_plan(tmp_path) == {}
