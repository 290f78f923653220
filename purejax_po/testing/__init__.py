"""Properties that every algorithm has to have, for one of your own: `check_algorithm`."""

from purejax_po.testing.algorithms import PROPERTIES, check_algorithm

__all__ = ["PROPERTIES", "check_algorithm"]
