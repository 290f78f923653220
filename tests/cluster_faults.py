"""Faults on a Ray cluster of one machine, in a network namespace: see `test_cluster.py`.

    python tests/cluster_faults.py SCENARIO FOLDER

The cluster's nodes are processes of this machine. Each scenario ends in results that are bitwise
those of an undisturbed run on threads, or raises.
"""

import dataclasses
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster that is made for a test has no token

import psutil
import pytest
import ray
import tiny
from ray.cluster_utils import Cluster

import purejax_po as po
from purejax_po.experiment import layout
from purejax_po.experiment.run import ray_pool
from purejax_po.experiment.run.observers import StoppedError, Window
from purejax_po.experiment.run.pool import Loss

SIZE = {"num_seeds": 8, "total_steps": 32 * 20 * 40, "num_windows": 20}
MANY, LONG = {"num_seeds": 32}, {"num_seeds": 200}
BIG = {"num_seeds": 64, "total_steps": 500_000, "num_windows": 100, "lanes_per_device": 8}


def experiment(**changes):
    """Tiny, or of a size at which faults hit every part of a run."""
    if os.environ.get("PUREJAX_PO_BIG"):
        return po.ExperimentConfig(algorithm=po.PPOConfig(), **BIG)
    return tiny.experiment(**{**SIZE, **changes})


def make_cluster(*cores):
    """A head without cores, and a node for each number of them."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    return cluster, [cluster.add_node(num_cpus=number) for number in cores]


def workers():
    """The processes that train here; another test's are in a network namespace of their own."""

    def is_here(process):
        try:
            return os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net")
        except OSError:  # it has ended
            return False

    found = psutil.process_iter(["name", "cmdline"])
    return [p for p in found if "ray::Worker" in " ".join(p.info["cmdline"] or []) and is_here(p)]


class Watch:
    """Does something once, after some windows; keeps what workers told, repeated windows too."""

    def __init__(self, after, what):
        self.count, self.after, self.what = 0, after, what
        self.told = []
        take = ray_pool.RayPool._take

        def noted(pool, member):
            events = take(pool, member)
            self.pool = pool
            self.told += [event for event in events if isinstance(event, Window | Loss)]
            return events

        ray_pool.RayPool._take = noted

    def on_window(self, plan, labels, window):
        self.count += 1
        if self.count == self.after:
            self.what()

    def close(self):
        pass

    def first_after_the_loss(self):
        """By block that was lost, the first window that was told afterwards."""
        found = {}
        for i, event in enumerate(self.told):
            if isinstance(event, Loss):
                later = [e for e in self.told[i:] if isinstance(e, Window)]
                found[event.block] = next(e.number for e in later if e.block == event.block)
        assert found, "nothing was lost"
        return found


class Fault(Watch):
    """Loses workers, once, while each of them has saved its block part of the way.

    It looks from a thread of its own: a block may be over before the driver hears of it. The
    workers are held still meanwhile, so that what was seen is still so when they are lost.
    """

    def __init__(self, out, lose, prepare=lambda: None, whose=workers):
        super().__init__(1, self.begin)
        self.out, self.lose, self.prepare, self.whose = out, lose, prepare, whose

    def begin(self):
        self.prepare()
        threading.Thread(target=self.watch, daemon=True).start()

    def num_part_way(self):
        """How many blocks are part of the way; 0 if one is at its start."""
        blocks = [b for b in self.out.glob("blocks/*") if not (b / layout.RESULT).exists()]
        return len(blocks) if all(layout.states(block) for block in blocks) else 0

    def watch(self):
        while True:
            time.sleep(0.01)
            held = self.whose() if self.num_part_way() else []
            for process in held:
                process.suspend()
            if held and self.num_part_way() >= len(held):
                return self.lose(held)
            for process in held:
                process.resume()


def check_same(out, expected):
    """Results, log and policies are the same bytes."""
    for name in ("results.nc", "log.jsonl"):
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    for path in (expected / "blocks").glob("*/result/arrays.safetensors"):
        other = out / path.relative_to(expected)
        assert other.read_bytes() == path.read_bytes(), path


def undisturbed(folder, **changes):
    expected = folder / "expected"
    if not expected.exists():
        po.run(experiment(**changes), expected, progress=False)
    return expected


def same_bits(folder):
    """One worker with two threads, and two workers with one."""
    expected = undisturbed(folder)
    cluster, _ = make_cluster(2)
    for number, devices in (("one", 2), ("two", 1)):
        out = folder / number
        po.run(experiment(), out, progress=False, cluster=cluster.address, num_devices=devices)
        check_same(out, expected)
        assert not workers()
    return cluster


def same_search(folder):
    """A search for settings has the trials, and the fresh results, that it has on threads."""
    cluster, _ = make_cluster(2)
    space = {"learning_rate": "log:1e-4..1e-2", "normalize_observations": [False, True]}
    config = dataclasses.replace(experiment(), num_seeds=2)
    settings = {"trials": 4, "batch": 4, "finalists": 0, "fresh_seeds": 4, "progress": False}
    here = po.tune(config, folder / "here", space, **settings)
    there = po.tune(config, folder / "there", space, **settings, cluster=cluster.address)
    assert there.trials == here.trials
    assert there.summary["fresh"] == here.summary["fresh"]
    assert not workers()
    return cluster


def run_with(folder, cluster, watch, name, minutes=0.0, **changes):
    out = folder / name
    where = {"progress": False, "num_devices": 1, "observers": [watch], "checkpoint_every": minutes}
    po.run(experiment(**changes), out, cluster=cluster.address, **where)
    check_same(out, undisturbed(folder))


def check_went_on(watch):
    begins = watch.first_after_the_loss()
    assert all(number > 0 for number in begins.values()), begins


def worker_lost(folder):
    """A worker is killed in the middle of its block; another one goes on."""
    undisturbed(folder, **MANY)
    cluster, _ = make_cluster(2)

    def lose(held):
        held[0].kill()
        for process in held[1:]:
            process.resume()

    watch = Fault(folder / "worker", lose)
    run_with(folder, cluster, watch, "worker", **MANY)
    check_went_on(watch)
    return cluster


def node_lost(folder):
    """A node is lost with all that runs on it; another one takes its place."""
    undisturbed(folder, **MANY)
    cluster, (node,) = make_cluster(1)
    raylet = node.all_processes["raylet"][0].process.pid

    def lose(held):
        cluster.remove_node(node, allow_graceful=False)
        for process in held:
            process.kill()

    watch = Fault(
        folder / "node",
        lose,
        prepare=lambda: cluster.add_node(num_cpus=1),
        whose=lambda: [p for p in workers() if p.ppid() == raylet],
    )
    run_with(folder, cluster, watch, "node", **MANY)
    check_went_on(watch)
    return cluster


class Count(Watch):
    """Notes how many blocks are run at once."""

    most = 0

    def on_window(self, plan, labels, window):
        super().on_window(plan, labels, window)
        self.most = max(self.most, sum(member.threads for member in self.pool._members))


def node_added(folder):
    """A node that is added while the run goes on takes blocks; it needs some seconds to start."""
    undisturbed(folder, **LONG)
    cluster, _ = make_cluster(1)
    watch = Count(4, lambda: cluster.add_node(num_cpus=1))
    run_with(folder, cluster, watch, "added", minutes=60.0, **LONG)
    assert watch.most == 2, watch.most
    return cluster


DRIVER = """
import sys
import cluster_faults
import purejax_po as po
po.run(
    cluster_faults.experiment(**cluster_faults.MANY), sys.argv[2], cluster=sys.argv[1],
    num_devices=1, checkpoint_every=0.0, progress=False,
)
"""


def driver_killed(folder):
    """The process that drives a run is killed; started again, each block goes on from its state."""
    undisturbed(folder, **MANY)
    cluster, _ = make_cluster(2)
    out = folder / "driver"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, cluster.address, str(out)])
    while True:
        time.sleep(0.01)
        assert driver.poll() is None, "it was over before it was killed"
        blocks = [b for b in out.glob("blocks/*") if not (b / layout.RESULT).exists()]
        if blocks and all(layout.states(block) for block in blocks):
            break
    driver.kill()
    driver.wait()
    while workers():
        time.sleep(0.1)
    blocks = [b for b in out.glob("blocks/*") if not (b / layout.RESULT).exists()]
    saved = {int(b.name): layout.states(b)[0][0] for b in blocks if layout.states(b)}
    assert saved, "nothing was part of the way"
    watch = Watch(1, lambda: None)
    po.resume(out, progress=False, cluster=cluster.address, num_devices=1, observers=[watch])
    told = [event for event in watch.told if isinstance(event, Window)]
    for block, done in saved.items():
        assert next(e.number for e in told if e.block == block) == done > 0
    check_same(out, undisturbed(folder))
    return cluster


class Other(ray_pool.Worker):
    """The first one to take a run is as it is; all others have another kind of device."""

    def take(self, plan, place, begun):
        try:
            Path(place[0], "..", "first").mkdir()
        except FileExistsError:
            plan = dataclasses.replace(plan, device_kind="NVIDIA H100")
        return super().take(plan, place, begun)


class Mortal(ray_pool.Worker):
    """It dies of its block 1."""

    def submit(self, block):
        if block == 1:
            os._exit(1)
        super().submit(block)


def bad_workers(folder):
    """A worker of another kind is not used; a block that kills its workers ends the run."""
    expected = undisturbed(folder, **LONG)
    cluster, _ = make_cluster(1, 1)
    make = ray.remote

    def use(kind):
        ray.remote = lambda *args, **options: make(
            *[kind if x is ray_pool.Worker else x for x in args], **options
        )

    use(Other)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        po.run(experiment(**LONG), folder / "other", progress=False, cluster=cluster.address)
    told = "is not used: its device is cpu, the run's is NVIDIA H100: last bits would differ"
    assert any(told in str(w.message) for w in caught), [str(w.message) for w in caught]
    check_same(folder / "other", expected)

    use(Mortal)
    with pytest.raises(StoppedError, match="block 1 has lost 5 workers without a new window"):
        po.run(experiment(**LONG), folder / "mortal", progress=False, cluster=cluster.address)
    use(ray_pool.Worker)
    po.resume(folder / "mortal", progress=False, cluster=cluster.address)
    check_same(folder / "mortal", expected)
    return cluster


ALL = same_bits, same_search, worker_lost, node_lost, node_added, driver_killed, bad_workers
SCENARIOS = {f.__name__: f for f in ALL}


def main():
    folder = Path(sys.argv[2])
    cluster = SCENARIOS[sys.argv[1]](folder)
    ray.shutdown()
    cluster.shutdown()
    deadline = time.monotonic() + 30
    while workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers()
    print("ok")


if __name__ == "__main__":
    main()
