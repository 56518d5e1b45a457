"""Runs the check of the Python environment in the folder above, so that the scripts of this folder can import it."""

import os


def expect_packages():
    """Ends the script if a package is missing. The check below replaces this function."""


__file__ = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "environment.py")
with open(__file__) as source:
    exec(compile(source.read(), __file__, "exec"))
