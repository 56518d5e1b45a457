"""Errors for arguments that skip a step of `data.load`, `data.prepare` and `training.fit`."""

from vae_jax.errors import UserError

_CALLS = {
    "data.load": "data.{}({})",
    "build": "data.{}({})",
    "data.prepare": "data.prepare(data.{}({}))",
    "data.with_condition": "data.prepare(data.{}({}))",
    "fit": "data.prepare(data.{}({}))",
}
_EXPECTED = {
    "data.load": "the name or path of a data set",
    "build": "the Dataset that data.load or data.from_arrays returns",
    "data.prepare": "the Dataset that data.load or data.from_arrays returns",
    "data.with_condition": "the Prepared that data.prepare returns",
    "fit": "the Prepared that data.prepare returns",
}


def check_pipeline_argument(function: str, value: object, expected: type | tuple[type, ...]) -> None:
    """Raises `UserError` unless a function got the result of the step before it.

    The message has the calls that turn the argument into the expected one.

    Args:
      function: "data.load", "build", "data.prepare", "data.with_condition" or "fit".
      value: the argument that was passed.
      expected: the type or types that the function takes.
    """
    if isinstance(value, expected):
        return
    name, call = type(value).__name__, _CALLS[function]
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(value, str):
        got, fix = repr(value), f"Use {call.format('load', repr(value))}."
    elif name == "Dataset":
        is_late = function in ("data.with_condition", "fit")
        got, fix = "a Dataset", "Use data.prepare(dataset)." if is_late else "It is loaded already: leave load out."
    elif name == "Prepared":
        got, fix = "a Prepared", "It is prepared already: pass it to training.fit."
    elif name == "VAE":
        got, fix = "a VAE", "The model comes first: fit(vae, prepared)."
    elif shape is not None and dtype is not None:
        got, fix = f"an array of shape {tuple(shape)} and dtype {dtype}", f"Use {call.format('from_arrays', 'array')}."
    else:
        got, fix = f"a {name}", f"For data in memory use {call.format('from_arrays', 'examples')}."
    raise UserError(f"{function}: expected {_EXPECTED[function]}, got {got}. {fix}")
