"""What users bring, by name: `my_pkg.spo:SPO` is `SPO` of the module `my_pkg.spo`."""

import difflib
import functools
import importlib
import importlib.metadata
import re
from typing import Any

EXAMPLE = "my_pkg.my_module:MyClass"
FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_name(text: object) -> bool:
    """Tell whether a text has the form `module:name`."""
    return isinstance(text, str) and FORM.fullmatch(text) is not None


def form_of(text: object) -> str:
    """Return a hint at `module:name` for a text that seems to mean a module or a file; else ""."""
    seems = isinstance(text, str) and re.search(r"^[^=]*([A-Za-z_]\.[A-Za-z_]|:)[^=]*$", text)
    return f"; yours are named module:name, such as {EXAMPLE}" if seems else ""


def find(what: str, name: str) -> Any:
    """Import what a name stands for.

    Args:
        what: what it is to be, for messages: `algorithm`, `env`.
        name: `module:name`; the name may have dots, as a class within a class.

    Raises:
        ValueError: in one line: no such module, an error within it, or nothing of that name there.
    """
    if not is_name(name):
        raise ValueError(f"{what} must be a name such as {EXAMPLE}, got {name!r}")
    module, _, path = name.partition(":")
    found = _import(what, name, module)
    for part in path.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{what} {name} is not there: {module} has no {part}{hint}")
        found = getattr(found, part)
    return found


def name_of(value: object) -> str:
    """Return the name under which another process finds a class or a function.

    Raises:
        ValueError: if there is none: it is of a script, a notebook or a function's body.
    """
    module = getattr(value, "__module__", None)
    path = getattr(value, "__qualname__", None)
    shown = path or type(value).__name__
    if not module or not path or module == "__main__" or "<" in path:
        raise ValueError(f"{shown} must be defined at the top of a module that can be imported")
    name = f"{module}:{path}"
    if not is_name(name) or find("class", name) is not value:
        raise ValueError(f"{shown} must be what {name} names, and is another object")
    return name


@functools.cache
def entry_points(group: str) -> dict[str, str]:
    """Return what installed packages list under a group: `module:name` by name."""
    found = importlib.metadata.entry_points(group=group)
    return {entry.name: f"{entry.module}:{entry.attr}" for entry in found}


def _import(what: str, name: str, module: str) -> Any:
    """Import a module; whatever its code raises is told in one line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if module == missing or module.startswith(missing + "."):
            raise ValueError(f"{what} {name} is not there: no module named {missing}") from None
        raise ValueError(f"{what} {name}: importing {module} fails: {error}") from error
    except (Exception, SystemExit) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        told = f"{type(error).__name__}: {reason}".removesuffix(": ")
        raise ValueError(f"{what} {name}: importing {module} fails: {told}") from error
