"""The command line `purejax-po`."""

from purejax_po.cli.entry import main

__all__ = ["main"]
