"""Batches of images on disk in the order of an epoch, read ahead and copied to the device by Grain."""

from collections.abc import Generator

import jax
import numpy as np
from jax import Array

from vae_jax.data.on_disk import Rows

CHUNK_BYTES = 2**22
_NUM_READERS = 4  # threads that read one chunk each: a disk is faster with several requests at once


class Chunks:
    """Random-access source for Grain. Item i holds the batches of steps i * steps to (i + 1) * steps - 1 of an order.

    An item has a few megabytes and the shape (steps, batch_size, numbers of a row). Steps past the end of the order hold
    arbitrary bytes.
    """

    def __init__(self, rows: Rows, order: np.ndarray, steps: int):
        self._rows, self._order, self._steps = rows, order, steps

    def __len__(self) -> int:
        return -(-len(self._order) // self._steps)

    def __getitem__(self, index: int) -> np.ndarray:
        row_index = self._order[index * self._steps : (index + 1) * self._steps].ravel()
        width = self._rows.size // len(self._rows)
        chunk = np.empty((self._steps, self._order.shape[1], width), self._rows.dtype)
        self._rows.gather(row_index, chunk.reshape(-1, width)[: len(row_index)])
        return chunk


def steps_of_chunk(rows: Rows, batch_size: int) -> int:
    """Returns the number of steps whose batches make up a chunk of a few megabytes: at least one, at most an epoch."""
    batch_bytes = rows.size // len(rows) * rows.dtype.itemsize * batch_size
    return max(1, min(CHUNK_BYTES // batch_bytes, len(rows) // batch_size))


def chunks(rows: Rows, order: np.ndarray, steps: int, device: object) -> Generator[Array]:
    """Yields the batches of an epoch on the device, a chunk of several steps at a time.

    Reading runs ahead of the caller, and copies to the device run while the device computes. To profit from this, let the
    device compute on one chunk while asking for the next. The order of an epoch is a function of its key, so a resumed run
    needs only the rest of it: the state of Grain's iterator is never saved. Errors of reading a row are raised here. Close the
    iterator where it is not read to its end.

    Args:
      rows: the training images.
      order: indices of rows, (steps of the epoch, batch_size).
      steps: steps in a chunk.
      device: where the chunks are needed: a `jax.Device` or a `Sharding`.

    Yields:
      Arrays of shape (steps, batch_size, numbers of a row).
    """
    if not len(order):
        return
    import grain  # takes a second, which only streaming needs

    options = grain.ReadOptions(num_threads=_NUM_READERS, prefetch_buffer_size=_NUM_READERS)
    ahead = iter(grain.MapDataset.source(Chunks(rows, order, steps)).to_iter_dataset(options))
    try:
        for chunk in ahead:
            # Runs while the device computes on the chunk before. Grain's device_put would add two threads, which hang when one
            # of them fails.
            yield jax.device_put(chunk, device)
    finally:
        ahead.close()
