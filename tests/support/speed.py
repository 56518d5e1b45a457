"""Most of the tests' time is compilation: where a few cases of a test say most of it, the others are left to the slow ones."""

import pytest


def slow_but(quick, cases):
    """The cases for `parametrize`, slow unless they are among `quick`."""
    return [
        pytest.param(*case if type(case) is tuple else (case,), marks=() if case in quick else pytest.mark.slow)
        for case in cases
    ]
