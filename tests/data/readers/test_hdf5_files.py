"""HDF5 files: 3D Shapes, arrays by their names, rows left on disk, and links that are never followed."""

import itertools
import sys

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data import Rows
from vae_jax.data.readers.paths import read_path
from vae_jax.errors import DataWarning, UserError

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 5, 4, 3), np.uint8)
VALUES = [[0.0, 0.1], [0.0], [0.3, 0.9], [0.75, 1.25], [0.0, 1.0, 2.0], [-30.0]]  # of each factor of 3D Shapes
LABELS = np.array(list(itertools.product(*VALUES)))
CLASSES = np.array(list(itertools.product(*[range(len(values)) for values in VALUES])))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))


def write(path, arrays, **options):
    with h5py.File(path, "w", **options.pop("file", {})) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return path


def test_3d_shapes_is_read_with_its_factors(tmp_path):
    path = write(tmp_path / "3dshapes.h5", {"images": IMAGES, "labels": LABELS})
    with pytest.warns(DataWarning, match="the factors wall_hue and orientation have one value in all images"):
        dataset = data.load(str(path), split="last", test_fraction=0.25)
    np.testing.assert_array_equal(dataset.train, IMAGES[:18])
    np.testing.assert_array_equal(dataset.test, IMAGES[18:])
    assert dataset.factor_names == ("floor_hue", "object_hue", "scale", "shape")
    np.testing.assert_array_equal(dataset.train_factors, CLASSES[:18, [0, 2, 3, 4]])
    np.testing.assert_array_equal(dataset.test_factors, CLASSES[18:, [0, 2, 3, 4]])
    assert dataset.train_labels is None
    with pytest.warns(DataWarning, match="wall_hue"):
        streamed = data.load(str(path), split="last", test_fraction=0.25, stream=True)
    assert isinstance(streamed.train, Rows)
    np.testing.assert_array_equal(streamed.train[:], IMAGES[:18])
    np.testing.assert_array_equal(streamed.train_factors, dataset.train_factors)
    assert streamed.fingerprint() == dataset.fingerprint()
    assert not (tmp_path / "cache").exists()


LAYOUTS = {
    "contiguous": {},
    "user block of 512": {"file": {"userblock_size": 512}},
    "user block of 1024": {"file": {"userblock_size": 1024}},
    "newest format": {"file": {"libver": "latest"}},
    "chunks": {"chunks": True},
    "compressed": {"chunks": (7, 2, 4, 3), "compression": "gzip", "shuffle": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8"])
def test_rows_are_read_from_the_file_or_from_a_copy(tmp_path, layout, dtype):
    path = write(tmp_path / "x.bin", {"images": IMAGES.astype(dtype)}, **LAYOUTS[layout])
    in_memory, streamed = read_path(path), read_path(path, stream=True)
    assert isinstance(streamed.train, Rows)
    for rows in (in_memory.train, streamed.train[:]):
        np.testing.assert_array_equal(rows, IMAGES)
        assert rows.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(streamed.train[np.array([20, 3])], IMAGES[[20, 3]])
    copies = list((tmp_path / "cache").rglob("*.npy"))
    is_copied = layout in ("chunks", "compressed")
    assert len(copies) == is_copied
    if is_copied:
        written = copies[0].stat().st_mtime_ns
        np.testing.assert_array_equal(read_path(path, stream=True).train[:], IMAGES)
        assert copies[0].stat().st_mtime_ns == written
    assert data.load(str(path), stream=True).fingerprint() == data.load(str(path)).fingerprint()


def test_a_changed_file_is_copied_again(tmp_path):
    path = write(tmp_path / "x.h5", {"images": IMAGES}, chunks=True)
    read_path(path, stream=True)
    write(path, {"images": IMAGES[::-1]}, chunks=True)
    np.testing.assert_array_equal(read_path(path, stream=True).train[:], IMAGES[::-1])


def test_an_array_that_was_never_written_is_zeros(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", (3, 2, 2), "u1", fillvalue=7)
    for stream in (False, True):
        np.testing.assert_array_equal(read_path(tmp_path / "x.h5", stream=stream).train[:], np.full((3, 2, 2), 7))


def test_a_copy_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", {"images": IMAGES}, chunks=True)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"'images' unpacks to .* has 0.0 GiB left. Set VAE_JAX_CACHE"):
        read_path(path, stream=True)
    assert list((tmp_path / "cache").rglob("*.npy")) == []


def test_a_failed_copy_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", {"images": IMAGES}, chunks=(4, 5, 4, 3), compression="gzip")
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["images"].id.get_chunk_info(3)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    for stream in (False, True):
        with pytest.raises(UserError, match=r"x\.h5: cannot be read.*It is damaged"):
            read_path(path, stream=stream)
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_arrays_are_chosen_by_their_names(tmp_path):
    arrays = {
        "x_train": IMAGES,
        "y_train": np.arange(24),
        "x_test": IMAGES[:5] + 1,
        "y_test": np.arange(5),
        "other": np.arange(3),
    }
    arrays |= {"valid/images": IMAGES[2:9], "valid/labels": np.arange(7)}
    path = write(tmp_path / "x.h5", arrays)
    with pytest.warns(DataWarning, match="other is not used"):
        dataset = data.load(str(path))
    np.testing.assert_array_equal(dataset.train, IMAGES)
    np.testing.assert_array_equal(dataset.test, IMAGES[:5] + 1)
    np.testing.assert_array_equal(dataset.validation, IMAGES[2:9])
    np.testing.assert_array_equal(dataset.train_labels, np.arange(24))
    np.testing.assert_array_equal(dataset.test_labels, np.arange(5))
    np.testing.assert_array_equal(dataset.validation_labels, np.arange(7))


def test_an_array_is_named(tmp_path):
    path = write(tmp_path / "x.h5", {"deep/inside": IMAGES, "second": IMAGES[:, :2]})
    with pytest.raises(UserError, match=r'expected an array named images.*got deep/inside and second.*`array="deep/inside"`'):
        data.load(str(path))
    with pytest.warns(DataWarning, match="second is not used"):
        dataset = data.load(str(path), array="deep/inside", split="last")
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test]), IMAGES)
    with pytest.raises(UserError, match="deep/insid"):
        data.load(str(path), array="deep/insid")
    with pytest.raises(UserError, match="label_column"):
        data.load(str(path), array="second", label_column="x")


def test_links_to_other_files_are_never_followed(tmp_path):
    write(tmp_path / "secret.h5", {"images": IMAGES})
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = h5py.ExternalLink("secret.h5", "/images")
        file["train"] = h5py.SoftLink("/images")
        file["data"] = IMAGES[:3]
    with pytest.raises(UserError, match="unknown array 'images'"):
        data.load(str(tmp_path / "x.h5"), array="images")
    np.testing.assert_array_equal(read_path(tmp_path / "x.h5").train, IMAGES[:3])
    with h5py.File(tmp_path / "only.h5", "w") as file:
        file["images"] = h5py.ExternalLink("secret.h5", "/images")
    with pytest.raises(UserError, match=r"got none. Links to other files are not followed"):
        data.load(str(tmp_path / "only.h5"))


@pytest.mark.parametrize("stream", [False, True])
def test_arrays_stored_in_other_files_are_refused(tmp_path, stream):
    write(tmp_path / "secret.h5", {"images": IMAGES})
    layout = h5py.VirtualLayout(IMAGES.shape, "u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", IMAGES.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    (tmp_path / "raw.bin").write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("images", IMAGES.shape, "u1", external=[(str(tmp_path / "raw.bin"), 0, IMAGES.size)])
    for name in ("virtual", "external"):
        with pytest.raises(UserError, match="takes its numbers from other files, which are not opened"):
            data.load(str(tmp_path / f"{name}.h5"), stream=stream)


def test_damaged_files_are_refused(tmp_path):
    content = write(tmp_path / "x.h5", {"images": IMAGES}).read_bytes()
    for length in (0, 8, 100, 1000, len(content) - 500):
        (tmp_path / "x.h5").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"x\.h5: cannot be read"):
            data.load(str(tmp_path / "x.h5"))
    (tmp_path / "y.h5").write_bytes(content[:600] + bytes(RNG.integers(0, 256, len(content) - 600, np.uint8)))
    with pytest.raises(UserError, match=r"y\.h5"):
        data.load(str(tmp_path / "y.h5"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a", "b"], dtype="S1"), "expected integers or floats"),
        (np.zeros(4, [("a", "f4")]), "Save one of its fields"),
        (np.zeros((0, 2, 2)), "at least one example"),
        (np.float32(3), "."),
        (np.full((4, 2, 2), np.nan), "NaN"),
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path, array, message):
    path = write(tmp_path / "x.h5", {"images": array})
    for stream in (False, True):
        with pytest.raises(UserError, match=message):
            data.load(str(path), stream=stream)


def test_an_array_larger_than_the_memory_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", (10**9, 1000, 1000), "f8", chunks=(1, 1000, 1000))
    with pytest.raises(UserError, match="unpacks to"):
        data.load(str(tmp_path / "x.h5"))


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", {"images": IMAGES})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py. Install it by: pip install 'vae_jax\[hdf5\]'"):
        data.load(str(path))
