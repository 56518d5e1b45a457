"""config.json of an exported model: shapes, units and meanings, for readers without this package."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax import Array, export

from vae_jax.build.model import sees_counts
from vae_jax.likelihoods import Likelihood
from vae_jax.runs.config_file import versions
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.storage.atomic import JsonObject
from vae_jax.storage.exported_model import FORMAT

ExportedFile = tuple[str, str, tuple[jax.ShapeDtypeStruct, ...]]  # (name, SHA-256, arguments)

_RATE = "raw numbers: the rate of x is unit * log(1 + exp(raw))"
_OUTPUTS = {
    "bernoulli": "logits: P(x = 1) = 1 / (1 + exp(-logit))",
    "continuous_bernoulli": "logits of the continuous Bernoulli distribution on [0, 1]; its mean is not 1 / (1 + exp(-logit))",
    "gaussian": "mean of x",
    "laplace": "median of x",
    "student_t": "location of x, its mean for more than one degree of freedom",
    "discretized_logistic": "location of the logistic distribution that is rounded to the levels",
    "logistic_mixture": "[logits | locations | raw log-scales] of the components, a third of the last axis each",
    "logistic_mixture_rgb": "[logits | locations | raw log-scales | raw coefficients] of the components, a quarter of the last "
    "axis each",
    "categorical": "logits of the levels, on the last axis",
    "poisson": _RATE,
    "negative_binomial": _RATE.replace("rate", "mean"),
    "zero_inflated_negative_binomial": f"last axis: {_RATE.replace('rate of x', 'mean without additional zeros')}, and the "
    "log-odds of an additional zero",
    "multinomial": "raw numbers: the proportions of the entries are softmax(log(unit) + raw) over the whole example",
    "columns": "the outputs of each group of columns, one group after the other (see groups)",
}
_SHARE = "raw numbers: the rate of x is its total times softmax(log(unit) + raw) over the whole example"
_PREPROCESSING = {
    "dequantized": "stored levels 0 to {top}; the encoder sees (x + 1/2) / {count}, the mean of the noise in training",
    "threshold": "stored levels 0 to {top}; the encoder sees 1 where x / {top} >= 1/2, and 0 elsewhere",
    "binarized": "stored levels 0 to {top}; the encoder sees x / {top}, the probability of a 1. In training a pixel was 1 with "
    "this probability, else 0: pass {top} and 0 for such a draw",
    "levels": "stored levels 0 to {top}; the encoder sees x / {top}",
    "binary": "zeros and ones, or probabilities of a 1",
    "counts": "counts as they are; the encoder sees log(1 + x), standardized",
    "mixed": "numbers of the table, with category codes from 0 in columns with categories; the encoder sees real columns "
    "standardized, counts as log(1 + x), and categories one-hot",
    "floats": "numbers in the unit of the training data",
}


def takes_mask(model: TrainedModel) -> bool:
    """Returns whether the exported encoder takes the mask of the observed entries."""
    return model.description.has_missing or model.vae.mask_input


def read_format(folder: Path) -> int | None:
    """Returns the format of an exported model; None for any other folder."""
    try:
        content = json.loads((folder / "config.json").read_text())
        return content["format"] if "functions" in content else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def describe_export(
    model: TrainedModel, files: Mapping[str, ExportedFile], params: Mapping[str, np.ndarray], platforms: tuple[str, ...]
) -> JsonObject:
    """Returns the content of config.json.

    Args:
      model: the trained model.
      files: name, SHA-256 and arguments of the program of each function.
      params: the arrays of params.safetensors by name.
      platforms: of the programs.
    """
    description = model.description
    return {
        "format": FORMAT,
        "model": {
            "data": description.facts.name,
            "data_shape": list(model.vae.data_shape),
            "latent_dim": model.vae.latent_dim,
            "codes": _describe_codes(model),
            "epoch": model.epoch,
            "member": model.member,
        },
        "functions": {name: _describe_function(model, name, *entry) for name, entry in files.items()},
        "likelihood": _describe_likelihood(model),
        "preprocessing": {
            "text": _describe_x(model),
            "training": description.description,
            "max_level": description.max_level,
            "binarization": model.config.binarization,
            "dequantize": model.config.dequantize,
            "stored_dtype": description.dtype,
            "moments": _moments(model),
        },
        "condition": None
        if description.condition is None
        else [_plain(one._asdict()) for one in description.condition.columns],
        "columns": description.column_types and [_plain(one._asdict()) for one in description.column_types],
        "column_names": description.column_names,
        "label_names": description.label_names,
        "params": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in params.items()},
        "stablehlo": {
            "platforms": list(platforms),
            "calling_convention": export.maximum_supported_calling_convention_version,
            "compatibility": "JAX reads the programs up to 6 months after the release of the version that wrote them, and "
            "versions up to 3 weeks older read them too (docs.jax.dev, export, compatibility guarantees). params.safetensors "
            "does not expire.",
        },
        "settings": _plain(dataclasses.asdict(model.config)),
        "versions": versions(),
        "usage": "jax.export.deserialize(bytearray(open('encoder.stablehlo', 'rb').read())).call(x), with float32 arrays that "
        "have a leading batch axis; or vae_jax.storage.exported_model.load_exported(folder).encode(x)",
    }


def _describe_function(
    model: TrainedModel, name: str, file: str, sha256: str, arguments: tuple[jax.ShapeDtypeStruct, ...]
) -> JsonObject:
    """Returns the file, the arguments and the results of one function."""
    condition = model.description.condition
    texts = {
        "x": _describe_x(model),
        "z": f"codes. {_describe_codes(model)}",
        "condition": "one number for each column: the position of the category in its list, or the value itself",
        "mask": "True where an entry of x is observed; x may be NaN elsewhere",
    }
    names = ["x" if name == "encode" else "z", *(["condition"] if condition else [])]
    names += ["mask"] * (len(arguments) - len(names))
    described = [
        {"name": one, "shape": ["batch", *shape.shape[1:]], "dtype": str(shape.dtype), "text": texts[one]}
        for one, shape in zip(names, arguments, strict=True)
    ]
    for argument in described:
        if argument["name"] == "condition" and condition is not None:
            argument["columns"] = [column.name for column in condition.columns]
            argument["num_categories"] = [column.categories and len(column.categories) for column in condition.columns]
    results = {
        "encode": "(mean, log_scale) of q(z|x), each (batch, latent_dim); log_scale is the log of the standard deviation"
        + _describe_moments(model),
        "decode": "the decoder's outputs for the likelihood, with a leading batch axis (see likelihood)",
        "mean": f"E[x|z] in the unit of the stored data, (batch, *data_shape){_describe_mean(model)}",
    }
    return {"file": file, "sha256": sha256, "arguments": described, "text": f"Returns {results[name]}."}


def _describe_codes(model: TrainedModel) -> str:
    prior = model.vae.prior
    if model.vae.conditional_prior is not None:
        return "u = (z - m(c)) / s(c), which are N(0, I) under the learned prior p(z|c)."
    return "The prior is N(0, I)." if prior is None else f"The prior is learned ({prior.name}); it is not exported."


def _describe_moments(model: TrainedModel) -> str:
    """Says what of a posterior other than the diagonal Gaussian is not exported; "" for the diagonal one."""
    if (posterior := model.vae.posterior) is None:
        return ""
    estimated = "" if posterior.factor is not None else ", estimated from the same draws each time"
    return (
        f" of each dimension. The posterior {posterior.name!r} is not a diagonal Gaussian: these are its moments{estimated}, "
        "without correlations, and draws from it are not exported"
    )


def _describe_mean(model: TrainedModel) -> str:
    if model.vae.likelihood.groups:
        return "; for categories the code of the most probable one"
    if model.vae.likelihood.mean_given is not None:
        return "; for a row with the mean total of the training data"
    if model.config.binarization != "none":
        return f"; {model.description.max_level or 1} times the probability of a 1"
    return ""


def _describe_x(model: TrainedModel) -> str:
    """Returns what the encoder takes, in words."""
    config, top = model.config, model.description.max_level
    if model.vae.likelihood.groups:
        kind = "mixed"
    elif sees_counts(config, model.vae.likelihood):
        kind = "counts" if model.description.moments is not None and model.description.moments.log1p else "floats"
    elif top == 1 or (top is None and config.binarization in ("dynamic", "fixed")):
        kind = "binary"
    elif config.dequantize:
        kind = "dequantized"
    elif config.binarization == "threshold":
        kind, top = "threshold", top or 1
    elif top is None:
        kind = "floats"
    else:
        kind = "levels" if config.binarization == "none" else "binarized"
    return f"{_PREPROCESSING[kind].format(top=top, count=(top or 0) + 1)}."


def _describe_likelihood(model: TrainedModel) -> JsonObject:
    """Returns the meaning and the unit of the decoder's outputs."""
    likelihood, facts = model.vae.likelihood, model.description.facts
    is_scaled = model.description.max_level is not None and not sees_counts(model.config, likelihood)
    content: JsonObject = {
        "name": likelihood.name,
        "support": likelihood.support,
        "outputs": _describe_outputs(model, likelihood),
        "outputs_per_dim": likelihood.outputs_per_dim,
        "scale_of_x": f"x in these formulas is on [0, 1], where 1 is the level {model.description.max_level} of the stored data"
        if is_scaled
        else "x in these formulas is in the unit of the stored data",
        "num_levels": likelihood.num_levels,
    }
    if likelihood.support == "counts":
        content["unit"] = np.asarray(facts.mean_count).tolist()
    if likelihood.shared_start:
        learned = model.params["likelihood"]
        content["learned"] = {
            "text": "The second output of decode is the same learned array for every example. values are what it stands for: "
            "natural logs of the scales, or of the dispersions of counts",
            "values": np.asarray(likelihood.shared_values(learned)).tolist(),
        }
    if likelihood.groups:
        content["groups"] = _describe_groups(model)
    return content


def _describe_outputs(model: TrainedModel, likelihood: Likelihood) -> str:
    name = likelihood.name
    text = _OUTPUTS.get(name, "what the likelihood of the user takes as its first argument")
    if likelihood.mean_given is not None and name != "multinomial":
        text = text.replace(_RATE, _SHARE).replace(_RATE.replace("rate", "mean"), _SHARE)
    if name in ("gaussian", "laplace", "student_t", "discretized_logistic") and likelihood.outputs_per_dim == 2:
        text += ", and a raw log-scale, on the last axis; log-scale = floor(log(initial scale) + raw)"
    elif name == "negative_binomial" and likelihood.outputs_per_dim == 2:
        text += ", and the log of the dispersion (inverse overdispersion), on the last axis"
    elif not likelihood.shared_start and name in ("gaussian", "laplace", "student_t"):
        text += f"; the scale is {model.config.scale if model.config.scale != 'auto' else 1}"
    return text


def _describe_groups(model: TrainedModel) -> list[JsonObject]:
    """Returns the columns, and the places in the flat decoder output, of each group of a mixed table."""
    groups, start = [], 0
    names = model.description.column_names
    for group in model.vae.likelihood.groups:
        stop = start + len(group.columns) * group.likelihood.outputs_per_dim
        groups.append(
            {
                "likelihood": group.likelihood.name,
                "columns": list(group.columns) if names is None else [names[i] for i in group.columns],
                "outputs": [start, stop],
                "outputs_per_dim": group.likelihood.outputs_per_dim,
                "text": _describe_outputs(model, group.likelihood),
                "values_of_levels": [list(values) for values in group.values],
            }
        )
        start = stop
    return groups


def _moments(model: TrainedModel) -> JsonObject | None:
    """Returns mean and standard deviation by which the encoder standardizes x, on its own scale."""
    moments = model.description.moments
    return None if moments is None else _plain({**moments._asdict(), "log1p": moments.log1p and moments.log1p._asdict()})


def _plain(value: JsonObject) -> JsonObject:
    """Returns a copy with lists for arrays and tuples."""

    def convert(one: object) -> object:
        if isinstance(one, dict):
            return {name: convert(item) for name, item in one.items()}
        if isinstance(one, list | tuple):
            return [convert(item) for item in one]
        return np.asarray(one).tolist() if isinstance(one, np.ndarray | np.generic | Array) else one

    return {name: convert(one) for name, one in value.items()}
