"""Arguments of the formulas in `rows` from the raw outputs of decoders, in float64; nothing here imports the package."""

import math

import numpy as np

COLUMNS = 3  # of the last axis of the events
INITIAL, MIN_LOG_RATIO, UNIT, BINS, COMPONENTS = 0.5, -6.0, 2.0, 8, 2
MIN_LOG_SCALE = math.log(0.05 / (BINS - 1))


def _softplus(t):
    return np.logaddexp(t, 0)


def _floored(t, floor):
    return floor + np.logaddexp(t - floor, 0)


def _second(setting, raw, shared, floor):
    """The log of a scale or a dispersion from its setting, the last raw number of each entry, and the learned numbers."""
    log = {"shared": shared, "per_column": shared, "per_pixel": raw + math.log(INITIAL)}.get(setting)
    log = np.log(float(setting)) if log is None else log
    return np.broadcast_to(log if floor is None else _floored(log, floor), raw.shape)


def _real(setting, output, shared):
    first, last = (output[..., 0], output[..., 1]) if setting == "per_pixel" else (output, output)
    start = float(np.float32(math.log(INITIAL))) if setting == "per_column" else math.log(INITIAL)  # arrays are float32
    floor = start + MIN_LOG_RATIO if setting in ("per_column", "per_pixel") else None
    return first, _second(setting, last, shared, floor)


def _discretized_logistic(setting, output, shared):
    first, last = (output[..., 0], output[..., 1]) if setting == "per_pixel" else (output, output)
    return first, _second(setting, last, shared, MIN_LOG_SCALE)


def _negative_binomial(setting, output, shared):
    first, last = (output[..., 0], output[..., 1]) if setting == "per_pixel" else (output, output)
    return np.log(UNIT * _softplus(first)), _second(setting, last, shared, None)


def _zero_inflated(setting, output, shared):
    return output[..., 1], np.log(UNIT * _softplus(output[..., 0])), _second(setting, output[..., -1], shared, None)


def _logistic_mixture(setting, output, shared):
    logits, loc, raw = np.split(output, 3, axis=-1)
    return logits, loc, _floored(raw + math.log(INITIAL), MIN_LOG_SCALE)


_BY_NAME = {
    "bernoulli": lambda setting, output, shared: (output,),
    "continuous_bernoulli": lambda setting, output, shared: (output,),
    "categorical": lambda setting, output, shared: (output,),
    "poisson": lambda setting, output, shared: (np.log(UNIT * _softplus(output)),),
    "gaussian": _real,
    "laplace": _real,
    "student_t": _real,
    "discretized_logistic": _discretized_logistic,
    "logistic_mixture": _logistic_mixture,
    "negative_binomial": _negative_binomial,
    "zero_inflated_negative_binomial": _zero_inflated,
}


def natural_parameters(name, setting, output, shared):
    """The arguments before x of the formula `name`, in the shape of the event."""
    output, shared = np.asarray(output, np.float64), np.asarray(shared, np.float64)
    return _BY_NAME[name](setting, output, shared)
