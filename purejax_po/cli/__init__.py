"""The command line `purejax-po`."""

from purejax_po.cli.main import main

__all__ = ["main"]
