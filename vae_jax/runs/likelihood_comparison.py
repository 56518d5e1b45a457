"""Which likelihoods can be compared on which data, in what unit; and the settings that make them comparable."""

import dataclasses
from typing import Any, NamedTuple

from vae_jax.build import make_likelihood
from vae_jax.config import CUSTOM, Config, entries, settings_of
from vae_jax.data import Dataset, values
from vae_jax.errors import UserError, unknown
from vae_jax.likelihoods import DISCRETE, outside_support


class Entry(NamedTuple):
    """One likelihood of a comparison."""

    label: str  # as the user wrote it
    config: Config
    unit: str  # rows with the same unit can be compared
    why: str  # what the number is; or, where it stands alone, why it cannot be compared


DISCRETE_UNIT = "nats of the discrete data"
DENSITY_UNIT = "nats of a density on the data's own scale"


def plan(base: Config, name: str, dataset: Dataset) -> Entry:
    """The settings with which `name` is compared on this data set, and the unit of its numbers.

    Integer levels are discrete data: likelihoods of levels and of counts give their probability itself, densities a bound on
    it, trained and tested on dequantised data (uniform noise of one level, log-Jacobian included; Theis et al. 2016). Floats
    have densities alone. A Bernoulli of binarised grey pixels speaks of another data set.

    Args:
      base: the settings that all share; its likelihood, scale, binarize and dequantize are not looked at.
      name: a likelihood, with its scale or dispersion after a colon where it has one: "gaussian:shared", "laplace:0.1";
        "gaussian:optimal" is the objective optimal_sigma.
      dataset: the data, loaded.

    Raises:
      UserError: an unknown name, or a likelihood that is not for these data.
    """
    likelihood, _, option = name.partition(":")
    if likelihood not in entries("likelihood"):
        raise unknown("likelihood", likelihood, entries("likelihood"))
    changes: dict[str, Any] = {"likelihood": likelihood, "binarize": "auto", "dequantize": False}
    default = Config()
    others = {setting for other in entries("likelihood") for setting in settings_of("likelihood", other)}
    others -= set(settings_of("likelihood", likelihood))
    changes |= {setting: getattr(default, setting) for setting in others}  # what belongs to other rows
    if option == "optimal" and likelihood == "gaussian":
        if base.objective != default.objective:
            raise UserError(
                f"--likelihoods {name}: is an objective of its own; leave it out with --objective {base.objective}."
            )
        changes["objective"] = "optimal_sigma"
    elif option:
        known = [setting for setting in ("scale", "dispersion") if setting in settings_of("likelihood", likelihood)]
        if not known:
            raise UserError(f"--likelihoods {name}: {likelihood} has no scale. Write {likelihood}.")
        changes[known[0]] = option
    config = dataclasses.replace(base, **changes)
    config.validate()
    bundle, levels = make_likelihood(config, dataset), dataset.max_level
    support = bundle.support
    if support == "binary" and levels != 1:
        why = "not comparable: it is the likelihood of binarised pixels, another data set than the grey ones"
        return Entry(name, config, f"nats of the binarised data ({config.binarization})", why)
    if levels is None and support == "counts" and outside_support(bundle, values(dataset.train)) is None:
        return Entry(name, config, DISCRETE_UNIT, "probability of the counts")
    if levels is None:
        if support in DISCRETE and support != "binary":
            raise UserError(f"--likelihoods {name}: {likelihood} is for integer data, and {dataset.name} has floats.")
        return Entry(name, config, DENSITY_UNIT, "density; no bits per dimension, because the data are not discrete")
    if support in DISCRETE:
        return Entry(name, config, DISCRETE_UNIT, "probability of the levels")
    config = dataclasses.replace(config, dequantize=True)
    return Entry(name, config, DISCRETE_UNIT, "bound from the density of dequantised data")


def check_base(base: Config) -> None:
    """Raises `UserError` for settings that are wrong for every row, or that a comparison makes itself."""
    default = Config()
    for setting, flag in (("likelihood", "--likelihood"), ("scale", "--scale"), ("binarize", "--binarize")):
        if getattr(base, setting) != getattr(default, setting):
            raise UserError(f"{flag}: name the likelihoods and their scales by --likelihoods, such as gaussian:shared.")
    if base.dequantize:
        raise UserError("--dequantize: leave it out; densities of integer data are dequantised here by themselves.")
    if base.objective in ("optimal_sigma", CUSTOM):
        raise UserError("--objective optimal_sigma: compare it as --likelihoods gaussian:optimal.")
    dataclasses.replace(base, likelihood=CUSTOM).validate()  # each row looks for itself at what belongs to its likelihood
