"""Runs of version 0.1: their results and policies can be read, but they cannot go on.

Their `checkpoints/done-N` hold the results of several blocks each; their lanes are numbered alike.
"""

from collections.abc import Iterator
from pathlib import Path

from purejax_po.experiment import layout
from purejax_po.experiment.store import arrays as checkpoint
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import RunStore, Stored


def is_old(directory: Path) -> bool:
    """Whether a directory holds a run of version 0.1."""
    return (directory / layout.OLD_CHECKPOINTS).is_dir() and not (
        directory / layout.BLOCKS
    ).exists()


def check_complete(directory: Path) -> None:
    """Raise `ValueError` for a run of version 0.1 that is not complete."""
    if is_old(directory) and not (directory / layout.SUMMARY).exists():
        raise ValueError(
            f"{directory} was begun by purejax-po 0.1, whose checkpoints this version cannot go on "
            "from: complete it there, or start again (--overwrite)"
        )


def results(store: RunStore) -> Iterator[tuple[int, Stored | CheckpointError]]:
    """Yield blocks with their results, or with what is wrong with them (block -1).

    Raises:
        ForeignError: for a checkpoint of another run.
    """
    for path in sorted((store.directory / layout.OLD_CHECKPOINTS).glob("done-*")):
        try:
            arrays, meta = store.load(path)
        except CheckpointError as error:
            yield -1, error
            continue
        parts: dict[int, checkpoint.Arrays] = {}
        for joined, array in arrays.items():
            index, _, name = joined.partition("/")
            parts.setdefault(int(index), {})[name] = array
        meta["plan"] = {"lanes_per_device": meta["lanes_per_device"]}
        for index, part in parts.items():
            yield index, Stored(0, part, meta)
