"""Tables as data: what a benchmark prints in Markdown, read into numbers, and written from them.

A cell is None, a text, a number, or a list [value, low, high] with the number of runs after it if
there is one. A column has the form of its numbers: digits, percent, a unit.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NUMBER = r"[-−]?[\d,]*\.?\d+"
_SPREAD = re.compile(
    rf"({NUMBER})(%| s|)(?: \(({NUMBER})(?:%| s|) … ({NUMBER})(?:%| s|)(?:; (\d+))?\))?"
)


def parse(text: str) -> list[dict[str, Any]]:
    """Return every Markdown table of a text, `{"columns": [{"name", "form"}], "rows": […]}`."""
    found, lines = [], text.splitlines()
    for start, line in enumerate(lines[:-1]):
        if not line.startswith("|") or not re.match(r"\|\s*-", lines[start + 1]):
            continue
        end = start + 2
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        rows = [_cells(row) for row in lines[start + 2 : end]]
        found.append(structured(_cells(line), rows))
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def structured(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a table of cells that are texts as numbers where a whole column is."""
    columns, cells = [], []
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        read = [_SPREAD.fullmatch(text) for text in column]
        given = [m for m, text in zip(read, column, strict=True) if text not in ("–", "")]
        units = {m[2] for m in given if m}
        if None in given or len(units) != 1:
            columns.append({"name": name, "form": ""})
            cells.append([text if text not in ("–", "") else None for text in column])
            continue
        digits = [len(m[1].partition(".")[2]) for m in given if m]
        mixed = len(set(digits)) > 1
        form = f",.{max(digits)}f{units.pop()}"
        columns.append({"name": name, "form": f"{form}g" if mixed and form.endswith("f") else form})
        cells.append([_number(m) if m else None for m in read])
    return {"columns": columns, "rows": [list(row) for row in zip(*cells, strict=True)]}


def _number(match: re.Match[str]) -> Any:
    def plain(text: str) -> float | int:
        text = text.replace(",", "").replace("−", "-")
        return float(text) if "." in text else int(text)

    value, low, high, runs = match[1], match[3], match[4], match[5]
    if low is None:
        return plain(value)
    spread = [plain(value), plain(low), plain(high)]
    return [*spread, int(runs)] if runs else spread


def show(table: Mapping[str, Any], columns: Iterable[str] = (), rows: str = "") -> str:
    """Write a table as Markdown: some columns, and rows whose first cell matches a pattern."""
    names = [column["name"] for column in table["columns"]]
    forms = [column["form"] for column in table["columns"]]
    kept = [names.index(name) for name in columns] or range(len(names))
    lines = [[names[i] for i in kept], ["---"] * len(kept)]
    for row in table["rows"]:
        if re.search(rows, str(row[0])):
            lines.append([cell(row[i], forms[i]) for i in kept])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(found: Any, form: str) -> str:
    """Write one cell."""
    if found is None:
        return "–"
    if isinstance(found, str):
        return found
    if not isinstance(found, list):
        return _show(found, form)
    value, low, high, *runs = found
    end = f"; {runs[0]}" if runs else ""
    return f"{_show(value, form)} ({_show(low, form)} … {_show(high, form)}{end})"


def _show(number: float, form: str) -> str:
    digits, unit = re.fullmatch(r"(,\.\d+f|)(.*)", form).groups()  # type: ignore[union-attr]
    if unit == "g":  # digits as they were given
        return f"{number:,}"
    return format(number, digits or "g") + unit


def dumps(found: Mapping[str, Any]) -> str:
    """Write tables and what goes with them as JSON, a line for each column and row."""
    rest = {name: value for name, value in found.items() if name != "tables"}
    lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in rest.items()]
    parts = []
    for name, table in found["tables"].items():
        inner = [
            f'   "{key}": [\n'
            + ",\n".join(f"    {json.dumps(x, ensure_ascii=False)}" for x in table[key])
            + "\n   ]"
            for key in ("columns", "rows")
        ]
        parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(inner) + "\n  }")
    lines.append(' "tables": {\n' + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"
