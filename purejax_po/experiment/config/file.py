"""Configuration files: what the flags of the command line say, as TOML.

A key is a flag without its dashes, and a flag with a dot is in a table:

```toml
algorithm = "ppo"
env = "Acrobot-v1"
total_steps = 100_000
num_epochs = 8

[hyperparams]
learning_rate = 1e-3
```
"""

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

from purejax_po.checks import check_choice, nearest
from purejax_po.experiment import files
from purejax_po.experiment.config import schema
from purejax_po.experiment.config.algorithms import AlgorithmConfig
from purejax_po.experiment.config.experiment import ExperimentConfig
from purejax_po.experiment.config.lookup import algorithm_config

Settings = dict[str, Any]
StrPath = str | os.PathLike[str]
AnyConfig = TypeVar("AnyConfig")

FLAGS = {"seeds": "num_seeds", "set": "sweep"}
"""Keys that are named as their flag, and not as the field."""
PARTS = ("hyperparams", "network")
"""Fields of an algorithm that are tables."""


def load_config(path: str | os.PathLike[str]) -> ExperimentConfig:
    """Read an experiment from a file.

    Args:
        path: a TOML file whose keys are the flags of `purejax-po train` (what it leaves out has its
            default), or the `config.json` of a run.

    Raises:
        ValueError: naming the file and the key that is unknown or whose value does not read.
    """
    files.check_path("path", path)
    if Path(path).suffix == ".json":
        try:
            return ExperimentConfig.from_dict(json.loads(Path(path).read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"path must be a run's config.json, got {path}: {error}") from None
    return experiment(read(path), path, ExperimentConfig())


def read(path: str | os.PathLike[str]) -> Settings:
    """Read a TOML file; keys are spelled as fields are, and tables are dictionaries.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    files.check_path("config", path)
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config must be a TOML file, got {path}: {error.strerror}") from None
    except ValueError as error:  # of TOML, of the encoding, or of thousands of digits
        raise ValueError(f"config must be a TOML file, got {path}: {error}") from None
    for key in _huge("", data):
        raise ValueError(f"{key} in {path} must be of at most 64 bits, got a longer whole number")
    found: Settings = {}
    for key, value in data.items():
        name = key.replace("-", "_")
        name = FLAGS.get(name, name)
        if name in found:
            raise ValueError(f"config {path} must give each key once, got {key} twice")
        found[name] = value
    return found


def algorithm_name(data: Mapping[str, object], path: StrPath) -> str | None:
    """Return the algorithm that a file names, if it names one."""
    name = data.get("algorithm")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"algorithm in {path} must be a name such as 'ppo', got {name!r}")
    return name


def experiment(
    data: Mapping[str, object],
    path: StrPath,
    base: ExperimentConfig,
    further: Collection[str] = (),
) -> ExperimentConfig:
    """Return an experiment with the settings of a file.

    Args:
        data: of the file.
        path: of the file, for messages.
        base: what the file does not set; its algorithm too, if the file names none.
        further: keys that the file might have besides, for messages.

    Raises:
        ValueError: naming the file and the key that is unknown or whose value does not read.
    """
    data, algorithm = dict(data), base.algorithm
    name = algorithm_name(data, path)
    data.pop("algorithm", None)
    if name is not None and (own := algorithm_config(name)) is not type(algorithm):
        algorithm = own()  # type: ignore[call-arg]
    options = {f.name for f in dataclasses.fields(algorithm)}
    fields = [f.name for f in dataclasses.fields(base) if f.name != "algorithm"]
    for key in data:
        if key not in (*fields, *options):
            raise ValueError(unknown(key, path, algorithm, (*fields, *options, *further)))
    for part in PARTS:
        if part in data:
            inner, held = table(part, data.pop(part), path), getattr(algorithm, part)
            if schema.CLASS in inner:
                held = schema.own_class(inner.pop(schema.CLASS), f"{part}.class in {path}")()
            changed = changed_by(held, inner, path, f"{part}.")
            algorithm = dataclasses.replace(algorithm, **{part: changed})
    own = {key: data.pop(key) for key in list(data) if key in options}
    algorithm = changed_by(algorithm, own, path)
    return dataclasses.replace(changed_by(base, data, path), algorithm=algorithm)


def changed_by(
    config: AnyConfig, data: Mapping[str, object], path: StrPath, prefix: str = ""
) -> AnyConfig:
    """Return a dataclass with some fields set to what a file gives.

    Raises:
        ValueError: naming the file and a field that is not there, or is of another kind.
    """
    known = tuple(f.name for f in dataclasses.fields(config))  # type: ignore[arg-type]
    changes = {}
    for key, value in data.items():
        name = key.replace("-", "_")
        check_choice(f"a key of {prefix.rstrip('.') or 'config'} in {path}", name, known)
        like = getattr(config, name)
        kind = element_type(config, name)
        changes[name] = typed(f"{prefix}{name} in {path}", value, like, kind)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def element_type(config: object, name: str) -> object:
    """Return what the annotation of a dataclass's field says that its tuple holds, if it does."""
    try:
        hint = get_type_hints(type(config)).get(name)
    except (NameError, TypeError):  # of a class whose names are for type checkers alone
        return None
    return get_args(hint)[0] if get_origin(hint) is tuple and get_args(hint) else None


def typed(name: str, value: Any, like: object, kind: object = None) -> Any:
    """Return a value of a file as a field holds it, which holds `like` by default.

    `kind` is the type of a tuple's elements.

    Raises:
        ValueError: for a value of another kind.
    """
    if isinstance(like, Mapping):
        found = table(name, value, None)
        return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    if isinstance(like, tuple):
        return _elements(name, value, kind)
    is_number, is_whole = _is_number(value), _is_whole(value)
    kinds: Sequence[tuple[bool, bool, str]] = (
        (isinstance(like, bool), isinstance(value, bool), "true or false"),
        (isinstance(like, int), is_whole, "a whole number"),
        (isinstance(like, float), is_number, "a number"),
        (isinstance(like, str | Path), isinstance(value, str), "a text"),
    )
    for is_kind, fits, needed in kinds:
        if is_kind and not fits:
            raise ValueError(f"{name} must be {needed}, got {value!r}")
        if is_kind:
            break
    is_count = is_whole and not isinstance(like, float) and isinstance(like, int | None)
    value = Path(value) if isinstance(like, Path) and isinstance(value, str) else value
    return int(value) if is_count else value


def _elements(name: str, value: object, kind: object) -> tuple[object, ...]:
    """A list of a file as a tuple of a kind; widths may be the text `64x64` too."""
    if kind is int and isinstance(value, str) and re.fullmatch(r"\d+(x\d+)*", value):
        return tuple(map(int, value.split("x")))
    found: Sequence[object] = value if isinstance(value, list) else [value]
    if kind is int:
        numbers = [int(x) for x in found if _is_whole(x)]
        if len(numbers) < len(found):
            raise ValueError(f"{name} must be whole numbers such as [64, 64], got {value!r}")
        return tuple(numbers)
    if kind is str and not all(isinstance(x, str) for x in found):
        raise ValueError(f"{name} must be a list of texts, got {value!r}")
    return tuple(found)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int | float]:
    return _is_number(value) and value % 1 == 0


def _huge(name: str, value: object) -> Iterator[str]:
    """Names of whole numbers that 64 bits, which TOML has, do not hold."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _huge(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _huge(name, inner)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield name


def unknown(key: str, path: StrPath, algorithm: AlgorithmConfig, known: Sequence[str]) -> str:
    """What is said of a key that nothing reads."""
    for part in PARTS:
        if key in {f.name for f in dataclasses.fields(getattr(algorithm, part))}:
            return f"config {path} has {key} at its top: it belongs into the table [{part}]"
    hint = nearest(key, known, cutoff=0.5) or f"; it may have {', '.join(sorted(known))}"
    return f"config {path} must have keys that are flags, got {key!r}{hint}"


def write_toml(data: Mapping[str, object], comments: Sequence[str] = ()) -> str:
    """Return TOML of plain values, lists of them, and one level of tables.

    Args:
        data: values by key; a dictionary is a table; None and empty tables are left out.
        comments: lines at the top.
    """
    lines = [f"# {line}".rstrip() for line in comments]
    lines += [""] * bool(lines)
    tables = {k: v for k, v in data.items() if isinstance(v, Mapping)}
    flat = {k: v for k, v in data.items() if k not in tables and v is not None}
    lines += [f"{_key(name)} = {_toml(value)}" for name, value in flat.items()]
    for name, found in tables.items():
        rows = [f"{_key(k)} = {_toml(v)}" for k, v in found.items() if v is not None]
        lines += ["", f"[{_key(name)}]", *rows] if rows else []
    return "\n".join(lines) + "\n"


def as_settings(config: ExperimentConfig) -> Settings:
    """Return an experiment as the settings of a file; `experiment` undoes it."""
    data = config.identity()
    algorithm = data.pop("algorithm")
    parts = {part: algorithm.pop(part) for part in PARTS}
    tables = {k: data.pop(k) for k in ("env_params", "env_options", "sweep")}
    name = algorithm.pop("name")
    return {"algorithm": name, **data, **algorithm, **parts, **tables}


def table(name: str, value: object, path: StrPath | None) -> dict[str, object]:
    """Return a table of a file; raise `ValueError` for anything else."""
    if not isinstance(value, Mapping):
        where = f" in {path}" if path is not None else ""
        raise ValueError(f"{name}{where} must be a table, got {value!r}")
    return dict(value)


def _key(name: str) -> str:
    is_bare = name and all(x.isascii() and (x.isalnum() or x in "_-") for x in name)
    return name if is_bare else json.dumps(name)


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
