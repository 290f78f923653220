"""The command line `purejax-po`."""

from purejax_po.cli.commands import main

__all__ = ["main"]
