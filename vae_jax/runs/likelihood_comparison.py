"""Plans a comparison of likelihoods: those that are comparable on a data set, in which unit, and with which settings."""

import dataclasses
from typing import NamedTuple

from vae_jax.build import make_likelihood
from vae_jax.config import CUSTOM, Config, entries, settings_of
from vae_jax.data import Dataset, values
from vae_jax.errors import UserError, unknown
from vae_jax.likelihoods import DISCRETE, Likelihood, outside_support


class Entry(NamedTuple):
    """One likelihood of a comparison."""

    label: str  # as the user wrote it
    config: Config
    unit: str  # rows with the same unit can be compared
    why: str  # meaning of the number, or the reason why it cannot be compared


DISCRETE_UNIT = "nats of the discrete data"
GIVEN_TOTAL_UNIT = f"{DISCRETE_UNIT} given the total of each example"
DENSITY_UNIT = "nats of a density on the data's own scale"


def plan(base: Config, name: str, dataset: Dataset) -> Entry:
    """Returns the settings with which a likelihood is compared on this data set, and the unit of its numbers.

    Integer levels are discrete data. Likelihoods of levels and of counts give their probability itself. Densities give a bound
    on it: they are trained and tested on dequantized data (uniform noise of one level, log-Jacobian included; Theis et al.
    2016). Likelihoods that are given the total of each example (`multinomial`, and counts with `exposure="observed"`) predict
    less than the others and have a unit of their own. Floats have densities only. A Bernoulli likelihood of binarized gray
    pixels describes a different data set.

    Args:
      base: the settings that all likelihoods share. Its likelihood, scale, binarize and dequantize are ignored.
      name: a likelihood, followed by a colon and its scale or dispersion if it has one: "gaussian:shared", "laplace:0.1".
        "gaussian:optimal" is the objective optimal_sigma.
      dataset: the data, loaded.

    Raises:
      UserError: the name is unknown, or the likelihood does not fit the data.
    """
    likelihood, _, option = name.partition(":")
    if likelihood not in entries("likelihood"):
        raise unknown("likelihood", likelihood, entries("likelihood"))
    config = dataclasses.replace(base, **_settings(base, name, likelihood, option))
    config.validate()
    bundle = make_likelihood(config, dataset)
    return _comparable_entry(name, config, dataset, bundle)


def _settings(base: Config, name: str, likelihood: str, option: str) -> dict[str, object]:
    """Returns the settings in which the likelihood differs from `base`."""
    default, settings = Config(), settings_of("likelihood", likelihood)
    others = {setting for other in entries("likelihood") for setting in settings_of("likelihood", other)} - set(settings)
    changes: dict[str, object] = {"likelihood": likelihood, "binarize": "auto", "dequantize": False}
    changes |= {setting: getattr(default, setting) for setting in others}  # `base` may have them for other likelihoods
    if option == "optimal" and likelihood == "gaussian":
        if base.objective != default.objective:
            fix = f"Leave it out with `objective={base.objective}`."
            raise UserError(f"{name} is an objective itself.", field="likelihoods", fix=fix)
        changes["objective"] = "optimal_sigma"
    elif option:
        known = [setting for setting in ("scale", "dispersion") if setting in settings]
        if not known:
            raise UserError(f"{likelihood} has no scale.", field="likelihoods", fix=f"Write {likelihood}.")
        changes[known[0]] = option
    return changes


def _comparable_entry(name: str, config: Config, dataset: Dataset, bundle: Likelihood) -> Entry:
    """Returns the entry with its unit, dequantized if the data are levels and the likelihood is a density."""
    levels, support = dataset.max_level, bundle.support
    if support == "binary" and levels != 1:
        why = "not comparable: it is the likelihood of binarized pixels, a different data set from the gray ones"
        return Entry(name, config, f"nats of the binarized data ({config.binarization})", why)
    is_given_total = config.likelihood == "multinomial" or config.exposure == "observed"
    if support == "counts" and is_given_total and (levels or outside_support(bundle, values(dataset.train)) is None):
        return Entry(name, config, GIVEN_TOTAL_UNIT, "probability of the counts given their total")
    if levels is None and support == "counts" and outside_support(bundle, values(dataset.train)) is None:
        return Entry(name, config, DISCRETE_UNIT, "probability of the counts")
    if levels is None:
        if support in DISCRETE and support != "binary":
            raise UserError(f"{name} is for integer data, and {dataset.name} has floats.", field="likelihoods")
        return Entry(name, config, DENSITY_UNIT, "density; no bits per dimension, because the data are not discrete")
    if support in DISCRETE:
        return Entry(name, config, DISCRETE_UNIT, "probability of the levels")
    config = dataclasses.replace(config, dequantize=True)
    return Entry(name, config, DISCRETE_UNIT, "bound from the density of dequantized data")


def check_base(base: Config) -> None:
    """Raises `UserError` for shared settings that are invalid for every likelihood, or that the comparison chooses itself."""
    default = Config()
    for setting in ("likelihood", "scale", "binarize"):
        if getattr(base, setting) != getattr(default, setting):
            message = "name the likelihoods and their scales by `likelihoods`, such as gaussian:shared."
            raise UserError(message, field=setting)
    if base.dequantize:
        raise UserError("leave it out; a comparison dequantizes integer data for densities itself.", field="dequantize")
    if base.objective == CUSTOM:
        raise UserError("the likelihoods choose the objective.", field="objective", fix="Leave it out.")
    if base.objective == "optimal_sigma":
        raise UserError("compare it as `likelihoods=gaussian:optimal`.", field="objective")
    dataclasses.replace(base, likelihood=CUSTOM).validate()  # `plan` validates the settings of each likelihood
