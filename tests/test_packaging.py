"""What is packed: a source distribution has every file that the tests and the pages need."""

import email
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("purejax_po", "tests", "benchmarks", "docs", "examples", "notebooks")
KINDS = {".py", ".json", ".md", ".txt", ".npz", ".png", ".ipynb", ".toml"}
MADE = {"__pycache__", ".ipynb_checkpoints", ".peers", "out", "_build", "api", "runs"}
"""Folders that tests, benchmarks and the documentation make."""


spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
hatch_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hatch_build)


def build(root, kind, folder, **variables):
    """Build a distribution; returns its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=os.environ | variables
    )
    assert done.returncode == 0, done.stderr
    (made,) = (path for path in Path(folder).iterdir() if path.suffix in (".gz", ".whl"))
    return made


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://host.org/group/name.git", "https://host.org/group/name"),
        ("https://user:secret@host.org/group/name", "https://host.org/group/name"),
        ("http://host.org:8080/group/name/", "https://host.org:8080/group/name"),
        ("git@host.org:group/name.git", "https://host.org/group/name"),
        ("ssh://git@host.org:22/group/name.git", "https://host.org/group/name"),
        ("/srv/name.git", ""),
        ("../name", ""),
        ("C:/name", ""),
        ("file:///srv/name.git", ""),
        ("", ""),
    ],
)
def test_a_clone_s_page_is_that_of_its_remote(remote, address):
    assert hatch_build.web_address(remote) == address


def test_the_index_page_has_whole_links_and_the_project_s_address(tmp_path):
    """Of a wheel that is built from the source distribution, as an index's installer may do."""
    address = "https://host.org/group/name"
    archive = build(ROOT, "sdist", tmp_path / "source", PUREJAX_PO_REPOSITORY=f"{address}.git")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (root,) = tmp_path.glob("purejax_po-*")
    with zipfile.ZipFile(build(root, "wheel", tmp_path / "wheel")) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith("METADATA"))
        metadata = email.message_from_bytes(packed.read(name))
    found = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert found["Source"] == address
    assert set(found) == {"Source", "Documentation", "Changelog", "Issues"}
    targets = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for target in targets:
        if target.startswith(address):
            path = re.sub("^/(raw|blob)/HEAD/", "", target.removeprefix(address))
            assert (ROOT / path.partition("#")[0]).exists(), target


def test_without_an_address_nothing_is_invented(tmp_path):
    text = (ROOT / "README.md").read_text()
    hook = hatch_build.CustomMetadataHook(str(tmp_path), {})
    (tmp_path / "README.md").write_text(text)
    metadata = {}
    hook.update(metadata)
    assert metadata == {"readme": {"content-type": "text/markdown", "text": text}}


def test_a_source_distribution_has_all_that_its_tests_need(tmp_path):
    with tarfile.open(build(ROOT, "sdist", tmp_path)) as packed:
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
    assert {
        "README.md",
        "LICENSE",
        "hatch_build.py",
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
    } <= names
    assert not [name for name in names if MADE & set(name.split("/"))]
