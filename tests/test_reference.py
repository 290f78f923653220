"""Small runs of every algorithm have the bits of the reference arrays (`reference/make.py`)."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "reference"
spec = importlib.util.spec_from_file_location("make_reference", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

REFERENCE = np.load(FOLDER / "7cb7458.npz")
MADE = {name: str(REFERENCE[f"made/{name}"]) for name in ("jaxlib", "cpu")}
EXPERIMENTS = make.experiments()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_have_the_bits_of_the_reference(name):
    """With another jaxlib or CPU instructions differ, and last bits: there the first window is
    compared, to the digits that are left after its updates.
    """
    found = make.run(EXPERIMENTS[name])
    expected = {
        key.partition("/")[2]: REFERENCE[key]
        for key in REFERENCE.files
        if key.partition("/")[0] == name
    }
    assert set(found) == set(expected)
    is_same_machine = make.circumstances() == MADE
    for variable, values in expected.items():
        if is_same_machine:
            np.testing.assert_array_equal(found[variable], values, err_msg=variable)
        elif variable in ("seed", "update", "step"):
            np.testing.assert_array_equal(found[variable], values)
        elif variable in ("entropy", "episode_length"):
            first = (found[variable][..., 0], values[..., 0])
            np.testing.assert_allclose(*first, rtol=0.2, err_msg=variable)


@pytest.mark.slow
def test_results_have_the_bits_that_the_commit_gives_on_this_machine(tmp_path):
    """Where last bits differ from those of the machine that made the arrays."""
    command = [
        "git",
        "-C",
        str(FOLDER.parents[1]),
        "archive",
        "7cb7458:purejax_po",
        "--prefix=purejax_po/",
    ]
    packed = subprocess.run(command, check=False, capture_output=True)
    if packed.returncode:
        pytest.skip("the commit is not here")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    made = tmp_path / "made.npz"
    making = [sys.executable, str(FOLDER / "make.py"), str(made)]
    subprocess.run(making, env=environment, cwd=tmp_path, check=True)
    expected = np.load(made)
    for name, config in EXPERIMENTS.items():
        for variable, values in make.run(config).items():
            key = f"{name}/{variable}"
            np.testing.assert_array_equal(values, expected[key], err_msg=key)
