"""A file shows one idea on a few screens, an algorithm on two; types say what a value is."""

import ast
from pathlib import Path

import purejax_po

PACKAGE = Path(purejax_po.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
ALGORITHMS = ("a2c", "grpo", "npg", "ppo", "reinforce", "trpo")
ABOVE_THE_ENGINE = {"__init__.py", "__main__.py", "cli", "experiment", "studies", "testing"}
MOST_LINES, MOST_OF_AN_ALGORITHM, MOST_OF_A_FUNCTION = 400, 120, 80
MOST_ANYS = 150
"""Uses of `Any` in the package: what other libraries have no types for, and notions of `types`."""


def test_no_file_is_long():
    lengths = {path: len(text.splitlines()) for path, text in FILES.items()}
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}


def test_an_algorithm_is_stated_on_two_screens(subtests):
    for name in ALGORITHMS:
        with subtests.test(name):
            assert len(FILES[f"algorithms/{name}.py"].splitlines()) <= MOST_OF_AN_ALGORITHM


def test_no_function_of_the_engine_is_long():
    engine = {k: text for k, text in FILES.items() if k.split("/")[0] not in ABOVE_THE_ENGINE}
    for path, text in engine.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MOST_OF_A_FUNCTION, f"{path}: {node.name} has {length} lines"


def test_any_type_is_rare():
    uses = {
        path: sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
        for path, tree in ((path, ast.parse(text)) for path, text in FILES.items())
    }
    assert sum(uses.values()) <= MOST_ANYS, sorted(uses.items(), key=lambda use: -use[1])[:10]
