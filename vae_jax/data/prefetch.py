"""Batches of images on disk, in an epoch's order, read ahead and put on the device by Grain."""

from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax import Array

from vae_jax.data.on_disk import Rows

CHUNK_BYTES = 2**22
_READERS = 4  # threads, each with a chunk of its own: a disk is faster with several requests at once


class Chunks:
    """A random-access source for Grain; item i is the batches of steps i * steps ... (i + 1) * steps - 1 of an order.

    An item is some megabytes, (steps, batch_size, numbers of a row); the last one is filled up with what was in memory.
    """

    def __init__(self, rows: Rows, order: np.ndarray, steps: int):
        self._rows, self._order, self._steps = rows, order, steps

    def __len__(self) -> int:
        return -(-len(self._order) // self._steps)

    def __getitem__(self, i: Any) -> np.ndarray:
        index = self._order[i * self._steps : (i + 1) * self._steps].ravel()
        width = self._rows.size // len(self._rows)
        chunk = np.empty((self._steps, self._order.shape[1], width), self._rows.dtype)
        self._rows.gather(index, chunk.reshape(-1, width)[: len(index)])
        return chunk


def steps_of_chunk(rows: Rows, batch_size: int) -> int:
    """Steps whose batches make up a chunk of some megabytes: at least one, at most an epoch."""
    batch_bytes = rows.size // len(rows) * rows.dtype.itemsize * batch_size
    return max(1, min(CHUNK_BYTES // batch_bytes, len(rows) // batch_size))


def chunks(rows: Rows, order: np.ndarray, steps: int, device: Any) -> Generator[Array]:
    """The batches of the steps of `order`, (steps, batch_size) indices of rows, chunk by chunk, on the device.

    Reading goes on behind what the caller does with a chunk, and the copy to the device behind what the device does: have it
    work on one chunk while you ask for the next. An epoch's order is a function of its
    key, so what is left of it is all that a resumed run needs: the state of Grain's iterator is never saved. What goes
    wrong while a row is read is raised here. Close the iterator where it is not read to its end.
    """
    if not len(order):
        return
    import grain  # a second, which only those who stream wait for

    options = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_READERS)
    source: Any = Chunks(rows, order, steps)
    ahead = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    try:
        for chunk in ahead:
            # While the device is at the chunk before. Grain's own device_put has two more threads, which hang when one dies.
            yield jax.device_put(chunk, device)
    finally:
        ahead.close()
