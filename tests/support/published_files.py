"""Writers of published binary formats, from their descriptions alone."""

import numpy as np

NORB = "smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing"
_NORB_MAGIC = {"uint8": 507333717, "int32": 507333716}


def norb_bytes(array):
    """Returns an array in the format of smallNORB: type, number of axes, at least three sizes, numbers, little-endian."""
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    header = np.array([_NORB_MAGIC[str(array.dtype)], array.ndim, *sizes], "<i4")
    return header.tobytes() + np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def cifar_bytes(images, *labels):
    """Returns records of label bytes and planes R, G, B of images (examples, 32, 32, 3)."""
    records = b""
    for index, image in enumerate(images):
        records += bytes(int(column[index]) for column in labels) + b"".join(image[..., c].tobytes() for c in range(3))
    return records
