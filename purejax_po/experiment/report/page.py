"""A report on runs: table, pictures, and one HTML file that opens without a network."""

import base64
import csv
import html
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purejax_po.checks import check_choice
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.plots import comparison as comparison_plots
from purejax_po.experiment.plots import curves as plots
from purejax_po.experiment.plots import sweep as sweep_plots
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import join as runs
from purejax_po.experiment.results import statistics

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

REPORT = "report.html"
BRIEF = ("environment", "algorithm", "seeds", "IQM", "95 % CI", "steps/s", "seconds")
"""The columns of the table that a terminal has room for."""
EXPLANATION = """The final return is the mean over the episodes that end in the last tenth of
training, per seed; seeds that diverged or ended no episode there are left out. IQM: interquartile
mean over seeds. CI: 95 % bootstrap interval over seeds, never over episodes (Agarwal et al. 2021).
Steps/s counts run time alone; seconds count compilation too."""
BEST = """Best: the highest IQM among the points at which no seed diverged. It was chosen by this
number, which flatters it; train again with other seeds to report it."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: .25rem .7rem; text-align: right;
  border-bottom: 1px solid #ddd; white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
.wide { overflow-x: auto } figure { margin: 2rem 0 } img { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .9rem } pre { overflow-x: auto; font-size: .8rem;
  background: #f6f6f6; padding: .7rem }
"""


def table(dataset: "xr.Dataset") -> list[dict[str, str]]:
    """Return the table of runs, or of a sweep's points, one per row, as text by column."""
    if results.swept(dataset):
        return _table_of_points(dataset)
    rows = []
    for run in runs.split(dataset).values():
        summary = results.summarize(run)
        final = summary["final_return"]
        seconds = [summary[key] or math.nan for key in ("compile_seconds", "run_seconds")]
        rows.append(
            {
                "environment": summary["env"],
                "algorithm": summary["algorithm"],
                "seeds": str(summary["num_seeds"]),
                "IQM": _text(final["iqm"]),
                "95 % CI": _interval_text(final["ci_low"], final["ci_high"]),
                "mean": _text(final["mean"]),
                "median": _text(final["median"]),
                "min": _text(final["min"]),
                "max": _text(final["max"]),
                "diverged": str(len(summary["diverged_seeds"])),
                "steps/s": _text(summary["env_steps_per_second"], ",.0f"),
                "seconds": _text(results.number(sum(seconds))),
            }
        )
    return rows


def _table_of_points(dataset: "xr.Dataset") -> list[dict[str, str]]:
    summary = results.summarize(dataset)
    rows = []
    for found in summary["points"]:
        final = found["final_return"]
        rows.append(
            {
                **{name: f"{value:g}" for name, value in found["point"].items()},
                "IQM": _text(final["iqm"]),
                "95 % CI": _interval_text(final["ci_low"], final["ci_high"]),
                **{key: _text(final[key]) for key in ("mean", "median", "min", "max")},
                "diverged": str(found["num_diverged"]),
                "": "best" if found["point"] == summary["best"] else "",
            }
        )
    return rows


def figures(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return all numbers of a comparison as JSON-ready values.

    Returns:
        `summaries`: each run's summary; `aggregates`: by algorithm, over normalised returns, where
        there are several environments; `probability_of_improvement`: of each pair of algorithms.
    """
    parts = runs.split(dataset)
    found: dict[str, Any] = {"summaries": [results.summarize(run) for run in parts.values()]}
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


def pictures(dataset: "xr.Dataset") -> dict[str, tuple["Figure", str]]:
    """Draw what there is to see: figures and captions by file name."""
    if results.swept(dataset):
        return _pictures_of_sweep(dataset)
    parts = runs.split(dataset)
    algorithms = len({name for name, _ in parts})
    envs = len({env for _, env in parts})
    curves, bars = _figure(), _figure()
    plots.plot_curves(dataset, figure=curves)
    comparison_plots.plot_comparisons(dataset, figure=bars)
    drawn = {
        "learning_curves.png": (curves, "Learning curves: IQM over seeds, 95 % bands."),
        "final_returns.png": (bars, "Final return: IQM, 95 % interval, and every seed as a dot."),
    }
    pairs = comparison_plots.improvements(dataset) if algorithms > 1 else {}
    if pairs:
        profile = _figure()
        comparison_plots.plot_profile(dataset, ax=profile.subplots())
        drawn["performance_profile.png"] = (
            profile,
            "Performance profiles: the fraction of runs above τ.",
        )
        improvement = _figure(6.4, 0.35 * len(pairs) + 1.5)
        comparison_plots.plot_improvement(dataset, improvement.subplots())
        drawn["probability_of_improvement.png"] = (
            improvement,
            "Probability of improvement, with 95 % intervals.",
        )
    if len(parts) == 1:
        diagnostics = _figure()
        plots.plot_diagnostics(next(iter(parts.values())), diagnostics)
        drawn["diagnostics.png"] = diagnostics, "Diagnostics: IQM and middle half of the seeds."
    if envs > 1 and runs.normalized_scores(dataset):
        aggregates = _figure()
        comparison_plots.plot_aggregates(dataset, figure=aggregates)
        drawn["aggregates.png"] = (
            aggregates,
            "Aggregates over environments; the smallest return found is 0, the largest 1.",
        )
    return drawn


def _pictures_of_sweep(dataset: "xr.Dataset") -> dict[str, tuple["Figure", str]]:
    overview, curve, diagnostics = _figure(), _figure(), _figure()
    sweep_plots.plot_axes(dataset, overview)
    drawn = {"sweep.png": (overview, "Final return over the swept values: IQM over seeds.")}
    if len(names := results.swept(dataset)) == 2:
        fewer, more = sorted(names, key=lambda name: dataset.sizes[name])
        if dataset.sizes[fewer] <= len(plots.COLOURS):
            lines = _figure()
            sweep_plots.plot_sensitivity(dataset, more, fewer, lines.subplots())
            drawn["sensitivity.png"] = lines, "The same as lines, with 95 % intervals."
    best = results.best(dataset)
    plots.plot(best, ax=curve.subplots())
    plots.plot_diagnostics(best, diagnostics)
    drawn["learning_curve.png"] = curve, "Learning curve of the best point."
    drawn["diagnostics.png"] = diagnostics, "Diagnostics of the best point."
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
    found: dict[str, str] = {}
    for label, path in pairs:
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
) -> tuple["xr.Dataset", Path]:
    """Build table, pictures and report of runs that are complete.

    Args:
        paths: as `load_runs`.
        out: directory to write to; by default that of the run or of the runs, if `paths` is one
            directory, and else `report`. Into a run's own directory goes `report.html` alone,
            unless other formats are asked for.
        formats: of the files beside it: `"png"`, `"svg"`, `"pdf"` for the pictures, `"csv"`,
            `"tex"` for the table.

    Returns:
        The results, and the path of the HTML file.

    Raises:
        ValueError: as `load_runs`, or for an `out` that cannot be written to.
    """
    for name in formats:
        check_choice("format", name, FORMATS)
    if out is not None:
        atomic.check_path("out", out)
    dataset = runs.load_runs(paths)
    listed = list(runs.listed(paths)) if not isinstance(paths, Mapping) else []
    if out is not None:
        directory = Path(out)
    elif len(listed) == 1:
        directory = Path(listed[0]) if Path(listed[0]).is_dir() else Path(listed[0]).parent
    else:
        directory = Path("report")
    try:
        own = tuple(formats) == ("png",) and (directory / layout.CONFIG).exists()
        write(dataset, directory, formats=() if own else formats)
    except OSError as error:
        raise ValueError(f"out must be writable, got {directory}: {error.strerror}") from None
    return dataset, directory / REPORT


def write(dataset: "xr.Dataset", directory: Path, *, formats: Sequence[str] = ("png",)) -> None:
    """Write `report.html` into a directory, and the pictures beside it, each whole or not at all.

    Args:
        dataset: results of one or several runs.
        directory: where; made if it is missing.
        formats: of the files beside it, as `report`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, (figure, caption) in pictures(dataset).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=150, format="png")
        shown.append((caption, buffer.getvalue()))
        for form in [form for form in formats if form in PICTURE_FORMATS]:
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=150, format=form)
            atomic.write_bytes((directory / name).with_suffix(f".{form}"), buffer.getvalue())
    for form in [form for form in formats if form in TABLE_FORMATS]:
        atomic.write_text(directory / f"table.{form}", TABLE_FORMATS[form](table(dataset)))
    atomic.write_text(directory / REPORT, _page(dataset, shown))


def _page(dataset: "xr.Dataset", shown: Sequence[tuple[str, bytes]]) -> str:
    """Return the HTML: everything inside, no scripts, no links."""
    parts = runs.split(dataset)
    rows = table(dataset)
    body = [
        f"<h1>{html.escape(plots.title(dataset))}</h1>",
        _html_table(tuple(rows[0]), [tuple(row.values()) for row in rows]),
        f'<p class="note">{EXPLANATION}</p>',
    ]
    if results.swept(dataset):
        body.append(f'<p class="note">{BEST}</p>')
    for caption, png in shown:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        text = html.escape(caption)
        body.append(
            f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
        )
    numbers = figures(dataset)
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
        f"<title>{html.escape(plots.title(dataset))}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _csv(rows: Sequence[dict[str, str]]) -> str:
    """The table as comma-separated values, a header first."""
    plain = [dict(_numbers(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, plain[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def _numbers(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The cells of a row as numbers: no commas, and an interval as its two ends."""
    for name, cell in row.items():
        if name == "95 % CI":
            low, _, high = cell.partition(" … ")
            yield "ci_low", low.strip("-") and low
            yield "ci_high", high
        else:
            yield name, cell.replace(",", "") if name == "steps/s" else cell


def _tex(rows: Sequence[dict[str, str]]) -> str:
    """The table as LaTeX, for the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_TEX.sub(lambda m: TEX[m[0]], cell) for cell in cells) + r" \\"

    body = [
        rf"\begin{{tabular}}{{{'l' * min(2, len(rows[0]))}{'r' * (len(rows[0]) - 2)}}}",
        r"\toprule",
        line(list(rows[0])),
        r"\midrule",
        *[line(list(row.values())) for row in rows],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(body) + "\n"


TEX = {
    **{x: rf"\{x}" for x in "&%$#_{}"},
    "…": r"\dots{}",
    "−": "$-$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
_TEX = re.compile("|".join(map(re.escape, TEX)))
PICTURE_FORMATS = ("png", "svg", "pdf")
TABLE_FORMATS = {"csv": _csv, "tex": _tex}
FORMATS = (*PICTURE_FORMATS, *TABLE_FORMATS)


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    lines = [line(columns, "th"), *[line(row, "td") for row in rows]]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _figure(width: float = 6.4, height: float = 4.0) -> "Figure":
    """Return a figure that no window manager knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _estimate(found: statistics.Estimate) -> dict[str, float | None]:
    keys = ("value", "ci_low", "ci_high")
    return {key: results.number(x) for key, x in zip(keys, found, strict=True)}


def _estimate_cells(found: dict[str, Any]) -> tuple[str, str]:
    interval = _interval_text(found["ci_low"], found["ci_high"], ".3f")
    return _text(found["value"], ".3f"), interval


def _interval_text(low: float | None, high: float | None, form: str = ".1f") -> str:
    return "-" if low is None else f"{_text(low, form)} … {_text(high, form)}"


def _text(x: float | None, form: str = ".1f") -> str:
    return "-" if x is None else format(x, form)
