"""The zoo and the open benchmark: search settings, confirm them with fresh seeds, draw the page.

    python benchmarks/zoo.py [--only ppo trpo] [--env CartPole-v1] [--parts search confirm page]

Runs what is not there yet, cell by cell, and may be broken off. `confirm` trains each cell's best
candidate with seeds that no search has seen, and writes `purejax_po/zoo/`; `page` writes
`results.nc`, `results.json` and `report.html`, for all environments, for each of them, and for
those that the same algorithms share; with `--keep` the pictures of the documentation too. `table
--keep` writes the table of all cells that the package holds. `again` trains the settings that the
package holds, without a search, and writes what they reach and cost.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zoo_search
import zoo_tasks
from measure import Rows, add_keep, commit, data, keep, kept_as, table
from PIL import Image

import purejax_po as po
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.compare import place_of
from purejax_po.experiment.config import zoo
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import join

PARTS = ("search", "confirm", "page", "table")
AGAIN = "again"
OUT = Path("runs/zoo")
EVALUATE_EVERY = 10
"""Windows of a hundred."""
ENDS = ("iqm", "ci_high")
DOCS = Path(__file__).parents[1] / "docs"
OVERALL = ("performance_profile.png", "probability_of_improvement.png", "aggregates.png")
"""Pictures over the environments that all algorithms share."""
COLOURS = 128


def confirm(
    algorithm: str, env: str, place: Path, num_shapes: int | None, folder: Path = zoo.FOLDER
) -> zoo.Entry:
    """Train a cell's best candidate with the fresh seeds, and write its file."""
    found = zoo_search.search(algorithm, env, place / "search", num_shapes=num_shapes)
    chosen = zoo_search.best(found.finals)
    config = zoo_search.experiment(zoo_search.settings_of(chosen), env)
    dataset = train_fresh(config, place)
    entry = zoo.Entry(config, {**reached(dataset), **searched(found, algorithm, env)})
    zoo.write(entry, folder)
    print(shown(entry))
    return entry


def again(algorithm: str, env: str, place: Path) -> zoo.Entry:
    """Train a cell's stored settings anew, and write what they reach and cost at this commit."""
    entry = zoo.find(algorithm, env)
    dataset = train_fresh(entry.config, place)
    entry = entry._replace(evidence={**entry.evidence, **reached(dataset)})
    zoo.write(entry)
    print(shown(entry))
    return entry


def shown(entry: zoo.Entry) -> str:
    """Write a cell's result in one line."""
    number, iqm = entry.evidence["num_seeds"], entry.evidence["iqm"]
    return f"{entry.algorithm} on {entry.env}: {iqm:.1f} (IQM of {number} fresh seeds)"


def train_fresh(config: po.ExperimentConfig, place: Path) -> Any:
    """Train with the seeds that no search has seen."""
    fresh = zoo_search.fresh_seeds(config.algorithm.name, config.env_name)
    config = dataclasses.replace(
        config,
        num_seeds=len(fresh),
        first_seed=fresh.start,
        evaluate_every=EVALUATE_EVERY,
        lanes_per_device=zoo_tasks.TASKS[config.env_name].lanes,
    )
    return _run(config, place / "runs" / place_of(config.algorithm.name, config.env_name))


def _run(config: po.ExperimentConfig, out: Path) -> Any:
    """The run of a configuration: read, gone on with, or begun anew if it was another's."""
    if (out / layout.CONFIG).exists():
        found = json.loads((out / layout.CONFIG).read_text())
        if po.ExperimentConfig.from_dict(found) == config:
            return po.resume(out, progress=False)
    return po.run(config, out, progress=False, overwrite=True)


def reached(dataset: Any) -> dict[str, Any]:
    """What a file says of its settings: what fresh seeds reach, and what they cost."""
    summary = po.summarize(dataset)
    final, evaluated, seeds = summary["final_return"], summary["final_evaluation"], dataset["seed"]
    cell = f"{summary['algorithm']} --env {summary['env']}"
    first = int(seeds[0])
    given = f"{len(seeds)} --first-seed {first}" if first else f"{len(seeds)}"
    if lanes := zoo_tasks.TASKS[summary["env"]].lanes:
        given += f" --lanes-per-device {lanes}"
    return {
        "num_seeds": len(seeds),
        "first_seed": first,
        **{key: round(final[key], 3) for key in ("iqm", "ci_low", "ci_high", "mean", "min", "max")},
        **{f"evaluation_{key}": round(evaluated[key], 3) for key in ("iqm", "ci_low", "ci_high")},
        "diverged": len(summary["diverged_seeds"]),
        "without_final_episodes": len(summary["seeds_without_final_episodes"]),
        "run_seconds": round(summary["run_seconds"], 1),
        "steps_per_second": round(summary["env_steps_per_second"]),
        "command": f"purejax-po train {cell} --preset zoo --seeds {given}",
        "commit": commit(),
        "jax": summary["versions"]["jax"],
    }


def searched(found: zoo_search.Search, algorithm: str, env: str) -> dict[str, Any]:
    """What a file says of the search that its settings come from."""
    tried, last = zoo_search.SEARCH_SEEDS, zoo_search.final_seeds(algorithm, env)
    chosen = zoo_search.best(found.finals)
    return {
        "search_score": float("nan") if chosen.score is None else round(chosen.score, 3),
        "search_candidates": len(found.candidates),
        "search_steps": zoo_search.steps_of(env),
        "search_seeds": [tried.start, len(tried)],
        "finalists": len(found.finals),
        "final_seeds": [last.start, len(last)],
        "final_steps": zoo_tasks.TASKS[env].final_steps or zoo_search.steps_of(env),
        "search_seconds": round(sum(x.seconds for x in (*found.candidates, *found.finals)), 1),
        "search": f"python benchmarks/zoo.py --only {algorithm} --env {env}",
        **({"search_commit": found.commit} if found.commit else {}),
    }


def page(place: Path) -> Path:
    """Write data and pages of all cells that are confirmed; returns the page's path."""
    runs = sorted(p.parent for p in (place / "runs").glob(f"*/{layout.SUMMARY}"))
    if not runs:
        raise SystemExit(f"{place} holds no complete run: --parts search confirm")
    dataset = po.load_runs(runs)
    po.save_results(dataset, place / "results.nc")
    atomic.write_json(place / "results.json", report.figures(dataset))
    report.write(dataset, place)
    parts = join.split(dataset)
    envs = list(dict.fromkeys(env for _, env in parts))
    for env in envs if len(envs) > 1 else ():
        report.write(_joined(parts, [env]), place / env.replace("/", "-"))
    for algorithms, same in shared(parts).items():
        if len(algorithms) > 1 and len(same) > 1:
            report.write(_joined(parts, same), place / "-".join(algorithms))
    return place / report.REPORT


def shared(cells: Iterable[tuple[str, str]]) -> dict[tuple[str, ...], list[str]]:
    """Environments by the algorithms that have them: these can be compared over all of them."""
    by_env: dict[str, list[str]] = {}
    for algorithm, env in cells:
        by_env.setdefault(env, []).append(algorithm)
    found: dict[tuple[str, ...], list[str]] = {}
    for env, algorithms in by_env.items():
        found.setdefault(tuple(sorted(algorithms)), []).append(env)
    return found


def _joined(parts: join.Runs, envs: Sequence[str]) -> Any:
    return join.join({key: run for key, run in parts.items() if key[1] in envs})


def keep_pictures(place: Path) -> None:
    """Copy the pictures of a page into the documentation, in few colours."""
    overall = place / "-".join(sorted(zoo_tasks.FLOATS))
    shown = [place / "learning_curves.png", *(overall / name for name in OVERALL)]
    for picture in shown:
        few = Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(DOCS / f"zoo_{picture.name}", optimize=True)


def cells() -> Rows:
    """Return a row for each cell that the package holds, an environment after the other."""
    order = list(zoo_tasks.TASKS)
    entries = sorted(
        zoo.entries().values(), key=lambda x: (order.index(x.env), -x.evidence["iqm"], x.algorithm)
    )
    return [
        {
            "environment": entry.env,
            "algorithm": entry.algorithm,
            "steps per seed": f"{entry.config.total_steps:,}",
            "return, IQM": _interval(entry.evidence, ""),
            "greedy policy, IQM": _interval(entry.evidence, "evaluation_"),
            "worst seed": f"{entry.evidence['min']:.2f}",
            "seeds": f"{entry.evidence['num_seeds']}",
            "candidates": f"{entry.evidence['search_candidates']}",
            "search, s": f"{entry.evidence['search_seconds']:,.0f}",
            "training, s": f"{entry.evidence['run_seconds']:,.0f}",
        }
        for entry in entries
    ]


def references() -> Rows:
    """Return a row for each public reference of a cell that the package holds."""
    rows = []
    for found in zoo_tasks.REFERENCES:
        if (entry := zoo.entries().get((found.algorithm, found.env))) is None:
            continue
        best = [max(entry.evidence[x], entry.evidence[f"evaluation_{x}"]) for x in ENDS]
        reached = "yes" if best[0] >= found.mean else "within the interval"
        rows.append(
            {
                "environment": found.env + "".join(f", {x}" for x in entry.config.wrappers),
                "algorithm": found.algorithm,
                "steps per seed": f"{entry.config.total_steps * held(entry.config):,}",
                "return, IQM": _interval(entry.evidence, ""),
                "greedy policy, IQM": _interval(entry.evidence, "evaluation_"),
                "reference, mean": f"{found.mean:.2f}",
                "its steps": f"{found.total_steps:,}",
                "reached": reached if best[1] >= found.mean else "no",
            }
        )
    return rows


def held(config: po.ExperimentConfig) -> int:
    """For how many of the environment's steps each action is held."""
    repeats = [x.partition(":")[2] for x in config.wrappers if x.startswith("action_repeat")]
    return math.prod(map(int, repeats))


def _interval(evidence: dict[str, Any], prefix: str) -> str:
    iqm, low, high = (evidence[f"{prefix}{name}"] for name in ("iqm", "ci_low", "ci_high"))
    return f"{iqm:.2f} ({low:.2f} … {high:.2f})"


def main() -> None:
    """Run the parts of the cells that are asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(zoo_tasks.FLOATS), help="algorithms")
    parser.add_argument("--env", nargs="+", default=list(zoo_tasks.TASKS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=(*PARTS, AGAIN))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--shapes", type=int, help="of programs that a search tries at most")
    add_keep(parser)
    arguments = parser.parse_args()
    number = arguments.shapes
    for env in arguments.env:
        for algorithm in (x for x in arguments.only if x in zoo_tasks.TASKS[env].algorithms):
            if "search" in arguments.parts:
                zoo_search.search(algorithm, env, arguments.out / "search", num_shapes=number)
            if "confirm" in arguments.parts:
                confirm(algorithm, env, arguments.out, number)
            if AGAIN in arguments.parts and zoo.path_of(algorithm, env).exists():
                again(algorithm, env, arguments.out)
    if "page" in arguments.parts:
        print(page(arguments.out))
        if kept_as("zoo"):
            keep_pictures(arguments.out)
    if "table" in arguments.parts:
        print(table(cells()))
        if given := kept_as("zoo"):
            keep(given, {"cells": data(cells()), "references": data(references())})


if __name__ == "__main__":
    sys.exit(main())
