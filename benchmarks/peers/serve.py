"""The two ends of a worker: jobs as lines of JSON on stdin, their results on stdout.

A job is `{"algorithm", "env", "seeds", "steps", "settings", "episodes"}`. A result is
`{"steps_per_second", "compile_seconds", "returns", "versions"}`: run time without compilation, and
for each seed the mean return of `episodes` episodes of the final policy, which samples its actions.
"""

import json
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any


def serve(run: Callable[[dict[str, Any]], dict[str, Any]], *packages: str) -> None:
    """Answer every job on stdin; what the libraries print goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    versions = {package: metadata.version(package) for package in packages}
    for line in sys.stdin:
        result = {**run(json.loads(line)), "versions": versions}
        print(json.dumps(result), file=answers, flush=True)
