"""The advice of messages about data is followed literally here, and then the data can be loaded."""

import re

import numpy as np
import pytest

from vae_jax import data, likelihoods
from vae_jax.errors import UserError

RNG = np.random.default_rng(0)


def with_bad_rows(rows, value=np.nan):
    x = RNG.random((20, 3, 4))
    x[rows, 1, 2] = value
    return x


WITHOUT_BAD_ROWS = "x[np.isfinite(x).reshape(len(x), -1).all(axis=1)]"
# name: (what is stored, the words of the message, the line of Python in it, the shape that is then loaded)
ARRAYS = {
    "one number each": (RNG.random(20), "For examples of one number each, save x[:, None]", "x[:, None]", (1,)),
    "videos": (RNG.random((10, 2, 4, 5, 3)), "makes an example of each frame", "x.reshape(-1, *x.shape[-3:])", (4, 5, 3)),
    "five axes": (RNG.random((20, 2, 2, 3, 4)), '`event="vector"` each example', "x.reshape(-1, *x.shape[-3:])", (2, 3, 4)),
    "beyond int32": (
        RNG.integers(0, 2**40, (20, 3, 4)),
        "expected integers within the range of int32, got",
        "x.astype(np.float32)",
        (3, 4, 1),
    ),
    "signed": (RNG.integers(-9, 9, (20, 3, 4)), "for likelihoods of real numbers", "x.astype(np.float32)", (3, 4, 1)),
    "complex": (
        RNG.random((20, 3, 4)) + 1j,
        "expected integers or floats, got dtype complex128",
        "np.stack([x.real, x.imag], axis=-1)",
        (3, 4, 2),
    ),
    "durations": (
        RNG.integers(0, 9, (20, 3, 4)).astype("timedelta64[s]"),
        "got dtype timedelta64[s]",
        "x.astype(np.int64).astype(np.float32)",
        (3, 4, 1),
    ),
    "digits as text": (RNG.integers(0, 9, (20, 3, 4)).astype(str), "got dtype <U", "x.astype(np.float32)", (3, 4, 1)),
    "fields": (np.zeros((20, 3, 4), [("level", np.float32), ("mask", bool)]), "one of its fields", "x['level']", (3, 4, 1)),
    "nan": (
        with_bad_rows([7, 12]),
        "got 2 NaN or infinite values in 2 of 20 examples, the first in the example with index 7. Leave them out",
        WITHOUT_BAD_ROWS,
        (3, 4, 1),
    ),
    "infinity": (
        with_bad_rows([3], np.inf),
        "got 1 infinite values in 1 of 20 examples, the first in the example with index 3",
        "x[~np.isinf(x).reshape(len(x), -1).any(axis=1)]",
        (3, 4, 1),
    ),
    "nan everywhere": (
        with_bad_rows(slice(None)),
        "in 20 of 20 examples, the first in the example with index 0. Every example has some, so replace them",
        "np.where(np.isfinite(x), x, 0)",
        (3, 4, 1),
    ),
    "beyond float32": (
        with_bad_rows([5, 9], 1e300),
        "got 2 beyond 3.4e38, the first in the example with index 5. Rescale the data",
        "x / np.abs(x).max()",
        (3, 4, 1),
    ),
}
STREAMED = ("beyond int32", "signed", "nan", "nan everywhere", "beyond float32", "one number each", "five axes", "complex")


@pytest.mark.filterwarnings("ignore:.*are whole numbers from 0 to 8 stored as floats")
@pytest.mark.parametrize("name", [*ARRAYS, *(f"{name}, streamed" for name in STREAMED)])
def test_what_the_message_says_makes_the_array_readable(tmp_path, name):
    x, words, line, shape = ARRAYS[name.removesuffix(", streamed")]
    options = {"stream": name.endswith(", streamed"), "layout": "channels_last"}
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError) as refused:
        data.load(tmp_path / "x.npy", **options)
    message = str(refused.value)
    assert words in message
    assert line in message
    np.save(tmp_path / "x.npy", eval(line, {"np": np, "x": x}))
    got = data.load(tmp_path / "x.npy", **options)
    assert got.data_shape == shape
    assert len(got.train) + len(got.test) == {"nan": 18, "infinity": 19, "videos": 20, "five axes": 40}.get(
        name.split(",")[0], 20
    )


# name: (what is stored, the type in which it is kept, the highest level, the shape of an event)
READ = {
    "a table": (RNG.random((20, 6)), np.float32, None, (6,)),
    "a table of integers": (RNG.integers(0, 200, (20, 6)), np.int32, None, (6,)),
    "a table of bytes": (RNG.integers(0, 200, (20, 6), dtype=np.uint8), np.uint8, 255, (6,)),
    "counts": (RNG.integers(0, 1200, (20, 3, 4)), np.int32, None, (3, 4, 1)),
    "16 bits": (RNG.integers(0, 2**16, (20, 3, 4), dtype=np.uint16), np.uint16, 65535, (3, 4, 1)),
    "300 everywhere": (np.full((20, 2, 2), 300), np.int32, None, (2, 2, 1)),
    "signed columns": (RNG.integers(-9, 9, (20, 3)), np.int32, None, (3,)),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", READ)
def test_what_is_read_without_advice(tmp_path, name, stream):
    x, dtype, max_level, shape = READ[name]
    np.save(tmp_path / "x.npy", x)
    got = data.load(tmp_path / "x.npy", split="last", stream=stream)
    assert (got.train.dtype, got.max_level, got.data_shape, got.notes) == (dtype, max_level, shape, ())
    numbers = np.concatenate([got.train[:], got.test])
    np.testing.assert_array_equal(numbers.reshape(x.shape), x.astype(dtype))


def test_counts_saved_as_floats_are_counts(tmp_path):
    x = READ["counts"][0]
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    dataset = data.load(tmp_path / "x.npy", split="last")
    data.check_support(dataset, likelihoods.poisson(), "none")
    prepared = data.prepare(dataset, counts=True)
    np.testing.assert_array_equal(prepared.eval_input(prepared.test)[..., 0], x[16:])


def test_numbers_in_the_test_part_alone_are_named_with_the_part(tmp_path):
    x = with_bad_rows([4])
    np.savez(tmp_path / "a.npz", x_train=RNG.random((20, 3, 4)), x_test=x)
    with pytest.raises(UserError, match=r"a.npz: test images: expected finite .* in 1 of 20 .* index 4"):
        data.load(tmp_path / "a.npz")


def test_one_hot_labels(tmp_path):
    labels = np.eye(5, dtype=int)[np.arange(20) % 5]
    np.savez(tmp_path / "a.npz", x=RNG.random((20, 3, 4)), y=labels)
    with pytest.raises(UserError, match=r"labels of shape \(20, 5\). For one-hot labels save labels.argmax\(axis=1\)"):
        data.load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=RNG.random((20, 3, 4)), y=labels.argmax(axis=1))
    assert data.load(tmp_path / "a.npz", split="last").test_labels.tolist() == [1, 2, 3, 4]


def test_an_array_in_place_of_a_path_says_what_takes_it():
    x = RNG.random((20, 3, 4))
    for function, argument in (("data.load", x), ("data.load", x.tolist()), ("data.prepare", x)):
        with pytest.raises(UserError, match=rf"^{function}: expected .*, got an? (array of shape|list)") as refused:
            eval(function, {"data": data})(argument)
        call = re.search(r"[Uu]se (data\..*\))\.$", str(refused.value))[1]
        made = eval(call, {"data": data, "array": x, "examples": argument})
        assert getattr(made, "data_shape", None) == (3, 4, 1) if function == "data.load" else made.test.shape == (4, 3, 4, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.dat", r"got a file ending in '.dat'. Read it in Python and save its images as one array"),
        ("a.PNG", r"got a file ending in '.PNG'. Pass the folder that it is in: "),
        ("train-images-idx3-ubyte.gz", r"ending in '.gz'. Pass the folder that it is in: "),
    ],
)
def test_a_file_that_is_not_an_array_says_what_to_pass(tmp_path, name, words):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=words):
        data.load(tmp_path / name)


def test_a_fraction_that_leaves_a_side_without_examples(tmp_path):
    np.save(tmp_path / "x.npy", RNG.random((20, 3, 4)))
    for option, count in (("test_fraction", 20), ("validation_fraction", 16)):
        with pytest.raises(UserError, match=rf"`{option}=0.01` splits {count} examples into {count} and 0. Each side needs"):
            data.load(tmp_path / "x.npy", **{option: 0.01})


def test_parts_that_differ_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=RNG.random((20, 3, 4)), x_test=np.full((5, 3, 4), 200))
    with pytest.raises(UserError, match=r"one shape and dtype, got train \(3, 4, 1\) float32 and test \(3, 4, 1\) uint8"):
        data.load(tmp_path / "a.npz")


def test_a_path_that_is_relative_says_from_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"nowhere.npy: no such file or folder. The path starts at .* {tmp_path}"):
        data.load("nowhere.npy")
