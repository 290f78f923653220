"""Ranges, and what each check refuses: one line that names what is wrong."""

import math

import jax
import jax.numpy as jnp
import pytest

from purejax_po import checks
from purejax_po.checks import Range

OPEN = Range(0.0, 1.0, includes_low=False, includes_high=False)


def test_a_range_holds_what_is_inside_in_single_precision(subtests):
    for allowed, inside, outside, text in [
        (Range(), (-1e30, 0.0, 3), (math.inf, math.nan, 1e39), "a finite number"),
        (Range(0.0), (0.0, 1e30), (-1e-9, math.inf), "a finite number ≥ 0"),
        (Range(0.0, includes_low=False), (1e-9,), (0.0, 1e-60), "a finite number > 0"),
        (Range(0.0, 1.0), (0.0, 1.0), (-1e-9, 1.1), "a number in [0, 1]"),
        (OPEN, (0.5,), (0.0, 1.0, 1.0 - 1e-12), "a number in (0, 1)"),
        (checks.POSITIVE_FRACTION, (1e-9, 1.0), (0.0, 1.1), "a number in (0, 1]"),
    ]:
        with subtests.test(f"{inside} {outside}"):
            assert [x for x in inside if x not in allowed] == []
            assert [x for x in outside if x in allowed] == []
            assert str(allowed) == text


def test_a_check_names_what_is_wrong(subtests):
    for check, right, wrong, message in [
        (lambda x: checks.check_number("x", x, OPEN), (0.5,), (1.0, 2), "x must be a n"),
        (lambda x: checks.check_number("x", x, OPEN), (0.5,), ("0.5", True, None), "x must be a n"),
        (lambda x: checks.check_number("x", x, OPEN), (), (10**400,), "a number beyond any float"),
        (lambda x: checks.check_count("n", x), (1, 7), (0, -1, 1.5, True, "3"), "n must be a"),
        (lambda x: checks.check_count("n", x, 0), (0,), (-1,), "whole number ≥ 0, got -1"),
        (lambda x: checks.check_flag("f", x), (True, False), (0, 1, None), "True or False"),
        (lambda x: checks.check_choice("c", x, ("clip", "off")), ("off",), ("klip",), "mean clip"),
        (checks.check_networks, (), (None, 3), "policy must be a Policy"),
    ]:
        with subtests.test(message):
            for value in right:
                check(value)
            for value in wrong:
                with pytest.raises(ValueError, match=message) as told:
                    check(value)
                assert "\n" not in str(told.value)


def test_traced_numbers_pass():
    jax.jit(lambda x: checks.check_number("x", x, OPEN))(jnp.float32(7.0))
