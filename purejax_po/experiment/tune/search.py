"""A search as it is given and as its directory holds it.

```
tune.json         what is searched, and how
trials.log        Optuna's journal: its dashboard opens it
batches/0003/     batch.json: its trials, and what became of them; states while it is under way
finalists/        the same, of the best trials with further seeds
fresh/            the run of the chosen point with seeds that the search never saw
best.toml trials.csv tuning.json importance.png parallel.png    once it is complete
```
"""

import dataclasses
import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from purejax_po.checks import check_count
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.config import ExperimentConfig, schema
from purejax_po.experiment.store.run_store import config_hash
from purejax_po.experiment.tune import space as spaces
from purejax_po.experiment.tune import trials as records
from purejax_po.experiment.tune.space import Space
from purejax_po.experiment.tune.trials import Trial
from purejax_po.types import JSONObject

TUNE = layout.TUNE
TRIALS, BATCHES, BATCH = "trials.log", "batches", "batch.json"
FINALISTS, FRESH = "finalists", "fresh"
BEST, TABLE, SUMMARY = "best.toml", "trials.csv", "tuning.json"
FILES = (BEST, TABLE, SUMMARY, TRIALS, "importance.png", "parallel.png")
MOST_TRIALS, MOST_RUNGS = 100_000, 10
OF_NO_TRIAL = ("storage", "study", "finalists", "finalist_seeds", "fresh_seeds")
"""Settings that no trial depends on."""
SQLITE = "sqlite:///"
"""How the address of a database that is a file begins."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to search a space."""

    trials: int = 64
    """Settings to try."""
    batch: int = 16
    """Trials side by side: with all their seeds they are lanes of a few programs."""
    programs: int = 2
    """Most programs of a batch. A program has one combination of the choices that shape it."""
    sampler: str = "tpe"
    """Optuna's sampler that proposes trials: tpe, random, quasi-random, cmaes or gp (which needs
    torch)."""
    search_seed: int = 0
    """The sampler's seed."""
    rungs: int = 3
    """How often trials are compared, the last time at the end; 1 trains all to the end."""
    reduction: int = 2
    """At each rung one trial in this many continues, from its own state."""
    finalists: int = 4
    """Best trials that train with further seeds before one of them is chosen; 0 chooses by the
    search alone."""
    finalist_seeds: int = 12
    """Further seeds of each finalist."""
    fresh_seeds: int = 16
    """Seeds with which the chosen settings train at the end; the search never sees them."""
    storage: str = ""
    """Optuna's storage: a file or the URL of a database (default: trials.log in the directory)."""
    study: str = ""
    """Name of the study in it (default: ALGORITHM-ENV)."""

    def check(self) -> None:
        """Raise `ValueError` for a value that is out of range."""
        for name in ("storage", "study"):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} must be a text, got {value!r}")
        check_count("trials", self.trials, maximum=MOST_TRIALS)
        check_count("rungs", self.rungs, maximum=MOST_RUNGS)
        for name in ("batch", "programs", "finalist_seeds", "fresh_seeds"):
            check_count(name, getattr(self, name))
        check_count("search_seed", self.search_seed, minimum=0, maximum=records.MOST_SEED)
        check_count("finalists", self.finalists, minimum=0)
        check_count("reduction", self.reduction, minimum=2)
        records.check(self.sampler)

    def located(self) -> "Search":
        """Return it with a storage that is the same file from any folder."""
        storage = os.fspath(self.storage) if isinstance(self.storage, os.PathLike) else self.storage
        if not isinstance(storage, str) or not storage or ":memory:" in storage:
            return self
        prefix = SQLITE if storage.startswith(SQLITE) else ""
        place = storage.removeprefix(prefix)
        if ("://" in storage and not prefix) or not place or place.startswith("file:"):
            return self
        return dataclasses.replace(self, storage=prefix + os.path.abspath(place))

    @property
    def fractions(self) -> tuple[float, ...]:
        """Of the training, at which each rung ends."""
        return tuple(float(self.reduction) ** -i for i in reversed(range(self.rungs)))

    def num_survivors(self, number: int) -> int:
        """How many of so many trials go on."""
        return max(1, number // self.reduction)

    @property
    def num_batches(self) -> int:
        """Batches, the last one of which may be smaller."""
        return math.ceil(self.trials / self.batch)

    def size_of(self, batch: int) -> int:
        """How many trials a batch has."""
        return min(self.batch, self.trials - batch * self.batch)


class Seeds(NamedTuple):
    """Who is trained with which seeds; no two of these have one in common."""

    search: range
    finalists: range
    fresh: range


def seeds_of(config: ExperimentConfig, search: Search) -> Seeds:
    """Return the seeds of a search: those of its trials, then the finalists', then fresh ones."""
    ends = [config.first_seed]
    for number in (config.num_seeds, search.finalist_seeds, search.fresh_seeds):
        ends.append(ends[-1] + number)
    return Seeds(*(range(a, b) for a, b in itertools.pairwise(ends)))


def at_seeds(config: ExperimentConfig, seeds: range) -> ExperimentConfig:
    """Return an experiment with other seeds."""
    return dataclasses.replace(config, first_seed=seeds.start, num_seeds=len(seeds))


class Tuning(NamedTuple):
    """A checked search, ready to run."""

    config: ExperimentConfig
    space: Space
    search: Search
    directory: Path
    width: int
    """Lanes on each device."""
    is_resumed: bool = False
    begun_as: str = ""
    """The hash of its file: a field that a later version adds changes no trial."""

    def to_dict(self) -> JSONObject:
        """Return what `tune.json` holds."""
        return {
            "config": self.config.to_dict(),
            "space": spaces.to_json(self.space),
            "search": dataclasses.asdict(self.search),
            "lanes_per_device": self.width,
        }

    def identity(self) -> str:
        """Hash what the trials depend on."""
        return self.begun_as or _hash(self.to_dict())

    @property
    def storage(self) -> str:
        """Where the trials are kept for Optuna."""
        return self.search.storage or str(self.directory / TRIALS)

    @property
    def study(self) -> str:
        """The study's name there."""
        return self.search.study or f"{self.config.algorithm.name}-{self.config.env_name}"


def _hash(data: JSONObject) -> str:
    """Hash what the trials depend on, of what `tune.json` holds."""
    config = {k: v for k, v in data["config"].items() if k != schema.FORMAT}
    settings = {k: v for k, v in data["search"].items() if k not in OF_NO_TRIAL}
    # In a storage that others see: the last batch may be smaller than that of another search.
    if not (data["search"]["storage"] and settings["trials"] % settings["batch"]):
        settings.pop("trials")
    return config_hash({**data, "config": config, "search": settings})


def read(directory: Path) -> Tuning:
    """Read the search that a directory holds.

    Raises:
        ValueError: if there is none, or one of another version.
    """
    try:
        data = json.loads((directory / TUNE).read_text())
        return Tuning(
            ExperimentConfig.from_dict(data["config"]),
            spaces.parse(data["space"]),
            Search(**data["search"]),
            directory,
            int(data["lanes_per_device"]),
            is_resumed=True,
            begun_as=_hash(data),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"directory must be that of a search, got {directory}, whose {TUNE} does not read: "
            f"{error}"
        ) from None


def check_free(directory: Path, settings: Search, overwrite: bool) -> None:
    """Check that a search may be written to a directory, and that it deletes its own files alone.

    Raises:
        ValueError: if the directory holds a search and `overwrite` is not given, or others' files
            with the names of a search's, or if `storage` is a file of the search's own.
    """
    if (directory / TUNE).exists():
        if not overwrite:
            raise ValueError(
                f"out must hold no search yet, got {directory} with a {TUNE}; choose another "
                "directory, resume it or overwrite it (--overwrite)"
            )
    elif held := [x for x in (*FILES, BATCHES, FINALISTS, FRESH) if (directory / x).exists()]:
        raise ValueError(
            f"out must hold no files named like a search's, got {directory} with {held[0]} but no "
            f"{TUNE}; choose another directory"
        )
    storage = settings.storage
    place = storage.removeprefix(SQLITE)
    is_file = bool(place) and "://" not in place
    if is_file and directory.resolve() in Path(place).resolve().parents:
        raise ValueError(
            f"storage must be outside of {directory}, whose files are this search's alone, got "
            f"{storage}; without it the trials are in {TRIALS} there"
        )


def batch_folder(directory: Path, batch: int) -> Path:
    """Return the folder of a batch."""
    return directory / BATCHES / f"{batch:04d}"


class Batch(NamedTuple):
    """A batch of trials."""

    trials: list[Trial]
    """With what became of them, once they are trained."""
    attributes: JSONObject
    """A sampler's notes about the study."""
    is_trained: bool = False


def read_batch(folder: Path) -> Batch | None:
    """Read a batch, if it has begun.

    Raises:
        ValueError: if its file is damaged.
    """
    path = folder / BATCH
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        trials = [Trial(row["params"], row["attributes"]) for row in data["trials"]]
        if (results := data["trained"]) is not None:
            trials = [_trained(*pair) for pair in zip(trials, results, strict=True)]
        return Batch(trials, data["attributes"], results is not None)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; start again with --overwrite") from None


def _trained(trial: Trial, result: JSONObject) -> Trial:
    reports = {int(step): value for step, value in result["reports"].items()}
    returns = [math.nan if x is None else x for x in result["returns"]]
    return trial._replace(**{**result, "reports": reports, "returns": returns})


def write_batch(folder: Path, batch: Batch) -> None:
    """Write a batch, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"params": t.params, "attributes": t.attributes} for t in batch.trials]
    trained = [
        {
            "reports": t.reports,
            "returns": [x if math.isfinite(x) else None for x in t.returns],
            "is_complete": t.is_complete,
            "steps": t.steps,
        }
        for t in batch.trials
    ]
    found = trained if batch.is_trained else None
    content = {"trials": rows, "attributes": batch.attributes, "trained": found}
    atomic.write_json(folder / BATCH, content)
