"""The exception for bad input, the warnings, and the texts that several modules share.

The command line turns a `UserError` into a single line and exit status 2.
"""

import difflib
import inspect
import numbers
import typing
from collections.abc import Callable, Iterable
from typing import Any

_NOT_GIVEN = object()


class UserError(ValueError):
    """Bad input: says what was expected, what came, and the likely fix.

    Parameters are named as in Python. In the texts a parameter stands in backquotes, alone or with a value: `batch_size`,
    `binarize="dynamic"`, `stream=True`. The command line shows them as its options.

    Args:
      message: a sentence, for errors that do not compare a value with what was expected.
      field: name of the parameter at fault; it comes first.
      expected: the values that are allowed, as a noun phrase. Needs `got`.
      got: the value that came. A string is shown as it stands, so pass `repr(value)` where quotes help.
      fix: one or two sentences that say what to do.
    """

    def __init__(
        self, message: str = "", *, field: str | None = None, expected: str = "", got: object = _NOT_GIVEN, fix: str = ""
    ) -> None:
        if expected:
            message = f"expected {expected}." if got is _NOT_GIVEN else f"expected {expected}, got {got}."
        self.field = field
        self.text = " ".join(part for part in (message, fix) if part)
        super().__init__(f"{field}: {self.text}" if field else self.text)


class DataWarning(UserWarning):
    """Data were read in a way that the user may not expect. Scripts print the warning as a line."""


class DivergenceWarning(UserWarning):
    """Training ended because a loss or a parameter was not finite."""


def diverged(step: int, epochs: int, learning_rate: float) -> DivergenceWarning:
    """Returns the warning about a run that diverged.

    Args:
      step: number of the first step after which the loss or a parameter was not finite, counted from 0.
      epochs: number of epochs that were completed before it.
      learning_rate: peak value.
    """
    test = f"its test result is that of epoch {epochs}" if epochs else "its test result is NaN because no epoch was completed"
    advice = (
        f"Try a learning rate below {learning_rate:g}, a warm-up of the learning rate (training.schedules.warm_up), or "
        "gradient clipping (`clip_norm=1`; in an optimizer of your own optax.clip_by_global_norm)."
    )
    return DivergenceWarning(
        f"training diverged: the loss or a parameter was not finite at step {step} (epoch {epochs + 1}). The result holds the "
        f"last good state, and {test}. {advice if step else 'Check the range of the data and the initial parameters.'}"
    )


def unknown(kind: str, name: str, options: Iterable[str], hint: str = "", list_all: bool = True) -> UserError:
    """Returns the error for a name that is not among `options`.

    Args:
      kind: what the name stands for, such as "data set".
      name: the name that came.
      options: the names that exist. The error suggests similar ones.
      hint: a further sentence, with a leading space.
      list_all: whether the error lists all options; more than 20 are never listed.
    """
    options = list(options)
    lower = {option.lower(): option for option in options}
    similar = [lower[match] for match in difflib.get_close_matches(str(name).lower(), list(lower), n=3, cutoff=0.5)]
    guess = f" Did you mean {' or '.join(repr(option) for option in similar)}?" if similar else ""
    listed = f" Known: {', '.join(options)}." if list_all and len(options) <= 20 else ""
    return UserError(f"unknown {kind} {name!r}.{guess}{listed}{hint}")


def accepts(signature: inspect.Signature, count: int) -> bool:
    """Returns true if a function with this signature can be called with `count` positional arguments."""
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def check_signature(function: Callable[..., object], num_arguments: int, expected: str, keywords: Iterable[str] = ()) -> None:
    """Raises `UserError` unless a user's function can be called with these arguments.

    Args:
      function: the object that the user passed.
      num_arguments: number of positional arguments.
      expected: description of the function that is expected, for the error.
      keywords: names of the keyword arguments.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not a function, or one without a signature, whose call will show it
        if callable(function):
            return
        raise UserError(f"expected {expected}, got {function!r}.") from None
    try:
        signature.bind(*range(num_arguments), **dict.fromkeys(keywords))
    except TypeError:
        raise UserError(f"expected {expected}, got {getattr(function, '__name__', 'a function')}{signature}.") from None


def fits(value: object, hint: Any) -> bool:
    """Returns True if a setting has the type that its field is annotated with."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in options if isinstance(value, str) else False
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, options[0]) for item in value)
    if options:
        return any(fits(value, option) for option in options)
    if isinstance(value, bool):
        return hint is bool
    kinds = {int: numbers.Integral, float: numbers.Real}  # including the scalars of NumPy
    return isinstance(value, kinds.get(hint, hint))
