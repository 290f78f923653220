"""Run the notebooks in place, in order, outputs kept.

python notebooks/run.py                  # all of them
python notebooks/run.py 03 05            # those whose names begin so
python notebooks/run.py --check          # run, but leave the files as they are
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

HERE = Path(__file__).parent
CELL_SECONDS = 300


def run(path, *, keep):
    """Run one notebook; returns the seconds that it took, and those that the processor worked."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    start, worked = time.perf_counter(), processor_seconds()
    client.execute()
    seconds = time.perf_counter() - start, processor_seconds() - worked
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # whatever editor saved it: the difference shows what changed
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    if keep:
        nbformat.write(notebook, path)
    return seconds


def processor_seconds():
    """Of the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all by default")
    parser.add_argument("--check", action="store_true", help="leave the files as they are")
    arguments = parser.parse_args()
    paths = sorted(HERE.glob("*.ipynb"))
    if arguments.names:
        paths = [path for path in paths if path.name.startswith(tuple(arguments.names))]
    if not paths:
        sys.exit("no such notebook")
    for path in paths:
        try:
            seconds, worked = run(path, keep=not arguments.check)
        except (CellExecutionError, CellTimeoutError) as error:
            sys.exit(f"{path.name}: {error}")
        print(f"{path.name}: {seconds:.0f} s, {worked:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
