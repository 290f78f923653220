"""What is packed: a source distribution has every file that the tests and the pages need."""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("purejax_po", "tests", "benchmarks", "docs", "examples", "notebooks")
KINDS = {".py", ".json", ".md", ".txt", ".npz", ".png", ".ipynb", ".toml"}
MADE = {"__pycache__", ".ipynb_checkpoints", ".peers", "out", "_build", "api", "runs"}
"""Folders that tests, benchmarks and the documentation make."""


def test_a_source_distribution_has_all_that_its_tests_need(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    paths = (path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    needed = {
        path.as_posix()
        for path in paths
        if path.suffix in KINDS
        and not MADE & set(path.parts)
        and path.parts[:2] != ("docs", "notebooks")
    }
    assert len(needed) > 200
    assert needed - names == set()
    assert {"README.md", "LICENSE", "Makefile", "pyproject.toml", "requirements.lock"} <= names
    assert not [name for name in names if MADE & set(name.split("/"))]
