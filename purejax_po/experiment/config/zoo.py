"""The zoo: settings that were searched for, one file for each algorithm and environment.

A file is a configuration file with a table `evidence`, which says how the settings were found and
what they reach with seeds that the search never saw. `benchmarks/zoo.py` writes them.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from purejax_po.experiment.config import file
from purejax_po.experiment.config.algorithms import AlgorithmConfig
from purejax_po.experiment.config.experiment import ExperimentConfig
from purejax_po.types import JSONObject

PRESET = "zoo"
"""The preset that stands for an algorithm's settings on its environment."""
FOLDER = Path(__file__).resolve().parents[2] / "zoo"
EVIDENCE = "evidence"


class Entry(NamedTuple):
    """Tuned settings and the returns that they reach."""

    config: ExperimentConfig
    """Algorithm, environment, budget and normalisation; one seed."""
    evidence: JSONObject
    """`iqm`, `ci_low`, `ci_high`, … over the fresh seeds; `search_seeds`, `command`, `commit`."""

    @property
    def algorithm(self) -> str:
        """The algorithm's name."""
        return self.config.algorithm.name

    @property
    def env(self) -> str:
        """The environment's id."""
        return self.config.env_name


@cache
def entries() -> dict[tuple[str, str], Entry]:
    """Return all entries by algorithm and environment."""
    found = [read(path) for path in sorted(FOLDER.glob("*/*.toml"))]
    return {(entry.algorithm, entry.env): entry for entry in found}


def read(path: Path) -> Entry:
    """Read one file.

    Raises:
        ValueError: naming the file and the key that is unknown or whose value does not read.
    """
    data = file.read(path)
    evidence = data.pop(EVIDENCE, {})
    return Entry(file.experiment(data, path, ExperimentConfig()), evidence)


def find(algorithm: str, env: str) -> Entry:
    """Return the entry of a pair.

    Raises:
        ValueError: naming what there is instead: the algorithm's environments, the nearest first.
    """
    if (entry := entries().get((algorithm, env))) is not None:
        return entry
    envs = [e for a, e in entries() if a == algorithm]
    near = difflib.get_close_matches(env, envs, len(envs) or 1, cutoff=0.0)
    others = [a for a, e in entries() if e == env]
    has = [f"{algorithm} on {', '.join(near)}"] * bool(near)
    has += [f"{', '.join(others)} on {env}"] * bool(others)
    raise ValueError(
        f"preset zoo must hold the pair, and has no settings of {algorithm} on {env}; it has "
        f"{'; '.join(has) or ', '.join(dict.fromkeys(a for a, _ in entries())) or 'none'}"
    )


def of(algorithm: AlgorithmConfig, env: str) -> Entry:
    """Return the entry of an algorithm's class; errors as `find`, and for a class by its name."""
    entry, own = find(algorithm.name, env), type(algorithm)
    if type(entry.config.algorithm) is not own:
        raise ValueError(
            f"preset must be left out for {own.__module__}:{own.__qualname__}, got 'zoo', whose "
            f"settings are for the package's own {algorithm.name}"
        )
    return entry


def zoo_config(algorithm: str, env: str, **changes: object) -> ExperimentConfig:
    """Return the tuned experiment of an algorithm on an environment.

    Args:
        algorithm: a name, such as `"ppo"`.
        env: an environment id.
        **changes: fields of `ExperimentConfig` to set, such as `num_seeds`.

    Raises:
        ValueError: for a pair that the zoo lacks, naming what it has.
    """
    config = find(algorithm, env).config
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return ExperimentConfig(**{**fields, **changes})


def path_of(algorithm: str, env: str, folder: Path = FOLDER) -> Path:
    """Return where the file of a pair is."""
    return folder / algorithm / f"{env.replace('/', '--').replace(':', '-')}.toml"


def write(entry: Entry, folder: Path = FOLDER) -> Path:
    """Write an entry's file, with what differs from the defaults alone; returns its path."""
    plain = ExperimentConfig(algorithm=type(entry.config.algorithm)())  # type: ignore[call-arg]
    default, settings = file.as_settings(plain), file.as_settings(entry.config)
    kept: JSONObject = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            kept[name] = {k: v for k, v in value.items() if v != default[name].get(k)}
        elif name in ("algorithm", "env", "total_steps") or value != default[name]:
            kept[name] = value
    text = file.write_toml(
        {**kept, EVIDENCE: dict(entry.evidence)}, ["Written by benchmarks/zoo.py."]
    )
    path = path_of(entry.algorithm, entry.env, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
