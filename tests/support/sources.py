"""Writers of small data sources for the tests of the readers."""

import gzip
import pathlib
import struct

import numpy as np
from PIL import Image


def write_pictures(folder, pictures):
    """Writes a PNG or JPEG file for each name: of an array, or of one level in 3 x 4 pixels."""
    for name, pixels in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.full((3, 4), pixels, np.uint8) if np.isscalar(pixels) else pixels
        Image.fromarray(array).save(path)
    return str(folder)


def write_idx(path, array):
    """Writes an IDX file of unsigned bytes, gzipped where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array, np.uint8)
    content = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_tfds(name, folder, records):
    """Writes a prepared TFDS data set without TensorFlow; `records` has a list of features for each split."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core import example_serializer, naming, splits

    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    place = pathlib.Path(builder.data_dir)
    place.mkdir(parents=True)
    serializer = example_serializer.ExampleSerializer(builder.info.features.get_serialized_info())
    written = []
    for split, examples in records.items():
        writer = ArrayRecordWriter(str(place / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for example in examples:
            # The real features beside those that matter here.
            missing = set(builder.info.features) - set(example)
            writer.write(serializer.serialize_example(example | {key: np.float32(0.5) for key in missing}))
        writer.close()
        template = naming.ShardedFileTemplate(data_dir=place, dataset_name=name, split=split, filetype_suffix="array_record")
        written.append(splits.SplitInfo(name=split, shard_lengths=[len(examples)], num_bytes=1, filename_template=template))
    builder.info.set_splits(splits.SplitDict(written))
    builder.info.write_to_directory(place)
