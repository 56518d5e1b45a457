"""Pictures in Parquet files, in the layout of Hugging Face's data sets."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from vae_jax import data
from vae_jax.data.readers.paths import read_path
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import DataWarning, UserError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (7, 5, 4), np.uint8)
COLOR = RNG.integers(0, 256, (7, 5, 4, 3), np.uint8)
NAMES = ["airplane", "cat", "dog"]


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, images, labels=None, image="image", label="label", with_metadata=True, names=NAMES):
    """Rows {bytes, path}, int64 labels, and the schema's metadata that the data sets library reads back."""
    contents = [image if image is None or isinstance(image, bytes) else encoded(image) for image in images]
    rows = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(contents)]
    columns = {image: pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    features = {image: {"_type": "Image"}}
    if labels is not None:
        columns[label] = pa.array(labels, pa.int64())
        features[label] = {"names": names, "_type": "ClassLabel"}
    table = pa.table(columns)
    if with_metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize("images", [GRAY, COLOR])
def test_pictures_and_labels_are_read(tmp_path, images):
    labels = [0, 2, 1, 1, 0, 2, 2]
    path = write(tmp_path / "train-00000-of-00001.parquet", images, labels)
    split = read_path(path)
    np.testing.assert_array_equal(split.train, images)
    np.testing.assert_array_equal(split.train_labels, labels)
    assert split.label_names == tuple(NAMES)
    dataset = data.load(str(path), split="last")
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test]).reshape(images.shape), images)
    assert dataset.max_level == 255
    assert dataset.label_names == tuple(NAMES)


def test_other_names_of_columns(tmp_path):
    """CIFAR-100's columns, without metadata, and a column of plain bytes."""
    split = read_path(write(tmp_path / "x.parquet", COLOR, range(7), "img", "fine_label", with_metadata=False))
    np.testing.assert_array_equal(split.train, COLOR)
    np.testing.assert_array_equal(split.train_labels, range(7))
    assert split.label_names is None
    table = pa.table({"image": pa.array([encoded(pixels) for pixels in GRAY]), "weight": np.arange(7.0)})
    parquet.write_table(table, tmp_path / "y.parquet")
    with pytest.warns(DataWarning, match="weight is not used"):
        dataset = data.load(str(tmp_path / "y.parquet"), split="last")
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test])[..., 0], GRAY)
    split = read_path(tmp_path / "y.parquet", options=ReadOptions(label_column="weight"))
    np.testing.assert_array_equal(split.train_labels, np.arange(7))


def test_columns_beside_pictures_are_conditions(tmp_path):
    path = write(tmp_path / "x.parquet", GRAY, [0, 2, 0, 0, 2, 2, 0])
    table = parquet.read_table(path).append_column("age", pa.array(np.linspace(0.5, 6.5, 7)))
    parquet.write_table(table, path)
    dataset = data.load(path, condition="age,label", split="last")
    assert dataset.condition.columns[1].categories == ("airplane", "dog")
    np.testing.assert_array_equal(dataset.train_condition, np.stack([np.arange(6) + 0.5, [0, 1, 0, 0, 1, 1]], axis=1))
    assert dataset.notes == ()
    with pytest.raises(UserError, match="unknown column 'image'"):
        data.load(path, condition="image")


def test_gray_pictures_among_color_get_three_channels(tmp_path):
    split = read_path(write(tmp_path / "x.parquet", [GRAY[0], COLOR[1], GRAY[2]]))
    np.testing.assert_array_equal(split.train, [np.stack([GRAY[0]] * 3, -1), COLOR[1], np.stack([GRAY[2]] * 3, -1)])


def test_pictures_of_several_sizes_are_resized(tmp_path):
    path = write(tmp_path / "x.parquet", [GRAY[0], GRAY[1, :, :3]])
    with pytest.raises(UserError, match=r"row 1 of 'image': expected images of one size.*`resize=64`"):
        data.load(str(path))
    assert read_path(path, options=ReadOptions(resize=(6, 8))).train.shape == (2, 6, 8)


BAD = {
    "no bytes": ({"images": [GRAY[0], None]}, "row 1 of 'image', got none"),
    "no picture": ({"images": [GRAY[0], b"GIF89a"]}, "row 1 of 'image': not a readable image"),
    "label": ({"images": GRAY, "labels": [0, 1, 2, 3, 0, 0, 0]}, "labels from 0 to 2 in 'label'. The file is damaged"),
    "hidden labels": ({"images": GRAY, "labels": [-1] * 7}, "labels from 0 to 2 in 'label'. Leave these rows out"),
    "no rows": ({"images": []}, "expected 0 pictures"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_pictures_are_refused(tmp_path, kind):
    arguments, message = BAD[kind]
    with pytest.raises(UserError, match=message):
        data.load(str(write(tmp_path / "x.parquet", **arguments)))


@pytest.mark.parametrize("metadata", ["", "{", "[]", '{"info": 3}', '{"info": {"features": {"label": 1}}}', "[" * 10**5])
def test_damaged_metadata_are_no_obstacle(tmp_path, metadata):
    path = write(tmp_path / "x.parquet", GRAY, range(7))
    table = parquet.read_table(path).replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, path)
    split = read_path(path)
    np.testing.assert_array_equal(split.train, GRAY)
    assert split.label_names is None
