"""What a class's fields are called, may be, default to and mean: read from its source."""

import ast
import functools
import inspect
import textwrap
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from purejax_po.checks import Count, Range

SHORT = {"tyro.conf.Suppress": "", "tyro.conf.Fixed": ""}


class Field(NamedTuple):
    """One field of a dataclass or of a NamedTuple."""

    name: str
    kind: str
    default: str
    doc: str


def of(cls: type) -> list[Field]:
    """Return the fields of a class and of its bases, the base's first, as a reader needs them."""
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__):
        for field in _own(base):
            inherited = found.get(field.name, field)
            found[field.name] = field._replace(doc=field.doc or inherited.doc)
    return list(found.values())


@functools.cache
def _own(cls: type) -> tuple[Field, ...]:
    if not str(cls.__module__).startswith("purejax_po"):
        return ()
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return ()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    hints = _hints(cls)
    found = []
    for statement, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        if name.startswith("_"):
            continue
        doc = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            doc = inspect.cleandoc(str(after.value.value)).replace("\n", " ")
        kind = describe(hints.get(name), ast.unparse(statement.annotation))
        if kind == "ClassVar":
            continue
        found.append(Field(name, kind, _default(statement.value), doc))
    return tuple(found)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):
        return {}


def describe(hint: Any, source: str) -> str:
    """Say what a field may be: a range as a range, choices as choices, else the type's name."""
    if get_origin(hint) is Annotated:
        for allowed in hint.__metadata__:
            if isinstance(allowed, Range):
                return str(allowed)
            if isinstance(allowed, Count):
                return f"a whole number ≥ {allowed.minimum}"
        return describe(get_args(hint)[0], getattr(get_args(hint)[0], "__name__", source))
    source = source.strip("'")
    origin = str(get_origin(hint))
    if origin == "typing.ClassVar":
        return "ClassVar"
    if origin == "typing.Literal":
        return ", ".join(str(x) for x in get_args(hint))
    for name in SHORT:
        if source.startswith(f"{name}["):
            return describe(None, source[len(name) + 1 : -1])
    if source.startswith("Annotated["):
        return source.removeprefix("Annotated[").split(", tyro")[0]
    return source


def _default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    text = ast.unparse(value)
    if isinstance(value, ast.Call) and text.startswith(("field(", "dataclasses.field(")):
        made = next((k.value for k in value.keywords if k.arg == "default_factory"), None)
        if made is None:
            return ""
        text = ast.unparse(made)
        text = text.removeprefix("lambda: ") if text.startswith("lambda") else f"{text}()"
        return {"dict()": "{}", "list()": "[]", "tuple()": "()"}.get(text, text)
    return text
