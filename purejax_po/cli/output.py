"""Standard output: of any encoding, of none, and one that cannot be written."""

import codecs
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.table import Table

Returned = TypeVar("Returned")

PLAIN = {"…": "...", "×": "x", "−": "-", "≥": ">=", "≤": "<=", "–": "-", "±": "+-"}
"""What stands for characters that an output lacks."""
HANDLER = "purejax_po"
OUTPUT = "standard output cannot be written"


def use_any_output() -> None:
    """Print on outputs of any encoding, and on none: what they lack is replaced, not raised."""
    if sys.stdout is None:  # closed
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    codecs.register_error(HANDLER, _in_plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)  # type: ignore[union-attr]


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(x, "?") for x in text), error.end


def plain(text: object) -> str:
    """A text as standard output will show it, so that a table is laid out for what is shown."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    codecs.register_error(HANDLER, _in_plain)
    return str(text).encode(encoding, HANDLER).decode(encoding)


def table(*headers: str, **options: Any) -> "Table":
    """A table that is laid out for what standard output can show."""
    from rich.table import Table

    class PlainTable(Table):
        def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
            if plain("…") != "…":  # what rich puts where it cuts a cell
                options["overflow"] = "crop"
            super().add_column(plain(header), *args, **options)

        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*map(plain, cells), **options)

    if options.get("title") is not None:
        options["title"] = plain(options["title"])
    return PlainTable(*headers, **options)


class Watched:
    """A stream whose failure to write names standard output, and not what else was written."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's."""
        return self._try(self._stream.write, text)

    def flush(self) -> None:
        """As the stream's."""
        self._try(self._stream.flush)

    def _try(self, function: Callable[..., Returned], *args: object) -> Returned:
        try:
            return function(*args)
        except BrokenPipeError:
            raise
        except OSError as error:
            discard()
            raise OSError(error.errno, error.strerror, OUTPUT) from None


def discard() -> None:
    """Discard pending standard output, so that Python does not fail on it when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Any:
    """Where tables are printed: names and paths as they are, never as markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 100
    return Console(width=width, markup=False, emoji=False, highlight=False)
