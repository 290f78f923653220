"""A report on runs: table, pictures, and one HTML file that opens without a network."""

import base64
import collections
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from purejax_po.checks import check_choice
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.plots import comparison as comparison_plots
from purejax_po.experiment.plots import curves as plots
from purejax_po.experiment.plots import sweep as sweep_plots
from purejax_po.experiment.report import texts
from purejax_po.experiment.report.formats import FORMATS, PICTURE_FORMATS, TABLE_FORMATS
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import evaluated, statistics
from purejax_po.experiment.results import join as runs
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

REPORT = "report.html"
BRIEF = (
    *("environment", "algorithm", "seeds", "IQM", "95 % CI"),
    *("evaluation IQM", "evaluation 95 % CI", "steps/s", "seconds"),
)
"""The columns of the table that a terminal has room for."""


def table(dataset: "xr.Dataset", rank_by: str | None = None) -> list[dict[str, str]]:
    """Return the table of runs, or of a sweep's points, one per row, as text by column.

    Args:
        dataset: results of one or several runs.
        rank_by: `"training"` or `"evaluation"`: what orders the runs on each environment, and
            decides a sweep's best point (`evaluated.ranked_by`); by default as they come.
    """
    if results.swept(dataset):
        return _table_of_points(dataset, rank_by)
    rows = []
    for summary in _ordered([results.summarize(x) for x in runs.split(dataset).values()], rank_by):
        seconds = [summary[key] for key in ("compile_seconds", "run_seconds")]
        rows.append(
            {
                "environment": summary["env"],
                "algorithm": summary["algorithm"],
                "seeds": str(summary["num_seeds"]),
                **_return_cells(summary, dataset),
                "diverged": str(len(summary["diverged_seeds"])),
                "steps/s": _text(summary["env_steps_per_second"], ",.0f"),
                "seconds": _text(None if None in seconds else sum(seconds)),
            }
        )
    return rows


def _ordered(summaries: list[JSONObject], rank_by: str | None) -> list[JSONObject]:
    """The summaries, on each environment the best one first."""
    if rank_by is None:
        return summaries
    key = evaluated.KEYS[rank_by]
    envs = list(dict.fromkeys(summary["env"] for summary in summaries))

    def place(summary: JSONObject) -> tuple[int, float]:
        iqm = summary.get(key, {}).get("iqm")
        return envs.index(summary["env"]), math.inf if iqm is None else -iqm

    return sorted(summaries, key=place)


def _return_cells(summary: JSONObject, dataset: "xr.Dataset") -> dict[str, str]:
    """What a run or a point reached; for what some run of the table has, every row has a cell."""
    cells: dict[str, str] = {}
    for name, of in (("final_return", ""), ("final_evaluation", "evaluation ")):
        if name in dataset:
            found = summary.get(name, {})
            cells[f"{of}IQM"] = _text(found.get("iqm"))
            cells[f"{of}95 % CI"] = _interval_text(found.get("ci_low"), found.get("ci_high"))
    if "solved_at" in dataset:
        solved = summary.get("solved", {})
        cells["solved"] = str(solved.get("num_seeds", "-"))
        cells["median steps"] = _text(solved.get("median_steps"), ",.0f")
    final = summary["final_return"]
    return cells | {key: _text(final[key]) for key in ("mean", "median", "min", "max")}


def _table_of_points(dataset: "xr.Dataset", rank_by: str | None) -> list[dict[str, str]]:
    summary = results.summarize(dataset)
    best = results.at(results.best(evaluated.ranked_by(dataset, rank_by or "training")))
    return [
        {
            **{name: f"{value:g}" for name, value in found["point"].items()},
            **_return_cells(found, dataset),
            "diverged": str(found["num_diverged"]),
            "": "best" if found["point"] == best else "",
        }
        for found in summary["points"]
    ]


def figures(dataset: "xr.Dataset", rank_by: str | None = None) -> JSONObject:
    """Return all numbers of a comparison as JSON-ready values; `rank_by` as `report`.

    Returns:
        `summaries`: each run's summary; `aggregates`: by algorithm, over normalised returns, where
        there are several environments; `probability_of_improvement`: of each pair of algorithms.
    """
    parts = runs.split(dataset)
    found: JSONObject = {"summaries": [results.summarize(run) for run in parts.values()]}
    dataset = evaluated.ranked_by(dataset, rank_by or "training")
    if len({env for _, env in parts}) > 1:
        found["aggregates"] = {
            name: {key: _estimate(value) for key, value in by_key.items()}
            for name, by_key in comparison_plots.aggregates(dataset).items()
        }
    if len({name for name, _ in parts}) > 1:
        found["probability_of_improvement"] = [
            {"x": x, "y": y, **_estimate(value)}
            for (x, y), value in comparison_plots.improvements(dataset).items()
        ]
    return found


def pictures(dataset: "xr.Dataset") -> dict[str, "Figure"]:
    """Draw what there is to see: figures by file name, whose captions are in `texts`."""
    if results.swept(dataset):
        return _pictures_of_sweep(dataset)
    drawn = collections.defaultdict(plots.unseen_figure)
    parts = runs.split(dataset)
    plots.plot_curves(dataset, figure=drawn["learning_curves.png"])
    comparison_plots.plot_comparisons(dataset, drawn["final_returns.png"])
    if pairs := comparison_plots.improvements(dataset):
        comparison_plots.plot_profile(dataset, ax=drawn["performance_profile.png"].subplots())
        improvement = plots.unseen_figure(6.4, 0.35 * len(pairs) + 1.5)
        drawn["probability_of_improvement.png"] = improvement
        comparison_plots.plot_improvement(dataset, improvement.subplots())
    if len(parts) == 1:
        plots.plot_diagnostics(next(iter(parts.values())), drawn["diagnostics.png"])
    if len({env for _, env in parts}) > 1 and runs.normalized_scores(dataset):
        comparison_plots.plot_aggregates(dataset, figure=drawn["aggregates.png"])
    return drawn


def _pictures_of_sweep(dataset: "xr.Dataset") -> dict[str, "Figure"]:
    drawn = collections.defaultdict(plots.unseen_figure)
    sweep_plots.plot_axes(dataset, drawn["sweep.png"])
    if len(names := results.swept(dataset)) == 2:
        fewer, more = sorted(names, key=lambda name: dataset.sizes[name])
        if dataset.sizes[fewer] <= len(plots.COLOURS):
            lines = drawn["sensitivity.png"].subplots()
            sweep_plots.plot_sensitivity(dataset, more, fewer, lines)
    best = results.best(dataset)
    plots.plot(best, ax=drawn["learning_curve.png"].subplots())
    plots.plot_diagnostics(best, drawn["diagnostics.png"])
    return drawn


def labelled(arguments: Sequence[str]) -> runs.Paths:
    """Return `LABEL=DIR` and `DIR` as `load_runs` takes them; a path that exists is no label."""
    pairs = []
    for argument in arguments:
        label, equals, path = argument.partition("=")
        has_label = equals and not Path(argument).exists() and os.sep not in label
        pairs.append((label, path) if has_label else (None, argument))
    if all(label is None for label, _ in pairs):
        return [path for _, path in pairs]
    found: dict[str | None, str | list[str]] = {}
    several: list[str] = []
    for label, path in pairs:
        if label is None and Path(path).is_dir() and not runs.is_run(Path(path)):
            several.append(path)
            found[None] = several  # their runs have labels of their own
            continue
        name = Path(path).name if label is None else label
        if name in found:
            raise ValueError(f"each label must be given once, got {name} more than once")
        found[name] = path
    return found


def report(
    paths: runs.Paths,
    out: str | os.PathLike[str] | None = None,
    *,
    formats: Sequence[str] = ("png",),
    rank_by: str | None = None,
) -> tuple["xr.Dataset", Path]:
    """Build table, pictures and report of runs that are complete.

    Args:
        paths: as `load_runs`.
        out: directory to write to; by default that of the run or of the runs, if `paths` is one
            directory, and else `report`. Into a run's own directory goes `report.html` alone,
            unless other formats are asked for.
        formats: of the files beside it: `"png"`, `"svg"`, `"pdf"` for the pictures, `"csv"`,
            `"tex"` for the table.
        rank_by: `"training"` or `"evaluation"`: what the runs are ordered by, and what pictures and
            statistics of final returns are of; by default of training, in the order of the runs.

    Returns:
        The results, and the path of the HTML file.

    Raises:
        ValueError: as `load_runs`, for an `out` that cannot be written to, or runs that are to be
            ranked by an evaluation that they have not.
    """
    for name in formats:
        check_choice("format", name, FORMATS)
    if out is not None:
        atomic.check_path("out", out)
    dataset = runs.load_runs(paths)
    if rank_by is not None:
        evaluated.ranked_by(dataset, rank_by)
    listed = runs.listed(paths) if not isinstance(paths, Mapping) else []
    if out is not None:
        directory = Path(out)
    elif len(listed) == 1:
        directory = Path(listed[0]) if Path(listed[0]).is_dir() else Path(listed[0]).parent
    else:
        directory = Path("report")
    try:
        own = tuple(formats) == ("png",) and (directory / layout.CONFIG).exists()
        write(dataset, directory, formats=() if own else formats, rank_by=rank_by)
    except OSError as error:
        raise ValueError(f"out must be writable, got {directory}: {error.strerror}") from None
    return dataset, directory / REPORT


def write(
    dataset: "xr.Dataset",
    directory: Path,
    *,
    formats: Sequence[str] = ("png",),
    rank_by: str | None = None,
) -> None:
    """Write `report.html` into a directory, and the pictures beside it, each whole or not at all.

    Args:
        dataset: results of one or several runs.
        directory: where; made if it is missing.
        formats, rank_by: as `report`.
    """
    shown, ranked = [], evaluated.ranked_by(dataset, rank_by or "training")
    directory.mkdir(parents=True, exist_ok=True)
    captions = texts.OF_A_SWEEP if results.swept(dataset) else texts.CAPTIONS
    for name, figure in pictures(ranked).items():
        shown.append((captions[name], plots.encoded(figure, "png")))
        for form in [form for form in formats if form in PICTURE_FORMATS]:
            plots.save_figure(figure, (directory / name).with_suffix(f".{form}"))
    for form in [form for form in formats if form in TABLE_FORMATS]:
        atomic.write_text(directory / f"table.{form}", TABLE_FORMATS[form](table(dataset, rank_by)))
    atomic.write_text(directory / REPORT, _page(dataset, shown, rank_by))


def _page(dataset: "xr.Dataset", shown: Sequence[tuple[str, bytes]], rank_by: str | None) -> str:
    """Return the HTML: everything inside, no scripts, no links."""
    parts = runs.split(dataset)
    rows = table(dataset, rank_by)
    body = [
        f"<h1>{html.escape(plots.title(dataset))}</h1>",
        _html_table(tuple(rows[0]), [tuple(row.values()) for row in rows]),
        f'<p class="note">{texts.EXPLANATION}</p>',
    ]
    if "final_evaluation" in dataset:
        body.append(f'<p class="note">{texts.EVALUATION}</p>')
    if rank_by == "evaluation":
        body.append(f'<p class="note">{texts.RANKED}</p>')
    if results.swept(dataset):
        body.append(f'<p class="note">{texts.BEST}</p>')
    for caption, png in shown:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        text = html.escape(caption)
        body.append(
            f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
        )
    numbers = figures(dataset, rank_by)
    if found := numbers.get("probability_of_improvement"):
        rows = [(f"P({p['x']} > {p['y']})", *_estimate_cells(p)) for p in found]
        body.append(_html_table(("probability of improvement", "value", "95 % CI"), rows))
    if found := numbers.get("aggregates"):
        titles = comparison_plots.AGGREGATE_TITLES
        rows = [
            (name, titles[key], *_estimate_cells(value))
            for name, by_key in found.items()
            for key, value in by_key.items()
        ]
        body.append(_html_table(("algorithm", "aggregate", "value", "95 % CI"), rows))
    body.append("<h2>Runs</h2>")
    for (name, env), run in parts.items():
        summary = results.summarize(run)
        facts = {
            "device": f"{summary['device']}, lanes each: {summary['lanes_per_device']}",
            "diverged seeds": summary["diverged_seeds"],
            "seeds without final episodes": summary["seeds_without_final_episodes"],
            "versions": summary["versions"],
            "configuration": json.loads(run.attrs["config"]),
        }
        heading = html.escape(f"{name} on {env}")
        text = html.escape(json.dumps(facts, indent=2, ensure_ascii=False))
        body.append(f"<details><summary>{heading}</summary><pre>{text}</pre></details>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(plots.title(dataset))}</title><style>{texts.STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    lines = [line(columns, "th"), *[line(row, "td") for row in rows]]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _estimate(found: statistics.Estimate) -> dict[str, float | None]:
    keys = ("value", "ci_low", "ci_high")
    return {key: results.number(x) for key, x in zip(keys, found, strict=True)}


def _estimate_cells(found: JSONObject) -> tuple[str, str]:
    interval = _interval_text(found["ci_low"], found["ci_high"], ".3f")
    return _text(found["value"], ".3f"), interval


def _interval_text(low: float | None, high: float | None, form: str = ".1f") -> str:
    return "-" if low is None else f"{_text(low, form)} … {_text(high, form)}"


def _text(x: float | None, form: str = ".1f") -> str:
    return "-" if x is None else format(x, form)
