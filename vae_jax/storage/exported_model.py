"""`load_exported`: reads the encoder and the decoder that `vae-jax export` wrote, without the libraries of training."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax.errors import UserError

FORMAT = 1
_AGAIN = "Export the model again."
_FUNCTIONS = ("encode", "decode", "mean")
Output = Array | tuple[Array, Array]
JsonObject = dict[str, object]


class ExportedModel(NamedTuple):
    """Functions of a trained model on batches of any size, compiled once for each size.

    Arrays have a leading axis of examples, x is in the unit of the stored data, and a condition is a category number or a value
    for each column. `config["functions"]` describes every argument.

    Attributes:
      encode: (x, condition=None, mask=None) -> (mean, log_scale) of q(z|x), each (batch, latent). log_scale is the log of the
        standard deviation.
      decode: (z, condition=None) -> the outputs of the decoder, which `config["likelihood"]` explains.
      mean: (z, condition=None) -> E[x|z] in the unit of the data, (batch, *data_shape).
      config: the content of config.json.
    """

    encode: Callable[..., tuple[Array, Array]]
    decode: Callable[..., Output]
    mean: Callable[..., Array]
    config: JsonObject


def load_exported(path: str | Path) -> ExportedModel:
    """Reads the folder that `vae-jax export` or `runs.export_model` wrote.

    Only jax is needed, with flatbuffers, the package by which `jax.export` reads its files. Import this function from
    `vae_jax.storage.exported_model` where flax, optax and orbax are not installed.

    Args:
      path: the folder.

    Raises:
      UserError: the folder is not an exported model, a file is damaged, or this version of JAX does not read it. The functions
        raise it for arguments of a wrong shape, and for a condition or a mask that is missing or that the model does not take.
    """
    path = Path(path)
    config = _read_config(path)
    functions = {name: _load(path, name, config["functions"][name]) for name in _FUNCTIONS}
    encode = cast("Callable[..., tuple[Array, Array]]", functions["encode"])
    return ExportedModel(encode, functions["decode"], cast("Callable[..., Array]", functions["mean"]), config)


def _read_config(path: Path) -> dict:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
        if config["format"] != FORMAT:
            raise ValueError(f"it has the format {config['format']}, and this version reads {FORMAT}")
        for name in _FUNCTIONS:
            entry = config["functions"][name]
            if not all(map(_is_argument, entry["arguments"])):
                raise ValueError(f"an argument of {name} lacks its name, dtype or shape")
            if Path(entry["file"]).name != entry["file"] or not isinstance(entry["sha256"], str):
                raise ValueError(f"the entry of {name} is wrong")
        return config
    except FileNotFoundError:
        fix = "Write one by runs.export_model(load_model(run), path)."
        raise UserError(f"{path}: not an exported model (it has no config.json).", fix=fix) from None
    except KeyError as error:
        raise UserError(f"{file}: not the config.json of an exported model: it has no {error}.", fix=_AGAIN) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read: {error}.", fix=_AGAIN) from None


def _is_argument(entry: object) -> bool:
    """Returns whether this describes an argument with a leading axis of examples, ("batch", ...)."""
    if not isinstance(entry, dict) or not {"name", "dtype", "shape"} <= entry.keys():
        return False
    shape = entry["shape"]
    is_shape = isinstance(shape, list) and len(shape) > 0 and all(isinstance(length, int) for length in shape[1:])
    return is_shape and entry["dtype"] in ("float32", "bool")


def _load(path: Path, name: str, entry: dict) -> Callable[..., Output]:
    """Returns one of the functions, which checks its arguments."""
    from jax import export

    file = path / entry["file"]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.", fix=_AGAIN) from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:  # a damaged file could crash the parser of JAX
        raise UserError(f"{file}: is damaged: its SHA-256 is not the one in config.json.", fix=_AGAIN)
    try:
        call = jax.jit(export.deserialize(bytearray(content)).call)
    except ImportError:
        raise UserError("jax.export reads its files by flatbuffers.", fix="Install it: pip install flatbuffers.") from None
    except Exception as error:  # an expired or a newer format; jax.export raises errors of several types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{file}: JAX {jax.__version__} cannot read it: {reason}.", fix=f"{_AGAIN} params.safetensors does not expire."
        ) from None

    def function(*given: ArrayLike | None, **named: ArrayLike | None) -> Output:
        return call(*_checked(name, entry["arguments"], given, named))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = entry.get("text")
    return function


def _checked(
    name: str, arguments: list[dict], given: tuple[ArrayLike | None, ...], named: dict[str, ArrayLike | None]
) -> list[np.ndarray | Array]:
    """Returns the arguments in their order and type; raises `UserError` unless they are those of the function."""
    known = ("x", "condition", "mask") if name == "encode" else ("z", "condition")
    values = dict(zip(known, given, strict=False)) | named
    if len(given) > len(known) or set(named) & set(known[: len(given)]) or not set(named) <= set(known):
        raise UserError(f"{name}: expected the arguments {', '.join(known)}, got {len(given)} and {sorted(named)}.")
    expected = [argument["name"] for argument in arguments]
    for one in known:
        if (values.get(one) is not None) != (one in expected):
            problem = "is missing" if one in expected else "is not taken by this model"
            raise UserError(f"{name}: the argument {one} {problem}. It takes {', '.join(expected)}.")
    checked, size = [], None
    for argument in arguments:
        value, shape = values[argument["name"]], tuple(argument["shape"][1:])
        value = value if isinstance(value, jax.Array) else np.asarray(value)
        if value.shape[1:] != shape or value.ndim != len(shape) + 1 or size not in (None, len(value)) or not len(value):
            batch = "batch" if size is None else size
            raise UserError(
                f"{name}: expected {argument['name']} of shape ({', '.join(map(str, (batch, *shape)))}), got {value.shape}."
            )
        size = len(value)
        if categories := argument.get("num_categories"):
            _check_categories(name, np.asarray(value), categories)
        checked.append(value.astype(argument["dtype"]))
    return checked


def _check_categories(name: str, condition: np.ndarray, counts: list[int | None]) -> None:
    """Raises `UserError` for a number that is not that of a category, whose one-hot vector would be zero."""
    for column, count in enumerate(counts):
        values = condition[:, column]
        if count is not None and not (np.isin(values, np.arange(count))).all():
            expected = f"a category from 0 to {count - 1} in column {column} of the condition"
            raise UserError(f"{name}: expected {expected}, got {values[~np.isin(values, np.arange(count))][0]:g}.")
