"""The tests of the examples share what those of the package share: quick compilation, a cache."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).parents[1] / "tests" / "conftest.py"
spec = importlib.util.spec_from_file_location("shared_conftest", FILE)
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)

forget, forget_programs, stay_small = shared.forget, shared.forget_programs, shared.stay_small
compile_quickly = shared.compile_quickly
