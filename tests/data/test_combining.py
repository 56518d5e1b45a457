"""Parts of a data set in several files: named sources for validation and test, and files of a folder by their names."""

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data.readers import part_files, registry
from vae_jax.data.split import Split
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)


def images(count):
    """Levels of `count` images, neither square nor alike."""
    return RNG.integers(0, 256, (count, 5, 7), dtype=np.uint8)


TRAIN, VALIDATION, TEST = images(11), images(3), images(4)


def save(folder, **arrays):
    """Writes arrays as .npy files; "__" in a name stands for a folder."""
    for name, array in arrays.items():
        path = folder / f"{name.replace('__', '/')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def assert_parts(got, train=TRAIN, validation=None, test=None):
    """Compares every pixel of every part."""
    assert np.array_equal(got.train[:][..., 0], train)
    assert (got.validation is None) == (validation is None)
    assert validation is None or np.array_equal(got.validation[..., 0], validation)
    assert test is None or np.array_equal(got.test[..., 0], test)


def load_with_notes(path, *texts, **options):
    """Loads a source whose notes are these texts, in this order; each is a part of one note."""
    with pytest.warns(DataWarning):
        got = data.load(path, **options)
    assert len(got.notes) == len(texts), got.notes
    assert [(note, text) for note, text in zip(got.notes, texts, strict=True) if text not in note] == []
    return got


@pytest.fixture
def reads_text():
    """A format that is not NumPy's: a line is a word and numbers, and the first line names the columns."""

    def read(request):
        header, *lines = request.path.read_text().split("\n")
        rows = [line.split() for line in lines if line]
        distinct = sorted({row[0] for row in rows})
        numbers = np.array([[float(number) for number in row[1:]] for row in rows])
        labels = np.array([distinct.index(row[0]) for row in rows])
        note = f"{request.path}: text is slow."
        return Split(numbers, labels, label_names=tuple(distinct), column_names=tuple(header.split()), notes=(note,))

    before = dict(registry._readers)
    registry.register(registry.Reader("text", ".words files", "a .words file", read, endings=(".words",)))
    yield
    registry._readers.clear()
    registry._readers.update(before)


# Sources for validation and test


@pytest.mark.parametrize("stream", [False, True])
def test_the_sets_of_other_files_replace_those_that_would_be_split_off(tmp_path, stream):
    save(tmp_path, a=TRAIN, b=VALIDATION, c=TEST)
    validation, test = tmp_path / "b.npy", str(tmp_path / "c.npy")
    got = data.load(tmp_path / "a.npy", validation_dataset=validation, test_dataset=test, stream=stream)
    assert isinstance(got.train, data.Rows) == stream
    assert_parts(got, TRAIN, VALIDATION, TEST)
    assert got.split == f"test set from {test}, validation set from {validation}"
    in_one_file = tmp_path / "all.npz"
    np.savez(in_one_file, x_train=TRAIN, x_validation=VALIDATION, x_test=TEST)
    assert got.fingerprint() == data.load(in_one_file).fingerprint()


def test_a_part_without_a_source_is_split_off_as_ever(tmp_path):
    save(tmp_path, a=TRAIN, b=VALIDATION)
    alone = data.load(tmp_path / "a.npy")
    got = data.load(tmp_path / "a.npy", validation_dataset=tmp_path / "b.npy")
    assert np.array_equal(got.test, alone.test)
    assert_parts(got, alone.train[..., 0], VALIDATION)
    assert got.split == f"random with seed 0; validation set from {tmp_path / 'b.npy'}"
    got = data.load(tmp_path / "a.npy", test_dataset=tmp_path / "b.npy", validation_fraction=0.5)
    assert (len(got.train), len(got.validation), len(got.test)) == (5, 6, 3)
    assert got.split == f"test set from {tmp_path / 'b.npy'}; validation random with seed 0 from the training set"


def test_a_named_test_set_wins_over_that_of_the_source(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=TRAIN, x_test=VALIDATION, y_train=np.arange(11), y_test=np.arange(3))
    np.savez(tmp_path / "b.npz", images=TEST, labels=np.array([3, 1, 4, 1]))
    got = load_with_notes(tmp_path / "a.npz", "its own test set is not used", test_dataset=tmp_path / "b.npz")
    assert_parts(got, TRAIN, None, TEST)
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == (list(range(11)), [3, 1, 4, 1])
    assert "x_test" not in got.split


def test_of_several_parts_the_one_that_is_meant_is_taken(tmp_path):
    save(tmp_path, a=TRAIN)
    np.savez(tmp_path / "b.npz", x_train=VALIDATION, x_test=TEST, y_test=np.arange(4))
    got = load_with_notes(
        tmp_path / "a.npy", "its test set is used, and its training set is not", test_dataset=tmp_path / "b.npz"
    )
    assert_parts(got, TRAIN, None, TEST)
    assert (got.test_labels.tolist(), got.train_labels) == ([0, 1, 2, 3], None)
    with pytest.raises(UserError, match=r"b.npz: expected one part, or a validation set, got training examples and test"):
        data.load(tmp_path / "a.npy", validation_dataset=tmp_path / "b.npz")


def test_bundled_data_take_part(tmp_path):
    digits = data.load("digits", split="last", test_fraction=0.5)
    np.savez(tmp_path / "t.npz", images=digits.test[..., 0], labels=digits.test_labels)
    got = data.load("digits", test_dataset=tmp_path / "t.npz")
    assert (got.max_level, len(got.train), got.test_labels.tolist()) == (16, 1797, digits.test_labels.tolist())
    with pytest.raises(UserError, match=r"digits: the test set would be the training set. Leave it out"):
        data.load("digits", test_dataset="digits")
    with pytest.raises(UserError, match=r"sprites is computed, so .* cannot be its validation set"):
        data.load("sprites", validation_dataset=tmp_path / "t.npz")
    with pytest.raises(UserError, match=r"sprites_grid is computed and cannot be a test set. Save its images"):
        data.load("digits", test_dataset="sprites_grid")


def test_sources_that_do_not_fit_are_refused(tmp_path):
    save(tmp_path, a=TRAIN, wide=np.zeros((3, 5, 8), np.uint8), floats=VALIDATION / 255)
    for name in ("wide", "floats"):
        with pytest.raises(UserError, match="expected training, validation and test sets of one shape and dtype, got train"):
            data.load(tmp_path / "a.npy", test_dataset=tmp_path / f"{name}.npy")
        with pytest.raises(UserError, match="of one shape and dtype"):
            data.load("digits", validation_dataset=tmp_path / f"{name}.npy")
    with pytest.raises(UserError, match=r"none.npy: no such file"):
        data.load(tmp_path / "a.npy", test_dataset=tmp_path / "none.npy")
    with pytest.raises(UserError, match="digitz"):
        data.load(tmp_path / "a.npy", test_dataset="digitz")


def test_an_option_is_for_the_sources_that_have_it_and_for_the_training_set(tmp_path):
    save(tmp_path, a=TRAIN)
    with pytest.raises(UserError, match=r"`transpose` has no meaning for data sets that are not read from files"):
        data.load("digits", transpose=True)
    with pytest.raises(UserError, match=r"`label_column` has no meaning for .npy files"):
        data.load(tmp_path / "a.npy", label_column="y")


# Files of a folder


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("imagenet32-train", "imagenet32-valid", "imagenet32-test"),
        ("binarized_mnist_train", "binarized_mnist_valid", "binarized_mnist_test"),
        ("train_data", "eval_data", "test_data"),
        ("train_32x32", "val_32x32", "test_32x32"),
        ("x_train", "x_val", "x_test"),
        ("Xtrain", "Xvalid", "Xtest"),
        ("mnistTrain", "mnistDev", "mnistTest"),
        ("train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001"),
        ("data__training", "data__validation", "data__testing"),
        ("train__0000", "val__0000", "test__0000"),
        ("Imagenet32_train_npz__train_data_batch_1", "Imagenet32_val_npz__val_data", "Imagenet32_val_npz__test"),
    ],
)
def test_files_are_sorted_into_parts_by_their_names(tmp_path, train, validation, test):
    save(tmp_path, **{train: TRAIN, validation: VALIDATION, test: TEST})
    got = data.load(tmp_path)
    assert_parts(got, TRAIN, VALIDATION, TEST)
    files = [f"{name.replace('__', '/')}.npy" for name in (train, validation, test)]
    assert got.split == "the source's own (training {}, validation {}, test {})".format(*files)
    streamed = data.load(tmp_path, stream=True)
    assert isinstance(streamed.train, data.Rows)
    assert streamed.fingerprint() == got.fingerprint()


def test_several_files_of_a_part_are_joined_in_the_order_of_their_numbers(tmp_path):
    parts = {f"train_data_batch_{number}": images(number) for number in range(1, 12)}
    save(tmp_path, **parts, val_data=VALIDATION)
    got = data.load(tmp_path, split="last", test_fraction=0.25)
    joined = np.concatenate(list(parts.values()))
    assert_parts(got, joined[:-16], VALIDATION, joined[-16:])
    with pytest.raises(UserError, match=r"11 training files .* cannot be read row by row .* Join them in one .npy file"):
        data.load(tmp_path, stream=True)


def test_labels_and_factors_beside_the_examples_belong_to_them(tmp_path):
    save(tmp_path, X_train=TRAIN, y_train=np.array(list("abcabcabcab")), X_test=TEST, testlabels=np.array(list("cdca")))
    save(tmp_path, factors_train=np.arange(22).reshape(11, 2), y_val=np.array(["a"]))
    got = load_with_notes(tmp_path, "y_val.npy is not used, because there are no validation examples")
    assert_parts(got, TRAIN, None, TEST)
    assert got.label_names == ("a", "b", "c", "d")
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == ([0, 1, 2] * 3 + [0, 1], [2, 3, 2, 0])
    assert got.train_factors.tolist() == np.arange(22).reshape(11, 2).tolist()


def test_one_file_is_read_and_others_are_named(tmp_path):
    save(tmp_path, **{"ffhq-256": TRAIN})
    (tmp_path / "README.txt").write_text("faces")
    got = load_with_notes(tmp_path, "README.txt is left out, because only .npy files are read", split="last")
    assert np.array_equal(np.concatenate([got.train, got.test])[..., 0], TRAIN)


def test_files_of_no_part_and_extra_files_are_named(tmp_path):
    save(tmp_path, train_32x32=TRAIN, test_32x32=TEST, extra_32x32=VALIDATION, mean=TEST, train_test=TRAIN)
    extra, unnamed = "extra_32x32.npy is not used. To train on more", "mean.npy and train_test.npy are not used, because"
    assert_parts(load_with_notes(tmp_path, extra, unnamed), TRAIN, None, TEST)


def test_folders_that_do_not_say_which_file_is_meant_are_refused(tmp_path):
    save(tmp_path, a=TRAIN, test=TEST)
    with pytest.raises(UserError, match=r"named after their part, such as train.npy and test.npy, got a.npy and"):
        data.load(tmp_path)
    (tmp_path / "a.npy").rename(tmp_path / "train.npy")  # the advice
    assert_parts(data.load(tmp_path), TRAIN, None, TEST)
    np.savez(tmp_path / "train.npz", x=TRAIN)
    with pytest.raises(UserError, match=r"expected training files of one format, got train.npy and train.npz"):
        data.load(tmp_path)
    (tmp_path / "train.npy").unlink()
    assert_parts(data.load(tmp_path), TRAIN, None, TEST)
    np.savez(tmp_path / "train.npz", x_train=TRAIN, x_test=TEST)
    with pytest.raises(UserError, match=r"train.npz: expected training examples alone, as its name says, got training"):
        data.load(tmp_path)
    assert_parts(data.load(tmp_path / "train.npz"), TRAIN, None, TEST)  # the advice


def test_joined_files_have_one_shape(tmp_path):
    save(tmp_path, train_1=TRAIN, train_2=np.zeros((2, 5, 8), np.uint8))
    with pytest.raises(UserError, match=r"train_2.npy: expected examples of shape \(5, 7\), as in .*train_1.npy, got \(5, 8\)"):
        data.load(tmp_path)


def test_joined_files_have_to_fit_into_memory(tmp_path, monkeypatch):
    save(tmp_path, train_1=TRAIN, train_2=TRAIN)
    asked = []
    monkeypatch.setattr(part_files, "check_fits_in_memory", lambda path, size: asked.append((path, size)))
    data.load(tmp_path)
    assert asked == [(tmp_path, 2 * TRAIN.nbytes)]


def test_labels_of_several_files_are_numbered_over_all_of_them(tmp_path, reads_text):
    (tmp_path / "train-1.words").write_text("height width\ncat 1 2\ndog 3 4\n")
    (tmp_path / "train-2.words").write_text("height width\ndog 5 6\ncow 7 8\n")
    (tmp_path / "test.words").write_text("height width\ndog 9 10\n")
    got = load_with_notes(tmp_path, "train-1.words: text is slow", "test.words: text is slow")
    assert got.train.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert got.test.tolist() == [[9, 10]]
    assert got.label_names == ("cat", "cow", "dog")
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == ([0, 2, 2, 1], [2])
    assert got.column_names == ("height", "width")


def test_columns_in_another_order_are_refused(tmp_path, reads_text):
    (tmp_path / "train.words").write_text("height width\ncat 1 2\ndog 3 4\n")
    (tmp_path / "test.words").write_text("width height\ndog 9 10\n")
    with pytest.raises(UserError, match=r"expected the columns of .*train.words, .* got first 'height' and 'width'"):
        data.load(tmp_path)


def test_numbered_labels_beside_named_ones_have_to_be_such_numbers(tmp_path, reads_text):
    (tmp_path / "train.words").write_text("height width\ncat 1 2\ndog 3 4\n")
    test = tmp_path / "test.npz"
    np.savez(test, x=np.ones((2, 2)), y=np.array([1, 0]))
    assert load_with_notes(tmp_path, "text is slow").test_labels.tolist() == [1, 0]
    np.savez(test, x=np.ones((2, 2)), y=np.array([1, 2]))
    with pytest.raises(UserError, match=r"test.npz: expected labels with names, .* or numbers from 0 to 1, got 1 to 2"):
        data.load(tmp_path)


def test_words_in_one_part_and_numbers_in_another_are_refused(tmp_path):
    save(tmp_path, x_train=TRAIN, y_train=np.array(list("abcabcabcab")), x_test=TEST, y_test=np.arange(4))
    with pytest.raises(UserError, match=r"got words and numbers: train \['a'\] and test \[0\]. Save words in all"):
        data.load(tmp_path)
