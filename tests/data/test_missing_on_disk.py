"""Missing entries of data that stay on disk: the same data set and the same run as in memory."""

import dataclasses

import jax
import numpy as np
import pytest

from vae_jax import data, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import prefetch
from vae_jax.errors import UserError

COUNT = 120
SMALL = Config(epochs=2, hidden=(8,), latent_dim=2, batch_size=16, learning_rate=3e-3, validation_fraction=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("missing"), np.random.default_rng(0)
    x = rng.normal(2, 3, (COUNT, 6)).astype(np.float32)
    mask = rng.random(x.shape) < 0.7
    np.save(folder / "nan.npy", np.where(mask, x, np.nan))
    np.save(folder / "infinite.npy", np.where(mask, x, np.inf))
    np.savez(folder / "masked.npz", x_train=np.where(mask, x, 99), x_train_mask=mask)
    np.savez(folder / "both.npz", x_train=np.where(mask, x, np.nan), mask=rng.random(x.shape) < 0.8)
    images = rng.integers(0, 12, (COUNT, 3, 4, 5)).astype(np.int32)
    seen = rng.random(images.shape) < 0.7
    np.savez(folder / "images.npz", x_train=np.where(seen, images, 70000), x_train_mask=seen.astype(np.int8))
    np.savez_compressed(folder / "compressed.npz", x_train=np.where(seen, images, 70000), train_mask=seen)
    pixels = np.where(rng.random((COUNT, 6)) < 0.7, rng.random((COUNT, 6)), np.nan)
    np.save(folder / "pixels.npy", pixels)
    np.save(folder / "complete.npy", x)
    np.savez(folder / "small_mask.npz", x_train=images, mask=seen[:, 0])
    np.savez(folder / "test_only.npz", x_train=x, x_test=np.where(mask, x, np.nan))
    (folder / "apart").mkdir()
    np.save(folder / "apart" / "train.npy", x)
    np.save(folder / "apart" / "train_mask.npy", mask)
    return folder


def load(folder, name, **options):
    return [data.load(folder / name, stream=stream, validation_fraction=0.1, **options) for stream in (False, True)]


FILES = {
    "nan.npy": {"missing": "nan"},
    "masked.npz": {},
    "both.npz": {"missing": "nan"},
    "images.npz": {"layout": "channels_first", "transpose": True, "max_level": 20},
    "compressed.npz": {"layout": "channels_first", "max_level": 11},
    "pixels.npy": {"missing": "nan"},
    "test_only.npz": {"missing": "nan"},
    "apart": {},
}


@pytest.mark.parametrize("name", FILES)
def test_a_data_set_on_disk_equals_the_one_in_memory(folder, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAE_JAX_CACHE", str(folder / "cache"))
        memory, disk = load(folder, name, **FILES[name])
    assert memory.fingerprint() == disk.fingerprint()
    assert memory.missing_fraction == disk.missing_fraction > 0.1
    np.testing.assert_array_equal(memory.train_mean, disk.train_mean)
    assert memory.train_std == disk.train_std
    assert memory.max_level == disk.max_level
    for one, other in zip(*(jax.tree.leaves(data.train_moments(d, counts=False)) for d in (memory, disk)), strict=True):
        np.testing.assert_array_equal(one, other)
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(memory, part), getattr(disk, part))
        np.testing.assert_array_equal(getattr(memory, f"{part}_mask"), getattr(disk, f"{part}_mask"))
    index = np.array([3, 1, 7])
    prepared = [data.prepare(d) for d in (memory, disk)]
    rows = prepared[0].train_rows(index), prefetch.Chunks(prepared[1].train, [index[:, None]], 3)[0]
    first, second = rows[0], rows[1].map(lambda array: array.reshape(3, *memory.train.shape[1:]))
    one, other = (p.train_input(jax.random.key(0), x) for p, x in zip(prepared, (first, second), strict=True))
    np.testing.assert_array_equal(one.event, other.event)
    assert (one.mask is None) == (name == "test_only.npz")
    if one.mask is not None:
        np.testing.assert_array_equal(one.mask, other.mask)
        assert not np.asarray(one.event)[~np.asarray(one.mask)].any()


def test_complete_data_on_disk_have_no_mask(folder):
    memory, disk = load(folder, "complete.npy", missing="nan")
    assert not disk.has_missing
    assert disk.fingerprint() == memory.fingerprint() == load(folder, "complete.npy")[1].fingerprint()


RUNS = {
    "nan.npy": {"missing": "nan", "likelihood": "gaussian", "scale": "shared"},
    "masked.npz": {"likelihood": "gaussian", "mask_input": True},
    "pixels.npy": {"missing": "nan", "likelihood": "bernoulli", "binarize": "threshold"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*list(RUNS)[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in [*RUNS][1:])])
def test_a_streamed_run_has_the_bits_of_the_run_in_memory(folder, name, monkeypatch):
    monkeypatch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 30)
    config = dataclasses.replace(SMALL, dataset=str(folder / name), **RUNS[name])
    fits = []
    for stream in (False, True):
        built = build(dataclasses.replace(config, stream=stream))
        assert "of the entries are missing" in built.data.description
        fits.append(training.fit(built.vae, built.data, **built.fit_arguments))
    assert [fit.status for fit in fits] == ["finished"] * 2
    for one, other in zip(*(jax.tree.leaves(fit.params) for fit in fits), strict=True):
        np.testing.assert_array_equal(one, other)
    assert fits[0].test == fits[1].test


def test_infinity_and_nan_without_the_option_are_refused_on_disk(folder):
    with pytest.raises(UserError, match=r'NaN marks missing entries, train with `missing="nan"`'):
        data.load(folder / "nan.npy", stream=True)
    with pytest.raises(UserError, match="infinite values"):
        data.load(folder / "infinite.npy", stream=True, missing="nan")


def test_a_mask_of_another_shape_is_refused_on_disk(folder):
    with pytest.raises(UserError, match=r"in the shape of the examples, \(120, 3, 4, 5\).*got shape \(120, 4, 5\)"):
        data.load(folder / "small_mask.npz", stream=True, layout="channels_first")
