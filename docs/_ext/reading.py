"""Sphinx extension: fields as tables, and docstrings read as they are meant."""

import dataclasses
import importlib
import re
from typing import Any

import fields
import jax.typing
import numpy.typing
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.ext.napoleon import docstring as napoleon
from sphinx.util.typing import stringify_annotation

SHORT = {
    "a whole number": "whole,",
    "a finite number ": "",
    "a finite number": "any number",
    "a number in ": "",
    "tuple[int, ...]": "whole numbers",
}
KINDS = {
    "int": "whole",
    "float": "a number",
    "bool": "true, false",
    "str": "a text",
    "int | None": "whole, None",
    "float | None": "a number, None",
    "str | None": "a text, None",
    "tuple[str, ...]": "texts",
    "FactoryName": "a name, a function",
    "bool | Progress": "true, false, a function",
    "Sequence": "observers",
}
"""Types that stand for themselves in code, in words."""
_MARKS = re.compile(r"(`[^`]*`)")
_ARRAY = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[~?[\w.]+\]\]")
_INTERVAL = re.compile(r"\([^()]* … [^()]*\)")


def escaped(line: str) -> str:
    """Return a line of a docstring in which |x|, *_kl and x_ are text, not markup."""
    if line.lstrip().startswith((">>>", "...", ".. ")):
        return line
    parts = _MARKS.split(line)
    for place in range(0, len(parts), 2):
        text = re.sub(r"(?<!\\)([|*])", r"\\\1", parts[place])
        parts[place] = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", text)
    return "".join(parts)


def _escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [escaped(line) for line in lines]


def _keep_together(app: Any, doctree: nodes.document, name: str) -> None:
    """Let no line break into an interval of a table's cell."""
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            kept = _INTERVAL.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
            if kept != text:
                text.parent.replace(text, nodes.Text(kept))


def _name_unions(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str
) -> tuple[str, str] | None:
    """Say `ArrayLike` for the unions that it stands for; None: as it was."""
    if signature is None:
        return None
    for union in {numpy.typing.ArrayLike, jax.typing.ArrayLike}:
        written = stringify_annotation(union, "smart")
        signature = signature.replace(written, "ArrayLike")
        returned = (returned or "").replace(written, "ArrayLike")
    return _ARRAY.sub("~numpy.ndarray", signature), _ARRAY.sub("~numpy.ndarray", returned)


def _as_it_is(self: Any) -> list[str]:
    """A field's docstring has no type before its first colon."""
    return [str(line) for line in self._lines]


def _as_prose(self: Any, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
    """What a function returns is a sentence, whose first colon ends no type."""
    lines = self._dedent(self._consume_to_next_section())
    return [("", "", lines)] if lines else []


class Fields(Directive):
    """`.. fields:: module:Class`: a table of its fields."""

    required_arguments = 1
    optional_arguments = 100
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Build the table; a second argument leaves fields out, by name."""
        path, *left_out = " ".join(self.arguments).split()
        module, _, name = path.partition(":")
        found = fields.of(getattr(importlib.import_module(module), name))
        lines = table([f for f in found if f.name not in left_out])
        container = nodes.container()
        self.state.nested_parse(StringList(lines, "fields"), self.content_offset, container)
        return container.children


class Presets(Directive):
    """`.. presets:: ppo`: the tuned settings of an algorithm, and how they differ from defaults."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build the table; nothing for an algorithm without presets."""
        from purejax_po.experiment.config import PRESETS

        rows = [["preset", "environment", "steps", "settings"]]
        for name, preset in PRESETS.items():
            if preset.algorithm.name == self.arguments[0]:
                told = ", ".join(f"``{x}``" for x in changes(preset.algorithm))
                rows.append([f"``{name}``", f"``{preset.env}``", f"{preset.total_steps:,}", told])
        if len(rows) == 1:
            return []
        container = nodes.container()
        self.state.nested_parse(StringList(list_table(rows)), self.content_offset, container)
        return container.children


def changes(config: Any) -> list[str]:
    """Return the settings of a configuration that are not its class's defaults."""
    usual = type(config)()
    found = []
    for field in dataclasses.fields(config):
        own, other = getattr(config, field.name), getattr(usual, field.name)
        if field.name in ("hyperparams", "network"):
            for inner in dataclasses.fields(own):
                value = getattr(own, inner.name)
                if value != getattr(other, inner.name):
                    found.append(f"{inner.name}={value}")
        elif own != other:
            found.append(f"{field.name}={own}")
    return found


def table(found: list[fields.Field]) -> list[str]:
    """Return fields as a list-table in reStructuredText."""
    if not found:
        return []
    columns = ["name", "what it may be", "default", "meaning"]
    given = [("``" + f.name + "``", _short(f), _code(f.default), escaped(f.doc)) for f in found]
    kept = [i for i in range(4) if i == 0 or any(row[i] for row in given)]
    return list_table([[row[i] for i in kept] for row in [columns, *given]])


def list_table(rows: list[list[str]]) -> list[str]:
    """Return rows, the header first, as a list-table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: fields", ""]
    for row in rows:
        for place, cell in enumerate(row):
            lines.append(f"   {'* -' if place == 0 else '  -'} {cell}".rstrip())
    return lines


def _short(field: fields.Field) -> str:
    if field.kind.startswith("Callable[") and "→" in field.doc:
        return "a function"
    kind = KINDS.get(field.kind, field.kind)
    for long, short in SHORT.items():
        kind = kind.replace(long, short)
    return escaped(kind)


def _code(text: str) -> str:
    return f"``{text}``" if text else ""


def setup(app: Any) -> dict[str, Any]:
    """Connect the hooks."""
    napoleon.GoogleDocstring._parse_attribute_docstring = _as_it_is  # type: ignore[method-assign]
    napoleon.GoogleDocstring._consume_returns_section = _as_prose  # type: ignore[method-assign]
    app.add_directive("fields", Fields)
    app.add_directive("presets", Presets)
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _name_unions)
    app.connect("doctree-resolved", _keep_together)
    return {"parallel_read_safe": True}
