"""Says what to pass where a function of the data's path (load, prepare, fit) gets something else."""

from typing import Any

from vae_jax.errors import UserError

_STEPS = {
    "data.load": "data.load({})",
    "data.prepare": "data.prepare(data.load({}))",
    "fit": "data.prepare(data.load({}))",
}
_EXPECTED = {
    "data.load": "the name or path of a data set",
    "data.prepare": "the Dataset that data.load returns",
    "fit": "the Prepared that data.prepare returns",
}


def check_given(function: str, value: Any, kind: type | tuple[type, ...]) -> None:
    """Raises `UserError` unless the value is of this kind; the message has the calls that lead from it to what is expected.

    Args:
      function: "data.load", "data.prepare" or "fit".
      value: what came.
      kind: what is expected.
    """
    if isinstance(value, kind):
        return
    name, step = type(value).__name__, _STEPS[function]
    if isinstance(value, str):
        got, advice = repr(value), f"Use {step.format(repr(value))}."
    elif name == "Dataset":
        got, advice = (
            "a Dataset",
            "Use data.prepare(dataset)." if function == "fit" else "It is loaded already: leave load out.",
        )
    elif name == "Prepared":
        got, advice = "a Prepared", "It is prepared already: pass it to training.fit."
    elif name == "VAE":
        got, advice = "a VAE", "The model comes first: fit(vae, prepared)."
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        got = f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
        path = repr("images.npy")
        advice = f"Save it by numpy.save({path}, array), then use {step.format(path)}."
    else:
        got = f"a {name}"
        path = repr("images.npy")
        advice = f"Save the images as one array by numpy.save({path}, images), then use {step.format(path)}."
    raise UserError(f"{function}: expected {_EXPECTED[function]}, got {got}. {advice}")
