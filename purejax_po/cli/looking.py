"""The commands that look at what is there: report, evaluate, render, export, algorithms."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from purejax_po.cli import output, own, tables
from purejax_po.early import PROGRAM
from purejax_po.experiment import evaluate as evaluating
from purejax_po.experiment import export as exporting
from purejax_po.experiment import files as atomic
from purejax_po.experiment import policies, rendering
from purejax_po.experiment.config import PRESETS, sweep, zoo
from purejax_po.experiment.config.file import as_settings
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.compilation import use_compilation_cache

Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]
PointFlags = Annotated[Repeated, tyro.conf.arg(metavar="NAME=VALUE")]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Build table, pictures and a self-contained report.html from complete runs."""

    directories: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Directories of runs, or directories that hold runs (a comparison's). LABEL=DIR labels a run,
    which distinguishes runs of one algorithm."""
    out: Path | None = None
    """Where to write (default: the directory, if there is one; else report)."""
    format: tuple[str, ...] = ("png",)
    """Files beside report.html: png, svg or pdf for pictures, csv or tex for the table."""
    rank_by: Literal["training", "evaluation"] | None = None
    """The score that orders the runs and that the pictures of final returns show: of the last tenth
    of training, or of the final evaluation. Default: training, in the order given."""

    def execute(self) -> int:
        """Print the table, and write the files."""
        if not self.directories:
            raise ValueError(
                f"directories must be given, such as: {PROGRAM} report runs/ppo-CartPole-v1 "
                "runs/trpo-CartPole-v1 (where train and compare put their files)"
            )
        paths = report.labelled(self.directories)
        dataset, path = report.report(paths, self.out, formats=self.format, rank_by=self.rank_by)
        if results.swept(dataset):
            tables.print_points(dataset, self.rank_by)
        else:
            tables.print_comparison(dataset, self.rank_by)
        output.console().print(f"report: {path}", soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a run's final policies, every seed on the same episodes."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run."""
    episodes: int = 100
    """Episodes per seed."""
    sample: bool = False
    """Sample actions, in place of the most likely ones."""
    point: PointFlags = ()
    """For a sweep: one value per axis, NAME=VALUE (default: the best point)."""
    best: bool = False
    """Policies with the highest evaluation in training (`--keep-best`), not the final ones."""
    env: str | None = None
    """Another environment with the same observations and actions, such as gymnasium/Hopper-v5 for
    a policy of brax/hopper; evaluation-ENV.json holds the returns."""
    grid: Annotated[Repeated, tyro.conf.arg(metavar="NAME=V,V,…")] = ()
    """Values of a field of the environment's parameters to evaluate at: g=8,10,12. Repeat --grid
    for each further field. evaluation-grid.json holds the returns."""

    def execute(self) -> int:
        """Print the returns, and write `evaluation.json` beside the run's results."""
        point = _begin(self.directory, self.point)
        if self.grid and self.env:
            raise ValueError("grid must be of the run's own environment, got env too")
        how: dict[str, Any] = {
            "num_episodes": self.episodes,
            "greedy": not self.sample,
            "point": point,
            "best": self.best,
        }
        if self.grid:
            return self._on_grid(how)
        evaluation = evaluating.evaluate_run(self.directory, env=self.env, **how)
        means = evaluation["episode_return"].mean("episode").values
        found = {
            "policies": self._policies,
            **({"env": self.env} if self.env else {}),
            **({"point": point} if point else {}),
            "episodes_per_seed": self.episodes,
            "greedy": not self.sample,
            "final_return": results.over_seeds(means),
            "per_seed": dict(zip(evaluation["seed"].values.tolist(), means.tolist(), strict=True)),
            **evaluation.attrs,
        }
        left_out = {
            name.replace("_", " "): ", ".join(map(str, seeds))
            for name, seeds in evaluation.attrs.items()
            if seeds
        }
        try:
            atomic.write_json(self._file(self.env or ""), found)
        finally:
            tables.print_rows(
                f"evaluation of {self.directory}{f' on {self.env}' if self.env else ''}",
                {
                    **({"point": sweep.in_words(point)} if point else {}),
                    "seeds, episodes each": f"{len(means)}, {self.episodes}",
                    **left_out,
                    "policies": f"{self._policies}{' by their evaluations' if self.best else ''}",
                    "actions": "sampled" if self.sample else "most likely",
                    **tables.return_rows(found["final_return"], "evaluation"),
                },
            )
        return 0

    @property
    def _policies(self) -> str:
        return "best" if self.best else "final"

    def _file(self, of: str) -> Path:
        """What is written: of the best policies, of another environment or a grid."""
        parts = ("evaluation", "best" if self.best else "", of.replace("/", "-"))
        return self.directory / f"{'-'.join(filter(None, parts))}.json"

    def _on_grid(self, how: dict[str, Any]) -> int:
        """Print the returns at each combination of values, and write `evaluation-grid.json`."""
        found = evaluating.evaluate_grid(self.directory, sweep.parse(self.grid, "grid"), **how)
        rows = evaluating.over_seeds(found)
        data = {
            "policies": self._policies,
            "episodes_per_seed": self.episodes,
            "greedy": not self.sample,
            "points": rows,
        }
        names = list(rows[0]["at"])
        table = output.table(*names, "return (IQM)", "95 % interval over seeds")
        for row in rows:
            of = row["final_return"]
            ends = [of["ci_low"], of["ci_high"]]
            interval = "" if None in ends else f"{ends[0]:.4g} … {ends[1]:.4g}"
            iqm = "-" if of["iqm"] is None else f"{of['iqm']:.4g}"
            table.add_row(*(f"{row['at'][k]:g}" for k in names), iqm, interval)
        try:
            atomic.write_json(self._file("grid"), data)
        finally:
            output.console().print(table)
        return 0


@dataclass(frozen=True, kw_only=True)
class Render:
    """Draw an episode of a seed's final policy: a GIF, or a page for Brax."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run."""
    seed: int = 0
    """Which seed's policy."""
    out: Path | None = None
    """The file to write (default: DIRECTORY/seed-SEED.gif, for Brax seed-SEED.html)."""
    point: PointFlags = ()
    """For a sweep: one value per axis, NAME=VALUE (default: the best point)."""
    best: bool = False
    """The policy with the highest evaluation in training (`--keep-best`), not the final one."""

    def execute(self) -> int:
        """Write the file."""
        point = _begin(self.directory, self.point)
        path, frames = rendering.render(
            self.directory,
            self.out,
            seed=self.seed,
            point=point,
            best=self.best,
            progress=_tell_tenths,
        )
        output.console().print(f"{path}: {frames} frames", soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a seed's final policy for use without this package, with a model card."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory of the run."""
    seed: int = 0
    """Which seed's policy."""
    to: tuple[str, ...] = ("stablehlo",)
    """stablehlo (runs with jax and flatbuffers), onnx (with ONNX Runtime alone; extra onnx) and
    safetensors (the raw parameters); one or several."""
    out: Path | None = None
    """Where the files go (default: DIRECTORY/export/seed-SEED)."""
    episodes: int = 100
    """Greedy episodes whose mean return stands on the card; 0 for none."""
    point: PointFlags = ()
    """For a sweep: one value per axis, NAME=VALUE (default: the best point)."""
    best: bool = False
    """The policy with the highest evaluation in training (`--keep-best`), not the final one."""

    def execute(self) -> int:
        """Write the files, and print their paths."""
        point = _begin(self.directory, self.point)
        found = exporting.export(
            self.directory,
            self.out,
            seed=self.seed,
            to=self.to,
            point=point,
            best=self.best,
            num_episodes=self.episodes,
        )
        for path in (*found.files.values(), found.card):
            size = path.stat().st_size / 1000
            output.console().print(f"{path}: {size:.1f} kB", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Algorithms:
    """List the algorithms and the presets."""

    def execute(self) -> int:
        """Print one table of algorithms and one of presets."""
        table = output.table("algorithm", "what it is")
        for name, what in own.descriptions().items():
            table.add_row(name, what)
        output.console().print(table)
        table = output.table("preset", "algorithm", "environment it was tuned for")
        for name, preset in PRESETS.items():
            table.add_row(name, preset.algorithm.name, preset.env)
        output.console().print(table)
        return 0


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """List the tuned settings and the returns they reach with seeds that their search never saw."""

    algorithm: str | None = None
    """Only this algorithm."""
    env: str | None = None
    """Only this environment."""
    json: bool = False
    """Print JSON, with all settings and scores."""

    def execute(self) -> int:
        """Print one row for each pair of algorithm and environment."""
        found = [
            entry
            for (algorithm, env), entry in zoo.entries().items()
            if self.algorithm in (None, algorithm) and self.env in (None, env)
        ]
        if not found:
            known = sorted({f"{algorithm} on {env}" for algorithm, env in zoo.entries()})
            raise ValueError(f"zoo has no such pair; it has {', '.join(known)}")
        found.sort(key=lambda entry: (entry.env, -entry.evidence["iqm"]))
        if self.json:
            rows = [
                {"settings": as_settings(entry.config), "evidence": dict(entry.evidence)}
                for entry in found
            ]
            print(json.dumps(rows, indent=2))
        else:
            tables.print_columns("zoo: final return over fresh seeds", [*map(_zoo_row, found)])
        return 0


def _begin(directory: Path, point: Sequence[str]) -> dict[str, float]:
    """Keep compiled programs, and return the point at which a run is looked at."""
    atomic.check_path("directory", directory)
    use_compilation_cache()
    return sweep.parse_point(point) or policies.best_point(directory)


def _zoo_row(entry: zoo.Entry) -> dict[str, str]:
    evidence = entry.evidence
    return {
        "environment": entry.env,
        "algorithm": entry.algorithm,
        "steps": f"{entry.config.total_steps:,}",
        "seeds": str(evidence["num_seeds"]),
        "IQM": f"{evidence['iqm']:.1f}",
        "95 % CI": f"{evidence['ci_low']:.1f} … {evidence['ci_high']:.1f}",
        "min": f"{evidence['min']:.1f}",
        "evaluation IQM": f"{evidence['evaluation_iqm']:.1f}",
    }


def _tell_tenths(done: int, total: int) -> None:
    """Say on stderr how far the drawing of frames is: it takes a while."""
    if done == 1 or 10 * done // total > 10 * (done - 1) // total:
        print(f"{PROGRAM}: frame {done} of {total}", file=sys.stderr, flush=True)
