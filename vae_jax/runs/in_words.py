"""Descriptions of runs in words: network, objective, the command that repeats a run, and remarks on an evaluation."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np

from vae_jax.build import PART_NAMES, Built, Initial
from vae_jax.build.parts import recorded_source
from vae_jax.config import CUSTOM, Config, settings_of
from vae_jax.config.registry import settings as registered_settings
from vae_jax.evaluation import name_examples, pareto_k_limit
from vae_jax.evaluation.posterior_collapse import describe_collapse
from vae_jax.runs.notation import Notation
from vae_jax.storage.atomic import JsonObject

_OPTION = "--"  # prefix of an option of the command line


def describe_part(config: Config, kind: str, records: JsonObject) -> str:
    """Returns the name of a part, or that of a user's part with its file, such as "make_network of parts.py".

    Args:
      config: the settings.
      kind: "network", "likelihood", "prior", "posterior", "objective" or "optimizer".
      records: the entry "parts" of config.json or sweep.json.
    """
    if (name := getattr(config, kind)) != CUSTOM:
        return name
    return recorded_source(records, kind).describe()


def describe_network(config: Config, records: JsonObject | None = None) -> str:
    """Returns the network with its widths, such as "mlp 256-256-10" or "conv 32-64, dense 256-10"; see `describe_part`."""
    if config.network == CUSTOM:
        return f"{describe_part(config, 'network', records or {})}, {config.latent_dim} latent dimensions"
    joined = lambda *widths: "-".join(map(str, widths))  # noqa: E731
    if config.network == "mlp":
        return f"mlp {joined(*config.hidden, config.latent_dim)}"
    if config.network == "ladder":
        layers = joined(*config.latent_channels)
        if config.layer_halvings:
            places = zip(config.latent_channels, config.layer_halvings, strict=True)
            layers = ", ".join(f"{width} at 1/{2**times}" for width, times in places)
        return f"ladder {joined(*config.channels) or 'by size'}, latent channels from the top: {layers}"
    blocks = "" if config.network == "conv" else f" ({config.num_blocks} residual at each size, norm {config.norm})"
    return f"{config.network} {joined(*config.channels) or 'by size'}{blocks}, dense {joined(*config.dense, config.latent_dim)}"


def describe_shape(data_shape: tuple[int, ...], is_array: bool = False) -> str:
    """Returns the shape of one example, such as "28 x 28 x 1", "30 columns" or "100 time steps x 3 channels".

    Args:
      data_shape: of one example.
      is_array: whether the examples come from an array, so that gray images may have been meant as series.

    Example:
      >>> describe_shape((60, 3, 1), is_array=True)
      '60 x 3 x 1 (height, width, channels; for series (examples, time, channels) use `event="series"`)'
    """
    if len(data_shape) == 1:
        return f"{data_shape[0]} column{'s' * (data_shape[0] > 1)}"
    if len(data_shape) == 2:
        steps, channels = data_shape
        return f"{steps} time step{'s' * (steps > 1)} x {channels} channel{'s' * (channels > 1)}"
    shape = " x ".join(map(str, data_shape))
    if is_array and data_shape[-1] == 1:
        return f'{shape} (height, width, channels; for series (examples, time, channels) use `event="series"`)'
    return shape


def describe_objective(config: Config, records: JsonObject | None = None) -> str:
    """Returns the objective with beta and those settings that are not the defaults, such as "elbo, β = 1.0".

    For an objective of the user, it is its name with all such settings of any objective (see `describe_part`).
    """
    default, settings = Config(), settings_of("objective", config.objective)
    if config.objective == CUSTOM:
        settings = tuple(registered_settings("objective"))
    shown = [name for name in settings if getattr(config, name) != getattr(default, name) or name == "beta"]
    texts = [f"{'β' if name == 'beta' else name.replace('_', ' ')} = {getattr(config, name)}" for name in shown]
    return ", ".join([describe_part(config, "objective", records or {}), *texts])


def describe_prior(config: Config, records: JsonObject | None = None) -> str:
    """Returns the name of the prior (see `describe_part`), with a remark where a model is conditional and its prior is not.

    Example:
      >>> describe_prior(Config(prior="mixture", condition="labels"))
      'mixture (does not depend on the condition)'
    """
    if config.prior == CUSTOM:
        return describe_part(config, "prior", records or {})
    entry = config.entry("prior")
    if not config.condition or (entry is not None and entry.any_objective):
        return config.prior
    return f"{config.prior} (does not depend on the condition)"


def describe_posterior_part(config: Config, built: Built, records: JsonObject | None = None) -> str:
    """Returns the name of a posterior (see `describe_part`), such as that of a network with several layers.

    Args:
      config: the settings.
      built: the model, with a posterior other than the diagonal one.
      records: the entry "parts" of config.json or sweep.json.
    """
    if config.posterior == CUSTOM:
        return describe_part(config, "posterior", records or {})
    return config.posterior if built.vae.posterior is None else built.vae.posterior.name


def has_learned_prior(config: Config) -> bool:
    """Returns whether codes have a prior other than N(0, I). Those of a model with p(z|c) are N(0, I) by their definition."""
    entry = config.entry("prior")
    return config.prior != "normal" and not (entry is not None and entry.any_objective)


def repeat_command(
    config: Config,
    out: Path,
    data_dir: str | None = None,
    program: tuple[str, ...] = ("vae-jax", "train"),
    records: JsonObject | None = None,
    init: Initial | None = None,
    devices: int = 1,
) -> str:
    """Returns the command line that repeats a run, with the settings that differ from the defaults.

    For a run with data from memory, or with parts of the user that the command line did not import, it returns the lines of
    Python that do so.

    Args:
      config: the settings.
      out: the run directory to write.
      data_dir: where TFDS finds prepared data.
      program: the command without options.
      records: the entry "parts" of config.json or sweep.json.
      init: parameters of a trained model that the run started from, whose settings are then the defaults.
      devices: that the run was trained on.
    """
    sources = {name: recorded_source(records or {}, name) for name in PART_NAMES if getattr(config, name) == CUSTOM}
    custom = [*(["dataset"] if config.dataset == CUSTOM else []), *sources]
    if config.dataset == CUSTOM or not all(source.imported for source in sources.values()):
        changed = [field.name for field in dataclasses.fields(Config) if getattr(config, field.name) != field.default]
        settings = ", ".join(f"{name}={getattr(config, name)!r}" for name in changed if name not in custom)
        parts = ", ".join(f"{name}={name}" for name in custom)
        if init is not None:
            record = init.record
            parts += f", init=runs.init_from({record['path']!r}, member={record['member']}, init_parts={record['parts']})"
        return f"built = build(Config({settings}), {parts})\nruns.train(built, {str(out)!r})"
    parts = [*program, *([] if init is None else _options_of(init.record))]
    for field in dataclasses.fields(Config):
        value, inherited = getattr(config, field.name), field.default if init is None else getattr(init.config, field.name)
        if value == field.default == inherited and field.name != "dataset":
            continue
        parts.append(_option(field.name))
        if field.name in sources:
            parts.append(f"{sources[field.name].file}:{sources[field.name].name}")
        elif isinstance(value, bool):
            parts[-1] = _option(field.name if value else f"no_{field.name}")
        else:
            parts += [str(v) for v in (value if isinstance(value, tuple) else (value,))]
    more = [
        *([_option("data_dir"), data_dir] if data_dir else []),
        *([_option("devices"), str(devices)] if devices > 1 else []),
    ]
    return shlex.join([*parts, *more, _option("out"), str(out)])


def _options_of(lineage: JsonObject) -> list[str]:
    """Returns the options that start a run from the same trained model."""
    member = [] if lineage["member"] is None else [_option("init_member"), str(lineage["member"])]
    parts = [_option("init_parts"), *lineage["parts"]] if lineage["parts"] else []
    return [_option("init_from"), lineage["path"], *member, *parts]


def _option(name: str) -> str:
    """Returns the option of the command line that sets a parameter, with hyphens for underscores."""
    return _OPTION + name.replace("_", "-")


def interval_of(numbers: JsonObject) -> tuple[float | None, float | None]:
    """Returns the two ends of the interval of the mean log p(x), with None for an end that is not known.

    An earlier version wrote an upper end for any importance weights. It did not write the share of examples above the limit
    that decides whether that end holds.

    Args:
      numbers: content of evaluation.json.
    """
    low, high = numbers["log_px_interval"]
    return low, high if "pareto_k_above_limit" in numbers else None


def _explain_open_interval(numbers: JsonObject) -> str | None:
    """Explains why the interval of log p(x) has no upper end, and what helps; None if it has one."""
    (low, high), share, num_samples = interval_of(numbers), numbers.get("pareto_k_above_limit"), numbers["num_samples"]
    if high is not None or "not_finite_examples" in numbers:
        return None
    if "pareto_k_above_limit" not in numbers:
        return "log p(x): an earlier version evaluated this run, and its upper ends do not always hold. Evaluate it again."
    bound = "the estimate is a lower bound in expectation" if low is None else f"only a lower end is known, {low:.3f}"
    if share is None:
        reason = f"{num_samples} samples say nothing of the tails of the importance weights. Use at least 1000 samples"
    else:
        reason = (
            f"the importance weights of {share:.1%} of the examples have a Pareto shape k above "
            f"{pareto_k_limit(num_samples):.2g}, so the estimate may be too low by more than its errors say. Use more samples"
        )
    alternative = "compare the annealed estimate" if "ais" in numbers else "annealed importance sampling with 1000 temperatures"
    return f"log p(x): {bound}, because {reason}, or {alternative}."


def remarks(numbers: JsonObject) -> list[str]:
    """Returns remarks for the reader of an evaluation: posterior collapse, and estimates that are bounds or undefined.

    Args:
      numbers: content of evaluation.json.
    """
    texts = []
    if rows := numbers.get("not_finite_examples"):
        examples = name_examples("test", np.asarray(rows), numbers["num_test_examples"])
        texts.append(
            f"the ELBO or log p(x) of {examples}, counted from 0, is not finite, so means over the test set are not defined. "
            "evaluation.npz has the values of every example. Look at the range of these rows of the test set."
        )
    if numbers["test_kl"] is not None:
        collapsed = len(numbers["collapsed_units"] or ())
        texts.append(describe_collapse(collapsed, numbers["latent_dim"], numbers["test_kl"]))
    texts.append(_explain_open_interval(numbers))
    if missing := numbers.get("posterior", {}).get("missing"):
        texts.append(f"posterior {numbers['posterior']['name']}: {missing}.")
    if numbers.get("labels_in_condition"):
        texts.append(
            "the labels follow from the condition, so kNN and the linear probe measure what z still has of the labels beside "
            f"c. A code without any is as accurate as the most frequent label, {numbers['majority_accuracy']:.4f}."
        )
    if (information := numbers["mutual_information"]) is not None and information > numbers["mutual_information_cap"] - 1:
        texts.append(
            f"mutual information: within 1 nat of its cap, log {numbers['num_test_examples']}. "
            "The test set is too small for a larger estimate."
        )
    return [Notation.read(numbers).translate(text) for text in texts if text]
