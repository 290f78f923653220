"""The documentation: every public name has a place, and every table is what the data say."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import purejax_po as po
from purejax_po.checks import Range

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """Scripts import each other as neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "_ext"))
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield
        for name in ("fields", "reference", "tables", "pages", "measure"):
            sys.modules.pop(name, None)


def test_every_public_name_is_on_a_page_of_the_reference():
    reference = importlib.import_module("reference")
    assert reference.missing() == []
    pages = [reference.page(group) for group in reference.GROUPS.values()]
    assert sum(".. autofunction:: purejax_po.ppo\n" in page for page in pages) == 1
    assert sum(".. autofunction:: purejax_po.advantages.gae\n" in page for page in pages) == 1


def test_a_name_that_no_page_has_is_found(monkeypatch):
    reference = importlib.import_module("reference")
    monkeypatch.setattr(po, "__all__", [*po.__all__, "forgotten"])
    monkeypatch.setattr(po, "forgotten", 1, raising=False)
    assert reference.missing() == ["forgotten"]


def test_ranges_read_as_ranges_and_fields_keep_their_words():
    fields = importlib.import_module("fields")
    found = {field.name: field for field in fields.of(po.PPOHyperparams)}
    assert found["discount"].kind == str(Range(0.0, 1.0))
    assert found["clip_eps"].doc.startswith("ε: the ratio")
    assert all(field.doc for field in found.values())


def test_pages_are_made_from_the_results():
    check = [sys.executable, str(ROOT / "benchmarks" / "pages.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_figure_that_is_typed_is_found():
    pages = importlib.import_module("pages")
    marked = "<!-- table a/b -->\n\n| 3.1 s |\n\n<!-- end of table -->"
    assert pages.typed(f"Eight seeds, 500 steps, 95 %.\n{marked}") == []
    assert pages.typed(f"It takes 3.1 s.\n{marked}\nIt is 2 % faster.") == ["3.1 s", "2 % faster"]


def test_a_benchmark_keeps_what_it_printed(tmp_path, monkeypatch, capsys):
    measure, tables = importlib.import_module("measure"), importlib.import_module("tables")
    monkeypatch.setattr(measure, "OUT", tmp_path / "out")
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    rows = [{"case": "a", "steps/s": "1,200 (1,000 … 1,400)"}]
    monkeypatch.setattr(sys, "argv", ["benchmarks/speed.py", "--quick"])
    measure.write("speed", {}, measure.table(rows), {"cases": rows})
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(sys, "argv", ["benchmarks/speed.py", "--quick", "--keep=gpu_speed"])
    measure.write("speed", {}, measure.table(rows), {"cases": rows})
    kept = json.loads((tmp_path / "results" / "gpu_speed.json").read_text())
    assert kept["command"] == "python benchmarks/speed.py --quick"
    assert kept["commit"] == measure.commit()
    assert kept["versions"]["jax"]
    assert tables.show(kept["tables"]["cases"]) == measure.table(rows)


def test_a_table_survives_the_way_to_data_and_back():
    tables = importlib.import_module("tables")
    text = (
        "| case | steps/s | share | time | return |\n| --- | --- | --- | --- | --- |\n"
        "| a | 1,234 (1,000 … 2,000) | 57% | 4.0 s | -1.5 (-2.0 … 3.0; 48) |\n"
        "| b | – | 5% | 10.0 s | 0.0 (0.0 … 1.0; 3) |"
    )
    (table,) = tables.parse(text)
    assert table["rows"][0] == ["a", [1234, 1000, 2000], 57, 4.0, [-1.5, -2.0, 3.0, 48]]
    assert tables.show(table) == text
    assert tables.show(table, ["share"], "^b") == "| share |\n| --- |\n| 5% |"
