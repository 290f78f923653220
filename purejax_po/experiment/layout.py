"""The files of a run's directory, by name.

```
config.json       what runs
plan.json         lanes of each block, kind of device, versions it was begun with
log.jsonl         a line for each window of each block, block by block once the run is complete
blocks/000003/    block 3: state-000040 (after 40 windows), or result
results.nc summary.json learning_curve.png diagnostics.png (sweep.png)    once it is complete
```
"""

import re
from collections.abc import Mapping
from pathlib import Path

CONFIG, PLAN, LOG, BLOCKS = "config.json", "plan.json", "log.jsonl", "blocks"
SUMMARY, RESULTS = "summary.json", "results.nc"
PICTURES = ("learning_curve.png", "diagnostics.png")
SWEEP = "sweep.png"
RUN_FILES = (CONFIG, PLAN, LOG, BLOCKS, RESULTS, SUMMARY, *PICTURES)
LOGGERS = ("tensorboard", "wandb")
"""Directories of optional loggers: like a run's files replaced with it."""
EXPORT = "export"
"""Directory of policies in other formats."""
OLD_CHECKPOINTS = "checkpoints"
"""Where version 0.1 kept what `blocks` holds now."""
OWN = (*RUN_FILES, SWEEP, *LOGGERS, EXPORT, OLD_CHECKPOINTS)
"""All that a run may have in its directory, and that goes when it is overwritten."""
MADE = ("evaluation.json", "evaluation-*.json", "seed-*.gif", "seed-*.html", "report.html")
"""What commands make of a run in its directory, unless they are told where: it goes too."""
TUNE, COMPARISON = "tune.json", "comparison.json"
OTHERS = {TUNE: "search", COMPARISON: "comparison"}
"""What makes a directory that of something else, in which no run is put."""
RESULT = "result"
_BLOCK = re.compile(r"[0-9]{6,}")
_STATE = re.compile(r"state-(\d+)")


def block_folder(directory: Path, block: int) -> Path:
    """Return the folder of a block, to which whoever runs it writes alone."""
    return directory / BLOCKS / f"{block:06d}"


def blocks(directory: Path) -> list[int]:
    """Return the blocks that have a folder, in order; a folder of another name is none."""
    names = [path.name for path in (directory / BLOCKS).glob("*")]
    return sorted(int(name) for name in names if _BLOCK.fullmatch(name))


def state_name(num_windows: int) -> str:
    """Return the name of the checkpoint after some windows."""
    return f"state-{num_windows:06d}"


def states(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints of a block with the windows done in each, the newest first."""
    found = [(_STATE.fullmatch(path.name), path) for path in folder.glob("state-*")]
    return sorted([(int(match[1]), path) for match, path in found if match], reverse=True)


def of_seed(seed: int, point: Mapping[str, float] | None, best: bool) -> str:
    """What is made of a seed's policy is called so."""
    values = [f"{name}={value:g}" for name, value in (point or {}).items()]
    return "-".join([f"seed-{seed}", *["best"] * best, *values])
