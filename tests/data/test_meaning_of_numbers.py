"""Every type and range of numbers means what `data.load` states, for every event and likelihood, or is refused with a fix."""

import re

import numpy as np
import pytest

from vae_jax import data, likelihoods
from vae_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::vae_jax.errors.DataWarning")

RNG = np.random.default_rng(0)
INTEGERS = ("bool", "uint8", "int8", "uint16", ">u2", "int16", "int32", "int64", ">i8", "uint64")
FLOATS = ("float16", "float32", ">f4", "float64", "longdouble")
SHAPES = {"image": (20, 3, 4), "color": (20, 4, 5, 3), "series": (20, 6, 2), "vector": (20, 7)}
# Lowest and highest number, and whether there are fractions.
RANGES = {
    "zeros and ones": (0, 1, False),
    "a few": (0, 5, False),
    "bytes": (0, 255, False),
    "counts": (0, 1200, False),
    "signed": (-9, 9, False),
    "huge": (0, 2**40, False),
    "unit interval": (0, 1, True),
    "symmetric": (-1, 1, True),
    "bytes with fractions": (0, 255, True),
    "real": (-3, 40, True),
}
LIKELIHOODS = {
    "bernoulli": likelihoods.bernoulli,
    "continuous_bernoulli": likelihoods.continuous_bernoulli,
    "gaussian": likelihoods.gaussian,
    "discretized_logistic": likelihoods.discretized_logistic,
    "poisson": likelihoods.poisson,
}
EXAMPLES = [
    (name, dtype)
    for name, (low, high, has_fractions) in RANGES.items()
    for dtype in (FLOATS if has_fractions else (*INTEGERS, *FLOATS))
    if np.dtype(dtype).kind != "b" or high == 1
    if np.dtype(dtype).kind not in "iu" or np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max
    if np.dtype(dtype).kind != "f" or high <= (65504 if dtype == "float16" else 1e38)
]


def draw(name, dtype, shape):
    """Numbers of a range, of which the training part (the first 16) and the test part have both ends."""
    low, high, has_fractions = RANGES[name]
    x = RNG.uniform(low, high, shape) if has_fractions else RNG.integers(low, high, shape, endpoint=True)
    flat = x.reshape(len(x), -1)
    flat[[0, 19], 0], flat[[0, 19], 1] = low, high
    if has_fractions:
        flat[[0, 19], 2] = low + 0.25
    return x.astype(dtype)


def stated(name, dtype, shape):
    """(type, highest level) as the docstring of `data.load` has it; None: refused."""
    low, high, _ = RANGES[name]
    kind, is_image = np.dtype(dtype).kind, shape in ("image", "color")
    if kind == "f":
        return np.float32, None
    if high <= 1 and low >= 0:
        return np.uint8, 1
    if dtype == "uint8" or (is_image and 0 <= low <= high <= 255):
        return np.uint8, 255
    if is_image and kind == "u" and np.dtype(dtype).itemsize == 2:
        return np.uint16, 65535
    if high >= 2**31 or (is_image and low < 0):
        return None
    return np.int32, None


def load(x, shape):
    return data.from_arrays(x, split="last", event="series" if shape == "series" else "auto")


def accepted(dataset, likelihood, binarize="none"):
    """Whether the likelihood takes the data, and what the model then gets; None where it is refused, with the message."""
    bundle = LIKELIHOODS.get(likelihood, getattr(likelihoods, likelihood))()
    if likelihood == "discretized_logistic" and dataset.max_level:
        bundle = likelihoods.discretized_logistic(dataset.max_level + 1)
    try:
        data.check_support(dataset, bundle, binarize)
        prepared = data.prepare(dataset, binarization=binarize, counts=likelihood in ("poisson", "negative_binomial"))
    except UserError as refused:
        return None, str(refused)
    return np.asarray(prepared.eval_input(prepared.test)), ""


def is_supported(numbers, likelihood, top):
    """The mathematics: whether all numbers, on the likelihood's scale, lie in its support."""
    on_scale = numbers / (top or 1)
    is_whole = np.array_equal(numbers, np.round(numbers))
    match likelihood:
        case "bernoulli":
            return bool(np.isin(on_scale, (0, 1)).all())
        case "continuous_bernoulli":
            return bool(on_scale.min() >= 0 and on_scale.max() <= 1)
        case "discretized_logistic":
            return top is not None
        case "poisson":
            return bool(is_whole and numbers.min() >= 0)
    return True


@pytest.mark.parametrize(("name", "dtype"), EXAMPLES)
def test_numbers_are_kept_as_stated_or_refused_with_a_line_that_helps(name, dtype):
    for shape in SHAPES:
        check_numbers(name, dtype, shape)


def check_numbers(name, dtype, shape):
    """Compares what is kept with what is stated, and what models get of it."""
    x, expected = draw(name, dtype, SHAPES[shape]), stated(name, dtype, shape)
    if expected is None:
        with pytest.raises(UserError, match=r"expected integer") as refused:
            load(x, shape)
        line = re.search(r"x\.astype\(np\.float32\)", str(refused.value))[0]
        x = eval(line, {"x": x, "np": np})
        expected = (np.float32, None)
    dataset = load(x, shape)
    assert (dataset.train.dtype, dataset.max_level) == expected
    numbers = np.concatenate([dataset.train, dataset.test])
    np.testing.assert_array_equal(numbers.reshape(x.shape), x.astype(expected[0]))
    if dtype in ("uint8", "uint16", "int64", "float64") and shape in ("image", "vector"):  # others are kept as one of these
        for likelihood in LIKELIHOODS:
            check_likelihood(dataset, numbers, likelihood, shape)


def check_likelihood(dataset, numbers, likelihood, shape):
    """Compares what a model gets with what is stated, or follows the message."""
    top = dataset.max_level
    got, message = accepted(dataset, likelihood)
    assert (got is not None) == is_supported(numbers.astype(np.float64), likelihood, top), message
    if got is not None:
        scale = 1 if likelihood == "poisson" else top or 1
        np.testing.assert_allclose(got, dataset.test.astype(np.float64) / scale, rtol=1e-6)
        return
    advice = [
        (re.search(r"Divide them by 255\b", message), lambda x: x / 255),
        (re.search(r"Divide them by their largest value", message), lambda x: x / x.max()),
        (re.search(r"Use \(x \+ 1\) / 2 of them", message), lambda x: (x + 1) / 2),
        (
            re.search(r"Use \(x - x.min\(\)\) / \(x.max\(\) - x.min\(\)\)", message),
            lambda x: (x - x.min()) / (x.max() - x.min()),
        ),
        (re.search(r"save \(x \* 255\).round\(\).astype\(np.uint8\)", message), lambda x: (x * 255).round().astype(np.uint8)),
    ]
    changes = [change for match, change in advice if match]
    binarize = "dynamic" if '`binarize="dynamic"`' in message else "none"
    level = re.search(r"Use `max_level=(\d+)`", message)
    if level:
        numbers = numbers.astype(np.int64)
        changed = data.from_arrays(numbers, event="series" if shape == "series" else "auto", max_level=int(level[1]))
        assert accepted(changed, likelihood)[0] is not None, message
    options = set(re.findall(r'`likelihood="(\w+)"`', message))
    assert changes or binarize == "dynamic" or options or level, message
    if changes or binarize == "dynamic":
        changed = load(changes[0](numbers.astype(np.float64)) if changes else numbers, shape)
        assert accepted(changed, likelihood, binarize)[0] is not None, message
    for other in options:
        assert accepted(dataset, other)[0] is not None, message


@pytest.mark.filterwarnings("default")
def test_floats_that_are_bytes_are_named(tmp_path):
    x = draw("bytes", "int64", (20, 3, 4))
    with pytest.warns(match=r"images are whole numbers from 0 to 255 stored as floats, .*save x.astype\(np.uint8\)") as caught:
        assert data.from_arrays(x.astype(np.float64)).max_level is None
    line = re.search(r"x\.astype\([\w.]+\)", str(caught[0].message))[0]
    same = data.from_arrays(eval(line, {"x": x, "np": np}))
    assert (same.max_level, same.notes, same.fingerprint()) == (255, (), data.from_arrays(x).fingerprint())
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    with pytest.warns(match="stored as floats"):
        data.load(tmp_path / "x.npy", stream=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("high", "shape"), [(255.5, (9, 3, 4)), (1200, (9, 3, 4)), (9, (9, 3)), (1, (9, 3, 4))])
def test_other_floats_give_no_note(high, shape):
    x = np.round(RNG.random(shape) * high)
    x[0, 0] = high
    assert data.from_arrays(x).notes == ()
