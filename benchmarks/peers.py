"""purejax_po beside its peers: the same work, round by round on the same machine.

    python benchmarks/peers.py [--quick] [--only NAME] [--env ENV] [--rounds N] [--here 1]

Every peer lives in a virtual environment of its own, `.peers/NAME`, with the versions pinned in
`peers/NAME.txt`, or with `--here 1` in this one, and is a process that waits for jobs. A round is a
job for us, then the same job for the peer, with the same settings, steps and seeds; compiling is
apart.
"""

import dataclasses
import json
import os
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import measure
from measure import Figure

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".peers"
SCRIPTS = HERE / "peers"


class Peer(NamedTuple):
    """A library."""

    name: str
    environment: str
    script: str


class Pair(NamedTuple):
    """We and a peer at the same work."""

    peer: Peer
    algorithm: str
    our_seeds: int
    their_seeds: int
    is_quick: bool = True
    """Whether the quick mode has it."""
    env: str = "CartPole-v1"
    settings: dict[str, int] = {}  # noqa: RUF012 - never changed
    """What differs from our defaults."""
    our_env_options: dict[str, int] = {}  # noqa: RUF012 - never changed

    @property
    def label(self) -> str:
        seeds = f"{self.their_seeds} of {self.our_seeds}"
        options = "".join(f", {name} {value}" for name, value in self.our_env_options.items())
        return f"{self.peer.name} {self.algorithm.upper()}, {seeds}{options}"


REJAX = Peer("rejax", "rejax", "rejax_ppo.py")
SB3 = Peer("stable-baselines3", "sb3", "sb3.py")
SB3_CONTRIB = Peer("sb3-contrib", "sb3", "sb3.py")
SBX = Peer("sbx-rl", "sbx", "sbx_ppo.py")
BRAX = Peer("brax", "brax", "brax_ppo.py")
MANY = 2048
"""Seeds that only an accelerator trains in good time."""

SEQUENCES = {"num_envs": 32, "num_steps": 64, "num_epochs": 10, "num_minibatches": 32}
"""The batch, epochs and minibatches of the PPO paper, in sequences that brax's PPO can take."""

PAIRS = (
    Pair(REJAX, "ppo", 1, 1, is_quick=False),
    Pair(REJAX, "ppo", 16, 16),
    Pair(SB3, "ppo", 16, 1),
    Pair(SB3, "a2c", 16, 1, is_quick=False),
    Pair(SB3_CONTRIB, "trpo", 16, 1),
    Pair(SBX, "ppo", 16, 1),
    Pair(BRAX, "ppo", 1, 1, is_quick=False, env="Pendulum-v1"),
    Pair(BRAX, "ppo", 1, 1, is_quick=False, env="brax/hopper:spring", settings=SEQUENCES),
    Pair(BRAX, "ppo", 16, 1, is_quick=False, env="brax/hopper:spring", settings=SEQUENCES),
    Pair(BRAX, "ppo", 1, 1, False, "brax/hopper:spring", SEQUENCES, {"reset_pool": 1}),
)
ON_ACCELERATORS = (Pair(REJAX, "ppo", MANY, MANY),)
STEPS, QUICK_STEPS = 98_304, 8_192
"""Of each seed: whole updates of every algorithm."""
EPISODES = 32
"""Of the final policy, for each seed; 8 in the quick mode."""


class Worker:
    """A process that answers jobs (`peers/serve.py`)."""

    def __init__(self, python: Path, script: str, variables: dict[str, str]) -> None:
        self.variables = variables
        self.log = (measure.OUT / f"{Path(script).stem}.log").open("w")
        self.process = subprocess.Popen(
            [python, SCRIPTS / script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**measure.without_cache(), "JAX_TRACEBACK_FILTERING": "off", **variables},
        )

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; a worker that died is an error that names its log."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
            lines = iter(self.process.stdout.readline, "")
            answer = next((line for line in lines if line.startswith("{")), "")  # or a greeting
        except BrokenPipeError:
            answer = ""
        if not answer:
            lines = Path(self.log.name).read_text().splitlines() or ["no output"]
            raise RuntimeError(f"{Path(self.log.name).stem} died: {lines[-1]}")
        return json.loads(answer)

    def close(self) -> None:
        """Let the process end: its input is over."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it died
            self.process.stdin.close()
        self.process.wait()
        self.log.close()


def install(environment: str) -> Path:
    """Return the Python of a peer's virtual environment, which is made if its pins are new."""
    folder, pins = ENVIRONMENTS / environment, (SCRIPTS / f"{environment}.txt").read_text()
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not (ready.exists() and ready.read_text() == pins):
        print(f"installing {folder.relative_to(HERE)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-r", SCRIPTS / f"{environment}.txt"]
        subprocess.run(pip, check=True)
        ready.write_text(pins)
    return python


def our_variables(pair: Pair) -> dict[str, str]:
    """Environment variables of our side: those that the command line sets for itself."""
    from purejax_po.experiment.config import ALGORITHMS, ExperimentConfig
    from purejax_po.experiment.run.devices import keeps_one_core_busy

    algorithm = ALGORITHMS[pair.algorithm](**pair.settings)
    config = ExperimentConfig(algorithm=algorithm, env=pair.env, num_seeds=pair.our_seeds)
    return {"PJRT_NPROC": "1"} if keeps_one_core_busy(config) else {}


def settings(algorithm: str) -> dict[str, Any]:
    """Our defaults, without what some peer lacks: the learning rate stays constant."""
    from purejax_po.experiment.config import ALGORITHMS

    found = dataclasses.asdict(ALGORITHMS[algorithm]())
    if "learning_rate_decay" in found["hyperparams"]:
        found["hyperparams"]["learning_rate_decay"] = 0.0
    return found


def compare(pair: Pair, workers: dict[str, Worker], rounds: int, quick: bool) -> dict[str, Any]:
    """Run a pair's rounds; every round has seeds of its own."""
    steps = QUICK_STEPS if quick else STEPS
    job = {
        "algorithm": pair.algorithm,
        "env": pair.env,
        "steps": steps,
        "settings": {**settings(pair.algorithm), **pair.settings},
        "episodes": 8 if quick else EPISODES,
        "our_env_options": pair.our_env_options,
    }
    answers: dict[str, list[dict[str, Any]]] = {"ours.py": [], pair.peer.script: []}
    for i in range(rounds):
        for script, count in zip(answers, (pair.our_seeds, pair.their_seeds), strict=True):
            seeds = list(range(i * count, (i + 1) * count))
            answers[script].append(workers[script].ask({**job, "seeds": seeds}))
    ours, theirs = answers.values()
    found = {"label": pair.label, "peer": pair.peer.name, "env": pair.env, "steps": steps}
    for name, side in (("ours", ours), ("peer", theirs)):
        found[name] = {
            "steps_per_second": [answer["steps_per_second"] for answer in side],
            "compile_seconds": side[0]["compile_seconds"],
            "returns": [value for answer in side for value in answer["returns"]],
            "versions": side[0]["versions"],
        }
    return found


def describe(found: dict[str, Any]) -> dict[str, str]:
    """One row of the table."""
    ours, peer = found["ours"], found["peer"]
    speeds = [side["steps_per_second"] for side in (ours, peer)]
    row = {"peer, its seeds of ours": found["label"], "environment": found["env"]}
    for name, speed in zip(("ours", "peer"), speeds, strict=True):
        row[f"{name}, env steps/s"] = Figure.of(speed).show()
    row["ratio"] = measure.ratios(*speeds).show(".2f")
    row["compile, ours / peer"] = " / ".join(f"{s['compile_seconds']:.1f} s" for s in (ours, peer))
    for name, side in (("ours", ours), ("peer", peer)):
        low, high = min(side["returns"]), max(side["returns"])
        row[f"return, {name}"] = (
            f"{measure.iqm(side['returns']):.0f} ({low:.0f} … {high:.0f}; {len(side['returns'])})"
        )
    return row


def main() -> None:
    arguments = measure.arguments(__doc__, only="", env="", rounds=0, here=0)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share the device
    rounds = arguments.rounds or (2 if arguments.quick else 3)
    known = PAIRS if jax.devices()[0].platform == "cpu" else (*ON_ACCELERATORS, *PAIRS)
    wanted = [pair for pair in known if pair.is_quick or arguments.only or not arguments.quick]
    pairs = [p for p in wanted if arguments.only in p.label and arguments.env in p.env]
    if not pairs:
        labels = ", ".join(f"{pair.label} on {pair.env}" for pair in known)
        measure.refuse(f"--only and --env must be part of one of: {labels}")
    measure.OUT.mkdir(exist_ok=True)
    workers: dict[str, Worker] = {}
    results, missing = [], []
    try:
        for pair in pairs:
            try:
                here = Path(sys.executable)
                python = here if arguments.here else install(pair.peer.environment)
                sides = (
                    ("ours.py", here, our_variables(pair)),
                    (pair.peer.script, python, {}),
                )
                for script, of, variables in sides:
                    worker = workers.get(script)
                    if worker is not None and worker.variables != variables:
                        worker.close()
                    if worker is None or worker.process.poll() is not None:
                        workers[script] = Worker(of, script, variables)
                results.append(compare(pair, workers, rounds, arguments.quick))
            except (
                RuntimeError,
                subprocess.CalledProcessError,
            ) as error:  # the other peers are still worth measuring
                missing.append(f"{pair.label}: {error}")
    finally:
        for worker in workers.values():
            worker.close()
    versions = {
        package: version
        for found in results
        for package, version in found["peer"]["versions"].items()
    }
    rows = [describe(found) for found in results]
    lines = [
        f"Medians of {rounds} interleaved rounds (smallest … largest). `1 of 16`: a peer that"
        " trains one seed per process, beside 16 of ours. Return: IQM over seeds of the final"
        " policies, which sample their actions (min … max; number of seeds).",
        "",
        measure.table(rows) if rows else "",
        "",
        "Peers: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        *(f"\nNot measured: {line}" for line in missing),
    ]
    text = "## Peers\n\n" + "\n".join(lines)
    kept = {"peers": rows} if rows else None
    measure.write("peers", {"pairs": results, "missing": missing}, text, kept)
    if missing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
