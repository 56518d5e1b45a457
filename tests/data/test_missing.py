"""Missing entries in memory: NaN, empty fields and masks; statistics over observed values, checks, fingerprints."""

import dataclasses

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from vae_jax import data
from vae_jax.build import training_data
from vae_jax.config import Config
from vae_jax.data.moments import log1p_moments
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
SHAPES = {"vector": (60, 5), "series": (60, 4, 3), "image": (60, 6, 4, 2)}


def with_nan(x, share=0.3, seed=1):
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.nan, x)


def of_shape(kind):
    return with_nan(RNG.normal(3, 2, SHAPES[kind]).astype(np.float32))


def load(array, **options):
    return data.from_arrays(array, missing="nan", split="last", **options)


def nan_train(dataset):
    return np.where(dataset.train_mask, dataset.train, np.nan).astype(np.float64)


@pytest.mark.parametrize("kind", SHAPES)
def test_statistics_are_those_of_the_observed_values(kind):
    dataset = load(of_shape(kind), event="auto" if kind == "image" else kind)
    x = nan_train(dataset)
    mean = np.nanmean(x, axis=0)
    np.testing.assert_allclose(dataset.train_mean, mean, atol=1e-6)
    assert dataset.train_std == pytest.approx(np.sqrt(np.nanmean(np.square(x - mean))), rel=1e-6)
    moments = data.train_moments(dataset, counts=False)
    axes = {"vector": 0, "series": (0, 1), "image": None}[kind]
    np.testing.assert_allclose(
        np.broadcast_to(moments.mean, x.shape[1:]), np.broadcast_to(np.nanmean(x, axes), x.shape[1:]), rtol=1e-6
    )
    if kind != "image":  # images have one number, about their mean image
        np.testing.assert_allclose(moments.std, np.broadcast_to(np.nanvar(x, axes) ** 0.5, x.shape[1:]), rtol=2e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_logarithms_of_counts_have_the_moments_of_the_observed_ones(kind):
    counts = with_nan(RNG.poisson(90, SHAPES[kind]).astype(np.float32))
    counts[0].flat[0] = 300  # more than a level of a byte
    dataset = load(counts, event="auto" if kind == "image" else kind)
    logs = np.log1p(nan_train(dataset))
    axes = {"vector": 0, "series": (0, 1), "image": None}[kind]
    moments = log1p_moments(dataset.train, dataset.train_mask, dataset.train_counts)
    shape = logs.shape[1:]
    np.testing.assert_allclose(np.broadcast_to(moments.mean, shape), np.broadcast_to(np.nanmean(logs, axes), shape), rtol=1e-6)
    variance = np.broadcast_to(np.nanvar(logs, axes), shape).mean()
    assert np.ravel(moments.std)[0] == pytest.approx(variance**0.5, rel=1e-6)


def test_a_constant_column_with_missing_entries_has_no_tiny_spread():
    counts = with_nan(np.full((40, 3), 7.0))
    dataset = load(counts)
    moments = data.train_moments(dataset, counts=True, count_input="log1p")
    np.testing.assert_allclose(moments.mean, 7)
    np.testing.assert_array_equal(moments.std, 1)
    np.testing.assert_array_equal(moments.log1p.std, 1)


def test_integers_with_a_mask_have_the_statistics_and_levels_of_the_observed():
    images = RNG.integers(0, 12, (40, 5, 5), dtype=np.uint8)
    mask = RNG.random(images.shape) < 0.6
    hidden = np.where(mask, images, 255).astype(np.uint8)
    dataset = data.from_arrays(hidden, mask=mask, split="last", max_level=11)
    x = np.where(mask, images, np.nan)[:32, ..., None] / 11
    np.testing.assert_allclose(dataset.train_mean, np.nanmean(x, 0), rtol=1e-6)
    assert dataset.train_std == pytest.approx(np.sqrt(np.nanmean(np.square(x - np.nanmean(x, 0)))), rel=1e-6)
    facts = training_data(Config(likelihood="poisson", binarize="none"), dataset)
    assert facts.mean_count == pytest.approx(np.nanmean(x) * 11, rel=1e-6)
    assert facts.mean_total == pytest.approx(np.nanmean(x, 0).sum() * 11, rel=1e-6)
    assert facts.has_missing
    assert dataset.missing_fraction == pytest.approx(1 - mask.mean())


def test_counts_with_missing_entries_suit_likelihoods_of_counts():
    dataset = load(with_nan(RNG.poisson(4, (30, 6)).astype(float)))
    from vae_jax import likelihoods

    data.check_support(dataset, likelihoods.poisson(), "none")
    with_fractions = load(with_nan(RNG.poisson(4, (30, 6)) + 0.5))
    with pytest.raises(UserError, match=r"counts .* got 0\.5 to"):  # 0.5 is the lowest observed value; missing ones are 0
        data.check_support(with_fractions, likelihoods.poisson(), "none")


def test_gray_pixels_under_the_mask_do_not_count():
    from vae_jax import likelihoods

    images = RNG.integers(0, 2, (20, 4, 4)).astype(np.float32)
    gray = images.copy()
    gray[np.arange(20), np.arange(20) % 4] = 0.5
    mask = gray != 0.5
    data.check_support(data.from_arrays(gray, mask=mask), likelihoods.bernoulli(), "none")
    with pytest.raises(UserError, match="gray values"):
        data.check_support(
            data.from_arrays(gray, mask=mask | (np.arange(20) == 19)[:, None, None]), likelihoods.bernoulli(), "none"
        )
    hidden = np.where(mask, images * 255, 300).astype(np.int32)
    assert data.from_arrays(hidden, mask=mask).max_level == 255


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold"])
def test_hiding_entries_changes_no_other_draw(binarization):
    pixels = RNG.integers(0, 256, (40, 4, 4), dtype=np.uint8)
    mask = RNG.random(pixels.shape) < 0.5
    key, draws = jax.random.key(3), []
    for given in ({}, {"mask": mask}):
        prepared = data.prepare(data.from_arrays(pixels, **given), binarization=binarization)
        drawn = prepared.train_input(key, prepared.train[:20]), prepared.eval_input(prepared.test)
        draws.append(drawn)
    for complete, hidden in zip(*draws, strict=True):
        np.testing.assert_array_equal(np.asarray(hidden.event), np.where(hidden.mask, complete, 0))
        assert 0.3 < np.mean(hidden.mask) < 0.7


def test_a_mask_of_ones_gives_the_data_set_without_a_mask():
    x = RNG.normal(size=(30, 3)).astype(np.float32)
    plain = data.from_arrays(x)
    for given in ({"mask": np.ones(x.shape, int)}, {"missing": "nan"}, {"mask": np.ones(x.shape, bool), "missing": "nan"}):
        dataset = data.from_arrays(x, **given)
        assert not dataset.has_missing
        assert dataset.fingerprint() == plain.fingerprint()
        assert not isinstance(data.prepare(dataset).train, type(data.prepare(load(with_nan(x))).train))


def test_only_the_parts_with_missing_entries_have_a_mask():
    x = RNG.normal(size=(30, 3)).astype(np.float32)
    dataset = data.from_arrays(x, with_nan(x), missing="nan")
    assert dataset.train_mask is None
    assert dataset.has_missing
    assert dataset.test_mask.shape == x.shape
    assert dataset.train_mean.tobytes() == data.from_arrays(x, x).train_mean.tobytes()
    other = data.from_arrays(with_nan(x), x, missing="nan")
    assert other.test_mask.all()
    prepared = data.prepare(dataset)
    assert prepared.train.mask is None
    assert prepared.eval_input(prepared.test).mask is not None


def test_fingerprints_cover_masks_but_not_what_they_hide():
    x = RNG.normal(size=(20, 3)).astype(np.float32)
    mask = RNG.random(x.shape) < 0.7
    payload = np.full(x.shape, 0x7FC12345, np.uint32).view(np.float32)  # a NaN with other bits
    prints = {
        data.from_arrays(np.where(mask, x, np.float32(np.nan)), missing="nan").fingerprint(),
        data.from_arrays(np.where(mask, x, payload), missing="nan").fingerprint(),
        data.from_arrays(x, mask=mask).fingerprint(),
        data.from_arrays(np.where(mask, x, 9).astype(np.float32), mask=mask).fingerprint(),
        data.from_arrays(np.ma.masked_array(x, ~mask)).fingerprint(),
    }
    assert len(prints) == 1
    others = mask.copy()
    others[0, 0] ^= True
    assert data.from_arrays(np.where(mask, x, 0), mask=others).fingerprint() not in prints | {data.from_arrays(x).fingerprint()}
    zeros = np.where(mask, x, 0).astype(np.float32)
    assert data.from_arrays(zeros).fingerprint() not in prints  # zeros that are observed


def test_an_entry_that_is_never_observed_gets_a_note_and_the_mean_0():
    x = RNG.normal(3, 1, (20, 3))
    x[:, 1] = np.nan
    with pytest.warns(DataWarning, match="the column height is missing in all training examples"):
        dataset = load(x, column_names=["age", "height", "mass"])
    assert dataset.train_mean[1] == 0
    assert data.train_moments(dataset, counts=False).std[1] == 1
    assert np.isfinite(dataset.train_std)


def test_a_mask_that_may_be_inverted_gets_a_note():
    x = RNG.normal(size=(20, 5))
    with pytest.warns(DataWarning, match=r"True or 1 for 20\.0% of the entries.*~mask\.astype\(bool\)"):
        data.from_arrays(x, mask=np.arange(100).reshape(20, 5) % 5 == (np.arange(20) % 5)[:, None])


REFUSED = {
    "shape": ({"mask": np.ones((20, 4))}, r"expected a mask of bool.*\(20, 3\).*got dtype float64.*astype\(bool\)"),
    "columns": ({"mask": np.ones(3, bool)}, r"in the shape of the examples, \(20, 3\), got shape \(3,\).*broadcast_to"),
    "numbers": ({"mask": np.full((20, 3), 255)}, "got integers from 255 to 255"),
    "no part": ({"test_mask": np.ones((20, 3), bool)}, "got test_mask without test examples"),
    "infinity": ({"missing": "nan", "train": np.full((20, 3), np.inf)}, r"got 60 infinite values.*np.isinf\(x\)"),
    "too large": ({"missing": "nan", "train": np.where(np.eye(20, 3), 1e300, np.nan)}, "within the range of float32, got 3"),
    "no option": ({"train": np.where(np.eye(20, 3), np.nan, 1)}, r'NaN marks missing entries, train with `missing="nan"`'),
    "option": ({"missing": "NA"}, 'missing.*"?NA'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(case):
    arguments, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        data.from_arrays(**({"train": np.ones((20, 3)) * np.arange(3)} | arguments))


@pytest.mark.parametrize("kind", ["numbers", "mask"])
def test_sparse_matrices_take_neither_nan_nor_masks(kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    x = np.eye(20, 3)
    given = {"mask": np.ones(x.shape, bool)} if kind == "mask" else {"missing": "nan"}
    x = np.where(x > 0, np.nan, 0) if kind == "numbers" else x
    fix = r"x\.toarray\(\)" if kind == "mask" else 'dense array and pass `missing="nan"`'
    with pytest.raises(UserError, match=fix):
        data.from_arrays(scipy_sparse.csr_array(x), **given)


def test_masks_of_pixels_hold_for_all_channels_in_both_layouts():
    images = RNG.integers(0, 256, (12, 8, 6, 3), dtype=np.uint8)
    mask = RNG.random((12, 8, 6)) < 0.7
    last = data.from_arrays(images, mask=mask, layout="channels_last")
    first = data.from_arrays(np.moveaxis(images, -1, 1), mask=mask, layout="channels_first")
    assert last.fingerprint() == first.fingerprint()
    np.testing.assert_array_equal(last.train_mask[..., 0], last.train_mask[..., 2])
    whole = np.repeat(mask[:, None], 3, axis=1)
    stored = data.from_arrays(np.moveaxis(images, -1, 1), mask=whole, layout="channels_first")
    assert stored.fingerprint() == last.fingerprint()


TABLE = {"a": [1, None, 3, 4] * 5, "b": [0.5, 1.5, None, 2.5] * 5, "c": [True, False, None, True] * 5}


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_missing_values_of_tables_are_missing_entries(tmp_path, kind):
    table = pa.table(TABLE)
    if kind == "arrow":
        dataset = load(table)
    else:
        path = tmp_path / f"x.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            rows = zip(*TABLE.values(), strict=True)
            lines = [",".join("NA" if v is None else str(int(v) if isinstance(v, bool) else v) for v in row) for row in rows]
            path.write_text("\n".join(["a,b,c", *lines]).replace("NA", "", 3) + "\n")
        with pytest.raises(UserError, match=r'15 missing values in a, b and c.*Pass `missing="nan"`'):
            data.load(path)
        dataset = data.load(path, missing="nan", split="last")
    np.testing.assert_array_equal(dataset.train_mask[:4], [[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(dataset.train[:4], [[1, 0.5, 1], [0, 1.5, 0], [3, 0, 0], [4, 2.5, 1]])
    assert dataset.column_names == ("a", "b", "c")


def test_a_first_row_with_an_empty_field_is_not_names(tmp_path):
    (tmp_path / "x.csv").write_text("1.5,,2\n" + "0.5,1,3\n" * 9)
    dataset = data.load(tmp_path / "x.csv", missing="nan", split="last")
    assert (len(dataset.train) + len(dataset.test), dataset.column_names) == (10, None)
    assert dataset.train_mask[0].tolist() == [True, False, True]


def test_a_column_without_any_value_stays_with_the_option(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n" + "1,\n2,\n" * 6)
    with pytest.raises(UserError, match="the columns b have no values"):
        data.load(tmp_path / "x.csv")
    with pytest.warns(DataWarning, match="the column b is missing in all training examples"):
        assert data.load(tmp_path / "x.csv", missing="nan").train_mean[1] == 0


def test_hdf5_files_bring_nan_and_masks(tmp_path):
    h5py = pytest.importorskip("h5py")
    x = RNG.normal(size=(20, 3)).astype(np.float32)
    mask = RNG.random(x.shape) < 0.7
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file["x_train"] = np.where(mask, x, np.nan)
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["x_train"], file["train_mask"] = x, mask
    prints = {data.load(tmp_path / "nan.h5", missing="nan").fingerprint(), data.load(tmp_path / "mask.h5").fingerprint()}
    assert prints == {data.from_arrays(x, mask=mask).fingerprint()}


def test_dequantized_data_and_missing_entries_exclude_each_other():
    images = RNG.integers(0, 256, (20, 4, 4), dtype=np.uint8)
    dataset = data.from_arrays(images, mask=images > 20)
    with pytest.raises(UserError, match="dequantization and missing values exclude each other"):
        data.prepare(dataset, dequantize=True)
    assert dataclasses.is_dataclass(data.prepare(dataset).train)
