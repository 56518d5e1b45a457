"""Parameters in messages of the library become options of the command that runs."""

import pytest

from vae_jax.cli.messages import render, use_options, with_options
from vae_jax.errors import UserError

OPTIONS = {"batch_size", "binarize", "stream", "report", "hidden", "out", "scale"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at most `batch_size` examples", "at most --batch-size examples"),
        ('use `binarize="dynamic"` or `stream=True`', "use --binarize dynamic or --stream"),
        ("leave out `report=False`", "leave out --no-report"),
        ("`hidden=(256, 256)`, `scale=0.1`", "--hidden 256 256, --scale 0.1"),
        ("`out=runs/my run`: exists", "--out runs/my run: exists"),
        ("`rngs -> module`, `norm(x[None])[0]`, `members`, `fit`", "`rngs -> module`, `norm(x[None])[0]`, `members`, `fit`"),
    ],
)
def test_names_in_backquotes_become_options(text, shown):
    assert with_options(text, OPTIONS) == shown


def test_an_error_names_the_parameter_in_python_and_the_option_on_the_command_line():
    error = UserError(field="batch_size", expected="at most the 10 examples", got=20, fix="Add `stream=True`.")
    assert str(error) == "batch_size: expected at most the 10 examples, got 20. Add `stream=True`."
    assert render(error, OPTIONS) == "--batch-size: expected at most the 10 examples, got 20. Add --stream."
    assert render(error, ()) == str(error)
    assert render(UserError("a message\nof two lines"), OPTIONS) == "a message of two lines"


def test_the_options_are_those_of_the_command_that_runs():
    use_options(OPTIONS)
    assert with_options("`stream=True`") == "--stream"
    use_options(())
    assert with_options("`stream=True`") == "`stream=True`"
