"""Imports point one way: engine below, experiment above, and every layer sees only what it may."""

import ast
import subprocess
import sys
from pathlib import Path

import purejax_po

PACKAGE = Path(purejax_po.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Part of the package (a module or a folder) -> the other parts that it may import.
ALLOWED = {
    "early": set(),
    "aliases": set(),
    "named": set(),
    "jacobian": set(),
    "types": {"jacobian"},
    "checks": {"types", "aliases"},
    "_xla": {"types", "checks"},
    "actor": {"types"},
    "distributions": {"types", "_xla"},
    "spaces": {"types", "distributions"},
    "observations": {"types", "checks", "spaces"},
    "masks": {"types", "spaces", "distributions", "observations"},
    "encoding": {"types", "checks", "spaces", "observations"},
    "contract": {"types", "checks", "actor", "spaces", "observations", "masks"},
    "reads": {"types"},
    "networks": {"types", "checks", "distributions", "_xla", "spaces", "masks", "encoding"},
    "own_networks": {"types", "checks", "networks"},
    "sequence": {"types", "checks", "distributions"},
    "metrics": {"types"},
    "normalization": {"types", "metrics", "observations"},
    "environments": {
        "types",
        "checks",
        "_xla",
        "spaces",
        "contract",
        "named",
        "observations",
        "masks",
        "distributions",
    },
    "advantages": {"types", "_xla"},
    "surrogates": {"types"},
    "curvature": {"types", "checks", "jacobian", "_xla"},
    "minibatch": {"types", "_xla"},
    "exact": {"types", "checks", "_xla"},
    "rollout": {"types", "actor", "_xla", "spaces", "contract"},
    "evaluation": {"types", "checks", "actor", "rollout", "contract"},
    "algorithms": {
        "types",
        "checks",
        "distributions",
        "_xla",
        "actor",
        "advantages",
        "surrogates",
        "curvature",
        "minibatch",
        "observations",
    },
    "pretraining": {"types", "checks", "distributions", "minibatch", "advantages", "spaces"},
    "update": {"types", "metrics", "normalization", "rollout", "_xla", "contract"},
    "training": {
        "types",
        "checks",
        "metrics",
        "normalization",
        "observations",
        "spaces",
        "contract",
        "update",
    },
}
ABOVE_THE_ENGINE = {"__init__", "__main__", "cli", "experiment", "studies", "testing"}
# A library -> the only parts that may import it.
ONLY = {
    "flax.linen": {"networks", "_xla"},
    "matplotlib": {"experiment", "studies"},
    "ray": {"experiment"},
    "filelock": {"experiment"},
    "xarray": {"experiment", "cli", "studies"},
    "orbax": {"experiment"},
    "safetensors": {"experiment"},
}

LEAVES = {"files", "layout"}
"""Modules of the host layer that every room may import."""
# A room of `experiment` -> the other rooms that it may import.
ROOMS = {
    "config": set(),
    "store": {"config"},
    "results": set(),
    "run": {"config", "store", "results"},
    "tune": {"config", "store", "results", "run"},
    "plots": {"results"},
    "report": {"results", "plots"},
}
# A library -> the only files of `experiment` that may import it: a room, or a file in it.
ONLY_IN_ROOMS = {
    "matplotlib": {"plots", "report", "rendering"},
    "ray": {"run/ray_pool", "run/ray_cluster"},
    "filelock": {"store/lock"},
    "safetensors": {"store/arrays"},
    "optuna": {"tune/trials"},
    "orbax": {"store/arrays"},
    "tyro": {"config", "run/host"},
}


def part_of(path):
    """The module or the folder directly below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(nodes, path):
    """Every dotted name that these statements import: modules, and names out of them."""
    package = ("purejax_po", *path.relative_to(PACKAGE).parts[:-1])
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    """The parts of the package that a file imports, in functions too."""
    tree = ast.parse(path.read_text())
    names = [name.split(".") for name in imported(ast.walk(tree), path)]
    return {name[1] for name in names if name[0] == "purejax_po" and len(name) > 1}


def test_the_reader_of_imports_sees_every_form():
    source = """
import purejax_po.training
from purejax_po import rollout
from purejax_po.algorithms.ppo import ppo
from . import natural
from ..types import Array
def f():
    import purejax_po.cli
"""
    path = PACKAGE / "algorithms" / "example.py"
    assert list(imported(ast.walk(ast.parse(source)), path)) == [
        "purejax_po.training",
        "purejax_po.rollout",
        "purejax_po.algorithms.ppo.ppo",
        "purejax_po.algorithms.natural",
        "purejax_po.types.Array",
        "purejax_po.cli",
    ]


def test_a_part_imports_only_what_it_may(subtests):
    for part in sorted(ALLOWED):
        with subtests.test(part):
            for path in (path for path in FILES if part_of(path) == part):
                wrong = parts_imported(path) - ALLOWED[part] - {part}
                assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_the_allowed_directions_have_no_cycle():
    seen = set()
    while seen != set(ALLOWED):
        ready = {part for part, allowed in ALLOWED.items() if allowed <= seen} - seen
        assert ready, f"a cycle among {sorted(set(ALLOWED) - seen)}"
        seen |= ready


def test_the_engine_never_imports_what_stands_above_it():
    for path in FILES:
        if part_of(path) not in ABOVE_THE_ENGINE:
            wrong = parts_imported(path) & ABOVE_THE_ENGINE
            assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_types_hold_nothing_but_types():
    """Checks and ranges have a module of their own, which is imported by its name."""
    tree = ast.parse((PACKAGE / "types.py").read_text())
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert found == []
    assert ALLOWED["types"].isdisjoint({"checks"})


def test_training_knows_no_algorithm_and_algorithms_no_training():
    assert "algorithms" not in ALLOWED["training"]
    assert "algorithms" not in ALLOWED["update"]
    assert ALLOWED["algorithms"].isdisjoint(
        {"environments", "rollout", "update", "training", "experiment", "evaluation"}
    )


def test_some_libraries_are_known_to_one_part_only(subtests):
    for library in sorted(ONLY):
        with subtests.test(library):
            for path in FILES:
                names = set(imported(ast.walk(ast.parse(path.read_text())), path))
                found = any(name == library or name.startswith(library + ".") for name in names)
                assert not found or part_of(path) in ONLY[library], path.relative_to(PACKAGE)


def rooms_imported(path):
    """The rooms and files of `experiment` that a file imports, in functions too."""
    tree = ast.parse(path.read_text())
    names = [name.split(".") for name in imported(ast.walk(tree), path)]
    return {name[2] for name in names if name[:2] == ["purejax_po", "experiment"] and name[2:]}


def test_a_room_of_the_host_layer_imports_only_what_it_may(subtests):
    for room in sorted(ROOMS):
        with subtests.test(room):
            for path in (PACKAGE / "experiment" / room).rglob("*.py"):
                wrong = rooms_imported(path) - ROOMS[room] - LEAVES - {room}
                assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_every_room_has_its_rule():
    folders = {path.parent.name for path in (PACKAGE / "experiment").glob("*/__init__.py")}
    assert folders == set(ROOMS)
    for path in (PACKAGE / "experiment").glob("*.py"):
        if path.stem in LEAVES:
            assert rooms_imported(path) == set(), path


def test_some_libraries_are_known_to_one_room_only(subtests):
    for library in sorted(ONLY_IN_ROOMS):
        with subtests.test(library):
            for path in (PACKAGE / "experiment").rglob("*.py"):
                names = set(imported(ast.walk(ast.parse(path.read_text())), path))
                if any(name == library or name.startswith(library + ".") for name in names):
                    place = path.relative_to(PACKAGE / "experiment").with_suffix("")
                    assert {place.parts[0], place.as_posix()} & ONLY_IN_ROOMS[library], place


def test_importing_the_package_leaves_slow_libraries_for_later():
    """gymnax takes four seconds to import, matplotlib one: each is imported where it is used."""
    slow = [
        "gymnax",
        "matplotlib.pyplot",
        "scipy.stats",
        "xarray",
        "orbax",
        "safetensors",
        "pandas",
        "ray",
    ]
    code = f"import purejax_po, sys; print(sorted(set({slow}) & set(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert finished.stdout.strip() == "[]", finished.stderr


def test_testing_does_not_import_pytest():
    """A user's algorithm may be checked by any runner."""
    code = "import purejax_po.testing, sys; print('pytest' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert finished.stdout.strip() == "False", finished.stderr


def code_lines(path):
    """Stripped lines of a module that are neither empty nor part of an import."""
    text = path.read_text()
    imports = {
        line
        for node in ast.parse(text).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = enumerate(map(str.strip, text.splitlines()), start=1)
    return [line for number, line in numbered if line and number not in imports]


def test_no_six_lines_stand_twice_among_the_algorithms():
    """What two of them share has a name of its own: an algorithm's file says what differs."""
    places = {}
    for path in sorted((PACKAGE / "algorithms").glob("*.py")):
        lines = code_lines(path)
        for i in range(len(lines) - 5):
            places.setdefault(tuple(lines[i : i + 6]), []).append(f"{path.name}: {lines[i]}")
    assert [where for where in places.values() if len(where) > 1] == []
