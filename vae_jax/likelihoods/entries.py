"""The registry's entries of the likelihoods. Their factories import jax; this module does not."""

import math
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.likelihoods.base import Likelihood

SCALE = Setting(
    "scale",
    str,
    "auto",
    "Scale parameter: a number, 'shared' (learned, from the spread of the data on), 'per_column' (learned, one for each column "
    "of a vector and each channel of a series or an image) or 'per_pixel' (a second decoder output). auto: 1 for images, whose "
    "pixels have one unit, and per_column for vectors and series; for discretized_logistic, which takes no number, shared.",
)
DEGREES_OF_FREEDOM = Setting(
    "degrees_of_freedom", float, 4.0, "Few for heavy tails.", low=1e-3, high=1e9, bounds="a number > 0 (from 0.001 to 1e9)"
)
NUM_COMPONENTS = Setting("num_components", int, 10, "Components of the mixture.", low=1, high=1e8)
DISPERSION = Setting(
    "dispersion",
    str,
    "shared",
    "Total count (small: overdispersed): a number, 'shared' (learned), 'per_column' (learned, one for each column or channel) "
    "or 'per_pixel' (a decoder output).",
)
EXPOSURE = Setting(
    "exposure",
    Literal["none", "observed"],
    "none",
    "observed: the decoder gives proportions, and the rate is proportion times the total of the row, as with the observed "
    "library size of scVI; the log-likelihood is then given that total. none: the decoder gives rates.",
)
COUNT_INPUT = Setting(
    "count_input",
    Literal["log1p", "standardized"],
    "log1p",
    "How the encoder sees counts: log(1 + x), with the mean of each column and one standard deviation for all, or x itself, "
    "with a standard deviation for each column. The likelihood stays that of x.",
    earlier="standardized",
)
COLUMNS = Setting(
    "columns",
    tuple[str, ...],
    (),
    "Likelihood of each column of a table, as COLUMN=LIKELIHOOD, such as age=gaussian, or a JSON file {column: likelihood}. "
    "COLUMN=none leaves a column out. Columns that are not named get the likelihood that their values suggest. auto: the same, "
    "or bernoulli where it suits every column.",
)
_LEARNED = ("shared", "per_column", "per_pixel")


def _check_scale(config: Settings) -> None:
    if config.scale == "optimal":
        raise UserError('`scale="optimal"` is a number of the whole batch: use `objective="optimal_sigma"` and no `scale`.')
    if config.scale == "per_column" and config.objective == "optimal_sigma":
        raise UserError('`objective="optimal_sigma"` sets one scale for all columns. Leave out `scale`.')
    _check_number("scale", config.scale, ("auto", *_LEARNED))


def _check_scale_without_number(config: Settings) -> None:
    _check_number("scale", config.scale, ("auto", *_LEARNED), is_number_allowed=False)


def _check_dispersion(config: Settings) -> None:
    _check_number("dispersion", config.dispersion, _LEARNED)


def _check_number(field: str, value: str, names: tuple[str, ...], is_number_allowed: bool = True) -> None:
    """Raises `UserError` unless a setting is one of the names or, where allowed, a positive number."""
    if value in names:
        return
    try:
        number = float(value) if is_number_allowed else math.nan
    except ValueError:
        number = math.nan
    if not 1e-9 <= number <= 1e9:
        *first, last = (repr(name) for name in names if name != "auto")
        allowed = "a number > 0 (from 1e-9 to 1e9), " if is_number_allowed else ""
        raise UserError(field=field, expected=f"{allowed}{', '.join(first)} or {last}", got=value)


def _scale_setting(config: Settings, data: TrainingData) -> str:
    """Returns the setting `scale`, with "auto" resolved for densities.

    Columns of vectors and channels of series have units of their own, which no single number suits.
    """
    if config.scale != "auto":
        return config.scale
    if config.objective == "optimal_sigma":
        return "shared"
    has_units = len(data.data_shape) < 3 and not isinstance(data.std, float | int)
    return "per_column" if has_units else "1.0"


def _number_or_name(value: str) -> Any:
    return value if value in _LEARNED else float(value)


def _start(value: Any, setting: str, data: TrainingData) -> Any:
    """Returns the initial value of a second parameter, as an array with one for each column where the setting wants that."""
    import numpy as np

    return np.full(data.data_shape[-1], value) if setting == "per_column" and np.ndim(value) == 0 else value


def _logistic_scale(data: TrainingData) -> Any:
    """Returns the scale of the logistic distribution whose standard deviation is that of the training data."""
    return data.std * 3**0.5 / math.pi


def _rates(config: Settings, data: TrainingData) -> dict[str, Any]:
    """Returns the arguments of bundles of counts about their rates."""
    return {"unit": data.mean_count, "exposure": config.exposure, "total": data.mean_total}


def _bernoulli(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    return likelihoods.bernoulli()


def _continuous_bernoulli(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    return likelihoods.continuous_bernoulli()


def _gaussian(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    scale = _scale_setting(config, data)
    return likelihoods.gaussian(_number_or_name(scale), initial_scale=_start(data.std, scale, data))


def _laplace(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    scale = _scale_setting(config, data)
    return likelihoods.laplace(_number_or_name(scale), initial_scale=_start(data.std / 2**0.5, scale, data))


def _student_t(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    v = config.degrees_of_freedom
    initial = data.std * (1 - 2 / v) ** 0.5 if v > 2.5 else data.std / 2  # the variance is infinite or nearly so
    scale = _scale_setting(config, data)
    return likelihoods.student_t(_number_or_name(scale), degrees_of_freedom=v, initial_scale=_start(initial, scale, data))


def _discretized_logistic(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    scale = "shared" if config.scale == "auto" else config.scale
    initial = _start(_logistic_scale(data), scale, data)
    return likelihoods.discretized_logistic(data.num_levels, _number_or_name(scale), initial_scale=initial)


def _logistic_mixture(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    return likelihoods.logistic_mixture(data.num_levels, config.num_components, initial_scale=_logistic_scale(data))


def _logistic_mixture_rgb(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    if (channels := data.data_shape[-1]) != 3:
        raise UserError(f"{data.name}: logistic_mixture_rgb expects 3 channels, got {channels}. Use logistic_mixture.")
    return likelihoods.logistic_mixture_rgb(data.num_levels, config.num_components, initial_scale=_logistic_scale(data))


def _categorical(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    return likelihoods.categorical(data.num_levels)


def _poisson(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    return likelihoods.poisson(**_rates(config, data))


def _negative_binomial(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    initial = _start(1.0, config.dispersion, data)
    return likelihoods.negative_binomial(_number_or_name(config.dispersion), initial_dispersion=initial, **_rates(config, data))


def _zero_inflated_negative_binomial(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    initial = _start(1.0, config.dispersion, data)
    return likelihoods.zero_inflated_negative_binomial(
        _number_or_name(config.dispersion), initial_dispersion=initial, **_rates(config, data)
    )


def _multinomial(config: Settings, data: TrainingData) -> "Likelihood":
    from vae_jax import likelihoods

    return likelihoods.multinomial(data.mean_total, unit=data.mean_count)


def _check_columns(config: Settings) -> None:
    if config.binarize not in ("auto", "none"):
        raise UserError(f'`likelihood="columns"` models the numbers of a table. Leave out `binarize="{config.binarize}"`.')
    if config.dequantize:
        raise UserError('`likelihood="columns"` models integers as they are. Leave out `dequantize=True`.')
    if config.objective == "optimal_sigma":
        raise UserError('`objective="optimal_sigma"` sets one scale for all columns. Use `likelihood="gaussian"` for it.')


def _columns(config: Settings, data: TrainingData) -> "Likelihood":
    """Makes the likelihood of a mixed table. Columns of the same likelihood form a group."""
    import numpy as np

    from vae_jax import likelihoods

    grouped: dict[tuple[Any, ...], list[int]] = {}
    for i, facts in enumerate(data.columns):
        grouped.setdefault((facts.likelihood, facts.number, len(facts.values)), []).append(i)
    groups = []
    for (name, number, _), columns in grouped.items():
        chosen = [data.columns[i] for i in columns]
        unit = np.maximum([facts.mean for facts in chosen], 1e-3)
        std, ones = np.array([facts.std for facts in chosen]), np.ones(len(columns))
        values: tuple[tuple[float, ...], ...] = ()
        match name:
            case "categorical":
                likelihood = likelihoods.categorical(len(chosen[0].values))
                values = tuple(facts.values for facts in chosen)
            case "bernoulli" | "continuous_bernoulli":
                likelihood = getattr(likelihoods, name)()
            case "poisson":
                likelihood = likelihoods.poisson(unit)
            case "negative_binomial" | "zero_inflated_negative_binomial":
                likelihood = getattr(likelihoods, name)("per_column", initial_dispersion=ones, unit=unit)
            case "student_t":
                v = 4.0 if number is None else number
                spread = std * (1 - 2 / v) ** 0.5 if v > 2.5 else std / 2  # the variance is infinite or nearly so
                likelihood = likelihoods.student_t("per_column", degrees_of_freedom=v, initial_scale=spread)
            case _:  # gaussian or laplace
                scale = std if name == "gaussian" else std / 2**0.5
                likelihood = getattr(likelihoods, name)("per_column", initial_scale=scale)
        frequencies = tuple(facts.frequencies for facts in chosen) if values else ()
        groups.append(likelihoods.ColumnGroup(likelihood, tuple(columns), values, frequencies))
    return likelihoods.columns(groups)


for _entry in (
    Entry("likelihood", "bernoulli", "0 or 1", _bernoulli),
    Entry("likelihood", "continuous_bernoulli", "gray in [0, 1]", _continuous_bernoulli),
    Entry("likelihood", "gaussian", "real", _gaussian, (SCALE,), _check_scale),
    Entry("likelihood", "laplace", "real", _laplace, (SCALE,), _check_scale),
    Entry("likelihood", "student_t", "real, heavy tails", _student_t, (SCALE, DEGREES_OF_FREEDOM), _check_scale),
    Entry("likelihood", "discretized_logistic", "integer levels", _discretized_logistic, (SCALE,), _check_scale_without_number),
    Entry("likelihood", "logistic_mixture", "integer levels", _logistic_mixture, (NUM_COMPONENTS,)),
    Entry("likelihood", "logistic_mixture_rgb", "integer levels of 3 channels", _logistic_mixture_rgb, (NUM_COMPONENTS,)),
    Entry("likelihood", "categorical", "integer levels", _categorical),
    Entry("likelihood", "poisson", "counts", _poisson, (EXPOSURE, COUNT_INPUT)),
    Entry(
        "likelihood",
        "negative_binomial",
        "counts",
        _negative_binomial,
        (DISPERSION, EXPOSURE, COUNT_INPUT),
        _check_dispersion,
    ),
    Entry(
        "likelihood",
        "zero_inflated_negative_binomial",
        "counts, many of them 0",
        _zero_inflated_negative_binomial,
        (DISPERSION, EXPOSURE, COUNT_INPUT),
        _check_dispersion,
    ),
    Entry("likelihood", "multinomial", "counts given their total, as in Mult-VAE", _multinomial, (COUNT_INPUT,)),
    Entry("likelihood", "columns", "tables, one likelihood for each column", _columns, (COLUMNS,), _check_columns),
):
    register(_entry)
