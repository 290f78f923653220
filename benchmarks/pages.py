"""Fill the tables of README and docs from `benchmarks/results/`, so that none is typed by hand.

    python benchmarks/pages.py            # writes them
    python benchmarks/pages.py --check    # exits with 1 for a page that is out of date or typed

A page marks a table by two comments; what stands between them is replaced:

    <!-- table FILE/TABLE columns=case|env steps/s rows=^ppo -->
    <!-- end of table -->

`columns` and `rows` (a pattern for the first cell) are optional. `<!-- source FILE -->` marks the
line that says which command, commit and machine the figures of a file are of.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import tables

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
PAGES = ("README.md", "docs/**/*.md")
_MARK = re.compile(
    r"(?P<begin><!-- (?P<kind>table|source) (?P<what>\S+?)(?: (?P<options>[^\n]*?))? -->\n)"
    r"(?P<old>.*?)(?P<end><!-- end of (?:table|source) -->)",
    re.DOTALL,
)

_FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:ms|µs|s|seconds?|minutes?|(?:env )?steps/s|[GT]FLOP/s|[KMG]i?B"
    r"|times (?:faster|slower|as fast)|% (?:faster|slower|less|more))(?![\w/])"
)
"""A number with a unit of time, speed or memory: what only a measurement gives."""
UNCHECKED = ("docs/notes/gpu.md",)
"""Pages whose figures are still typed."""

_OPTION = re.compile(r"(columns|rows)=(.+?)(?= (?:columns|rows)=|$)")


class Number(NamedTuple):
    """One of the numbers that decide: where it stands in the data."""

    what: str
    file: str
    table: str
    row: str
    ours: str
    peer: str = ""
    ratio: str = ""


_SPEED = ("ours, env steps/s", "peer, env steps/s", "ratio")
HEADLINE = (
    Number(
        "PPO, 16 seeds, 2 CPU cores, CartPole-v1: env steps/s beside rejax",
        *("peers", "peers", "rejax PPO, 16 of 16, fifteen rounds, at 476da79", *_SPEED),
    ),
    Number(
        "PPO, 2048 seeds, one H200, CartPole-v1: env steps/s beside rejax",
        *("gpu_peers", "peers", "rejax PPO, 2048 of 2048", *_SPEED),
    ),
    Number(
        "TRPO, 16 seeds beside one of sb3-contrib, 2 CPU cores: env steps/s",
        *("peers", "peers", "sb3-contrib TRPO, 1 of 16", *_SPEED),
    ),
    Number(
        "PPO, one seed, Brax's hopper, 2 CPU cores: env steps/s beside Brax's own trainer",
        *("peers", "peers", "brax PPO, 1 of 1 brax/hopper:spring", *_SPEED),
    ),
    Number(
        "PPO, CartPole-v1, 500,000 steps, 64 seeds: final return, IQM",
        *("learning", "runs", "`purejax-po train ppo --env CartPole-v1", "IQM"),
    ),
    Number(
        "TRPO, Acrobot-v1, 100,000 steps, 32 seeds: final return, IQM",
        *("learning", "runs", "`purejax-po train trpo --env Acrobot-v1", "IQM"),
    ),
)
"""The six numbers that decide: speed beside peers on CPU and GPU, and returns."""


def headline() -> str:
    """Return the table of the numbers that decide."""
    rows = []
    for number in HEADLINE:
        table = load(number.file)["tables"][number.table]
        names = [column["name"] for column in table["columns"]]
        forms = [column["form"] for column in table["columns"]]
        row = next(r for r in table["rows"] if f"{r[0]} {r[1]}".startswith(number.row))
        shown = {
            name: tables.cell(row[names.index(name)], forms[names.index(name)])
            for name in (number.ours, number.peer, number.ratio)
            if name
        }
        cells = (number.ours, number.peer, number.ratio)
        rows.append([number.what, *[shown.get(name, "") for name in cells]])
    header = ["what", "purejax_po", "peer", "ratio"]
    lines = [header, ["---"] * 4, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def load(name: str) -> dict[str, Any]:
    """Return what a file of `benchmarks/results/` holds."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def source(found: dict[str, Any]) -> str:
    """Say where figures come from, in one line of Markdown."""
    command, _, remark = found["command"].partition(" (")
    called = f"`{command}`" if command.startswith(("python ", "purejax-po ")) else command
    called = f"{called} ({remark}" if remark else called
    parts = [f"{called[0].upper()}{called[1:]}", f"commit {found['commit']}"]
    parts += [found["machine"]["name"]]
    parts += [f"{name} {version}" for name, version in found.get("versions", {}).items()]
    return f"{'; '.join(parts)}. {found.get('note', '')}".rstrip()


def filled(text: str) -> str:
    """Return a page with every marked part made from the data."""

    def fill(match: re.Match[str]) -> str:
        name, _, table = match["what"].partition("/")
        if match["kind"] == "source":
            made = source(load(name))
        elif match["what"] == "headline":
            made = headline()
        else:
            options = dict(_OPTION.findall(options_of(match)))
            columns = options.get("columns", "").split("|") if "columns" in options else ()
            made = tables.show(load(name)["tables"][table], columns, options.get("rows", ""))
        return f"{match['begin']}\n{made}\n\n{match['end']}"

    return _MARK.sub(fill, text)


def typed(text: str) -> list[str]:
    """Return the measured figures of a page outside of its marked parts: typed by hand."""
    return [match[0] for match in _FIGURE.finditer(_MARK.sub("", text))]


def options_of(match: re.Match[str]) -> str:
    """Return the options of a mark."""
    return match["options"] or ""


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    found = [path for pattern in PAGES for path in ROOT.glob(pattern)]
    return sorted(path for path in found if not {"_build", "api"} & set(path.parts))


def main() -> int:
    """Fill all pages, or say which ones are out of date."""
    stale, by_hand = [], []
    for path in pages():
        old = path.read_text()
        new = filled(old)
        name = path.relative_to(ROOT)
        if name.as_posix() not in UNCHECKED:
            by_hand += [f"{name}: {figure} is typed by hand" for figure in typed(new)]
        if new == old:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(new)
    for path in stale:
        print(f"{path}: {'out of date' if '--check' in sys.argv else 'written'}")
    print(*by_hand, sep="\n", end="\n" if by_hand else "")
    return int(bool(stale or by_hand) and "--check" in sys.argv)


if __name__ == "__main__":
    raise SystemExit(main())
