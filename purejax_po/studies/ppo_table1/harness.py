"""Run what is not complete, and write the table, its page and the curves of every task."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout, train
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.store import lock as locks
from purejax_po.experiment.store import run_store as files
from purejax_po.studies.ppo_table1 import plots
from purejax_po.studies.ppo_table1.protocol import Job
from purejax_po.studies.ppo_table1.scores import by_setting, read_references
from purejax_po.studies.ppo_table1.table import Runs, page, table
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr

TABLE, PAGE = "table1.json", "table1.md"
FILES = (TABLE, PAGE, "curves-TASK.png", "TASK/PROGRAM")


def check_same(job: Job) -> None:
    """Raise `ValueError` if a job's directory holds a run of other settings."""
    if not (job.directory / layout.CONFIG).exists():
        return
    held = files.read_config(job.directory).identity()
    for name, value in job.config.identity().items():
        # As the file has them: lists for tuples.
        wanted, found = (json.loads(json.dumps(x)) for x in (value, held.get(name)))
        if wanted != found and name != "lanes_per_device":
            raise ValueError(
                f"out must hold the same table, got {job.directory} with {name} = {found!r} "
                f"instead of {wanted!r}; choose another directory"
            )


def execute(
    all_jobs: Sequence[Job],
    out: str | os.PathLike[str],
    host: Host | None = None,
) -> JSONObject:
    """Train what is not complete, and write the table, its page and the curves of every task.

    Returns:
        What `table1.json` holds.

    Raises:
        ValueError: if the directory holds runs of other settings.
        StoppedError: if a run stopped, as where not even one lane fits the memory.
        Interrupted: after SIGINT or SIGTERM, once the state is saved; the same call goes on.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with locks.hold(out):
        for job in all_jobs:
            check_same(job)
        runs: Runs = {}
        for job in all_jobs:
            dataset = _run(job, host or Host())
            runs.setdefault(job.task, {})[job.group] = by_setting(job.group, dataset)
        references = {job.task: read_references(job) for job in all_jobs}
        found = table(runs, references)
        atomic.write_json(out / TABLE, found)
        atomic.write_text(out / PAGE, page(found))
        for task, families in runs.items():
            plots.save_curves(task, families, found["zero"][task], out)
    return found


def _run(job: Job, host: Host) -> "xr.Dataset":
    read_references(job)
    if job.is_complete():
        return results.load(job.directory)
    is_begun = (job.directory / layout.CONFIG).exists()
    study = (
        train.prepare_resume(job.directory, host)
        if is_begun
        else train.prepare(job.config, job.directory, host)
    )
    return train.execute(study, host)
