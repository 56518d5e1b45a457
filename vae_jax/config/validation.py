"""Checks of the settings of a `Config`."""

import typing

from vae_jax.config import registry
from vae_jax.config.registry import CUSTOM
from vae_jax.errors import UserError, fits, unknown

if typing.TYPE_CHECKING:
    from vae_jax.config.settings import Config


def check_types(config: "Config") -> None:
    """Raises `UserError` for a setting whose value does not have its type."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if not fits(value := getattr(config, name), hint):
            kind = getattr(hint, "__name__", "") if isinstance(hint, type) and not typing.get_args(hint) else hint
            expected = str(kind).replace("typing.", "").replace("NoneType", "None")
            raise UserError(field=name, expected=expected, got=repr(value))


def check_name(field: str, name: str, options: typing.Iterable[str]) -> None:
    """Raises `UserError` for a name that is neither among the options nor that of a user's part."""
    if name not in options and name != CUSTOM:
        raise unknown(field, name, options)


def listed(names: list[str]) -> str:
    """Returns names as a phrase such as "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def check_combinations(config: "Config") -> None:
    """Raises `UserError` for settings of different parts that do not fit each other."""
    objective = config.entry("objective")
    prior = config.entry("prior")
    # `build` checks a user's prior, whose kind is not known here.
    is_standard = config.prior in ("normal", CUSTOM) or (prior is not None and prior.any_objective)
    if not is_standard and objective is not None and not objective.any_prior:
        names = [name for name, entry in registry.entries("objective").items() if entry.any_prior]
        raise UserError(f'`prior="{config.prior}"`: `objective="{config.objective}"` assumes N(0, I). Use {listed(names)}.')
    if config.posterior not in ("diagonal", CUSTOM) and objective is not None and not objective.any_posterior:
        names = [name for name, entry in registry.entries("objective").items() if entry.any_posterior]
        raise UserError(
            f'`posterior="{config.posterior}"`: `objective="{config.objective}"` assumes a diagonal Gaussian. '
            f"Use {listed(names)}."
        )
    if config.posterior != "diagonal" and config.prior == "vamp":
        raise UserError(
            f'`posterior="{config.posterior}"`: the VampPrior is a mixture of diagonal Gaussians. Use a different `prior`, or '
            '`posterior="diagonal"`.'
        )
    if config.ema_decay and config.average_from_epoch:
        raise UserError("`ema_decay` and `average_from_epoch` exclude each other. Leave one out.")
    if config.average_from_epoch > config.epochs:
        expected = f"at most {config.epochs}, the number of epochs"
        raise UserError(field="average_from_epoch", expected=expected, got=config.average_from_epoch)
    if config.stream and config.binarization == "fixed":
        raise fixed_needs_memory()
    if config.dequantize and config.binarization != "none":
        fix = '`dequantize`, or use `likelihood="gaussian"`' if config.likelihood == "bernoulli" else "one"
        raise UserError(f"`dequantize` and binarized data exclude each other. Leave out {fix}.")


def fixed_needs_memory() -> UserError:
    """Returns the error about fixed binarization of data that are streamed."""
    return UserError(
        '`binarize="fixed"` draws the whole training set once and holds it in memory. '
        "With `stream=True` use dynamic or threshold."
    )
