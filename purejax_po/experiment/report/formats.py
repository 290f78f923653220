"""The table of a report as comma-separated values and as LaTeX."""

import csv
import io
import re
from collections.abc import Iterator, Sequence


def to_csv(rows: Sequence[dict[str, str]]) -> str:
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
        if name.endswith("95 % CI"):
            low, _, high = cell.partition(" … ")
            of = name.removesuffix("95 % CI").replace(" ", "_")
            yield f"{of}ci_low", low.strip("-") and low
            yield f"{of}ci_high", high
        else:
            yield name, cell.replace(",", "") if name in ("steps/s", "median steps") else cell


def to_tex(rows: Sequence[dict[str, str]]) -> str:
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
TABLE_FORMATS = {"csv": to_csv, "tex": to_tex}
FORMATS = (*PICTURE_FORMATS, *TABLE_FORMATS)
