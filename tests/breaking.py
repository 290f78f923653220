"""Runs that are broken off at a window that is known."""

from unittest import mock

import pytest
import tiny

import purejax_po as po
from purejax_po.experiment.run import block


class KilledError(Exception):
    """What a test raises in place of a kill."""


def killed_at(number):
    """A patch: the worker dies when it begins window `number`, counted over all blocks."""
    begun, original = [], block.run_window

    def run_window(*arguments):
        if len(begun) == number:
            raise KilledError
        begun.append(1)
        return original(*arguments)

    return mock.patch.object(block, "run_window", run_window)


def run_until(out, number, config=None, **changes):
    """Run on one device, saving every window, and break off after a number of windows."""
    config = tiny.experiment(**changes) if config is None else config
    with killed_at(number), pytest.raises(KilledError):
        po.run(config, out, progress=False, checkpoint_every=0.0, num_devices=1)
