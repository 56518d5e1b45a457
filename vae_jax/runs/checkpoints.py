"""Checkpoints of a run by Orbax: the last few and the best parameters, written atomically and checked when they are read."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.atomic import JsonObject, as_json
from vae_jax.training import Best, PartialEpoch, StepMetrics, TrainState

Arrays = Any  # a pytree of arrays
_CHUNK_BYTES, _FILE_BYTES = 2**22, 2**25  # of a checkpoint that is written in little memory

# Maps an epoch to its test ELBO in metrics.jsonl, or None if it has none. For a block of a sweep: the list over its members.
RecordedElbo = Callable[[int], float | list[float | None] | None]


def digest(tree: Arrays) -> str:
    """Returns the SHA-256 of the paths, shapes, dtypes and bytes of all arrays in a tree."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(_on_host(leaf))
        sha.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        sha.update(array.data)
    return sha.hexdigest()


def _on_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """Returns an array on the host, not kept by that on the devices. It is a view of an array on a single CPU device."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    host = [(shard.index, np.asarray(shard.data)) for shard in leaf.addressable_shards]
    if host[0][1].shape == leaf.shape:
        return host[0][1]
    whole = np.empty(leaf.shape, leaf.dtype)
    for index, part in host:
        whole[index] = part
    return whole


def _registry_in_little_memory(ocp: Any) -> Any:
    """Returns Orbax's handlers, of which that of arrays copies and compresses one array at a time."""
    handlers = ocp.type_handlers

    class OneAtATime(handlers.NumpyHandler):
        """Writes arrays on devices as those of NumPy, so that the files are those of a write in the background."""

        async def serialize(self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None) -> list[Any]:
            for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
                for written in await super().serialize([_on_host(value)], [info], [arg]):
                    written.result()
            return []

        async def deserialize(self, infos: Sequence[Any], args: Sequence[Any] | None = None) -> list[np.ndarray]:
            args = args or [ocp.RestoreArgs()] * len(infos)
            return [
                (await super(OneAtATime, self).deserialize([info], [arg]))[0] for info, arg in zip(infos, args, strict=True)
            ]

    handler = OneAtATime(deepcopy_host_arrays=False)
    types = handlers.create_type_handler_registry((np.ndarray, handler), (jax.Array, handler))
    trees, registry = ocp.PyTreeCheckpointHandler(type_handler_registry=types), ocp.handlers.DefaultCheckpointHandlerRegistry()
    for arguments in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add("tree", arguments, trees)
    json_handler = ocp.JsonCheckpointHandler()
    for arguments in (ocp.args.JsonSave, ocp.args.JsonRestore):
        registry.add("meta", arguments, json_handler)
    return registry


def _by_path(tree: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays of a tree by their paths, which are the same for dicts and NamedTuples."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _write_error(folder: Path, error: Exception) -> OSError:
    """Returns a one-line error for a full disk and the like, which Orbax and tensorstore report in many ways."""
    text = " ".join(str(error).split())
    known = (os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
    reason = next((reason for reason in known if reason in text), text[:160])
    return OSError(f"{folder}: a checkpoint could not be written: {reason}")


class Restored(NamedTuple):
    """A checkpoint that was read."""

    epoch: int
    state: TrainState
    best: Best
    complaints: list[str]  # about newer checkpoints that were skipped


class RestoredPartial(NamedTuple):
    """A checkpoint from the middle of an epoch that was read."""

    epoch: int  # whole epochs before it
    state: TrainState
    best: Best
    partial: PartialEpoch


class _Content(NamedTuple):
    """Content of one checkpoint."""

    tree: dict[str, Arrays]
    meta: JsonObject


class Checkpoints:
    """The checkpoints in one folder, named by their epoch.

    Each contains the test ELBO of its epoch, which shows whether it belongs to the run.

    Args:
      folder: of the checkpoints.
      keep: the newest ones that are kept.
      in_little_memory: write them before `save` returns, a few megabytes at a time, instead of a copy in the background, which
        together with its compressed bytes takes twice the memory of the state. The files are read by either.
    """

    def __init__(self, folder: Path, keep: int = 2, in_little_memory: bool = False):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs each of its steps, and its errors twice
        self._ocp = ocp
        self._folder = folder.absolute()
        self._damaged: set[int] = set()  # noticed by `restore`
        self._in_little_memory = in_little_memory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep), enable_async_checkpointing=not in_little_memory
        )
        registry = _registry_in_little_memory(ocp) if in_little_memory else None
        self._manager = ocp.CheckpointManager(self._folder, options=options, handler_registry=registry)

    def save(self, epoch: int, state: TrainState, best: Best, test_elbo: float | list[float | None] | None = None) -> None:
        """Copies the state to the host and returns. The files are written in the background and appear once complete.

        Args:
          epoch: number of whole epochs.
          state: after this epoch.
          best: the best parameters so far.
          test_elbo: the test ELBO of this epoch in metrics.jsonl, which `restore` compares. For several members a list.
        """
        self._save(epoch, {"state": state, "best": best}, {"epoch": epoch, "test_elbo": test_elbo})

    def save_partial(
        self,
        epoch: int,
        state: TrainState,
        best: Best,
        partial: PartialEpoch,
        test_elbo: float | None = None,
    ) -> None:
        """Saves a state from the middle of an epoch, as `save` does.

        Such checkpoints are named by the step of the run, so they need a folder for themselves.

        Args:
          epoch: number of whole epochs before it.
          state: after the last step.
          best: the best parameters so far.
          partial: the completed part of the epoch.
          test_elbo: the test ELBO of `epoch` in metrics.jsonl.
        """
        tree = {"state": state, "best": best, "record": partial.record}
        meta = {"epoch": epoch, "test_elbo": test_elbo, "steps": partial.steps, "seconds": partial.seconds}
        self._save(int(state.step), tree, meta)

    def _save(self, name: int, tree: Arrays, meta: JsonObject) -> None:
        if self._in_little_memory:
            small = jax.tree.map(lambda _: self._ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree)
            size = {"save_args": small, "ocdbt_target_data_file_size": _FILE_BYTES}
            save_tree = self._ocp.args.PyTreeSave(tree, **size)
        else:
            tree = jax.device_get(tree)
            save_tree = self._ocp.args.StandardSave(tree)
        arguments = self._ocp.args.Composite(tree=save_tree, meta=self._ocp.args.JsonSave({**meta, "sha256": digest(tree)}))
        try:
            if name in self._names():  # a damaged one that `restore` skipped
                self._manager.delete(name)
                self._damaged.discard(name)
            self._manager.save(name, args=arguments, force=True)
        except Exception as error:
            raise _write_error(self._folder, error) from None

    def epochs(self) -> list[int]:
        """Returns the epochs of the complete checkpoints, oldest first, without those that `restore` skipped."""
        return [name for name in self._names() if name not in self._damaged]

    def _names(self) -> list[int]:
        self._wait()  # a checkpoint that is being written is not complete before
        self._manager.reload()  # another process may have written or removed some
        return sorted(self._manager.all_steps())

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise _write_error(self._folder, error) from None

    def restore(self, like: tuple[TrainState, Best], recorded_elbo: RecordedElbo | None = None) -> Restored | None:
        """Reads the newest checkpoint that is intact and belongs to the run.

        Args:
          like: a state and a best of the same run, for shapes and dtypes.
          recorded_elbo: the test ELBO of an epoch in metrics.jsonl. A checkpoint with a different one belongs to a different
            run and is skipped.

        Returns:
          The checkpoint with complaints about the newer ones that were skipped, or None if the folder has none.

        Raises:
          UserError: checkpoints exist, but none of them is good.
        """
        newest, complaints = self._newest(
            {"state": like[0], "best": like[1]}, recorded_elbo, lambda content: content.meta["epoch"]
        )
        if newest is not None:
            return Restored(newest.meta["epoch"], newest.tree["state"], newest.tree["best"], complaints)
        if complaints:
            raise UserError(f"{self._folder}: no good checkpoint. {complaints[0]}")
        return None

    def restore_partial(
        self, like: tuple[TrainState, Best, StepMetrics], recorded_elbo: RecordedElbo | None = None
    ) -> tuple[RestoredPartial | None, list[str]]:
        """Reads the newest good checkpoint that `save_partial` wrote, and removes newer ones, which are damaged.

        Args:
          like: a state, a best and the metrics of all steps of an epoch, for shapes and dtypes.
          recorded_elbo: as for `restore`.

        Returns:
          The checkpoint, or None if none is good, and complaints about those that were skipped.
        """
        template: dict[str, Arrays] = dict(zip(("state", "best", "record"), like, strict=True))
        newest, complaints = self._newest(template, recorded_elbo, lambda content: int(content.tree["state"].step))
        last_good = int(newest.tree["state"].step) if newest else -1
        for name in self._names():
            if name > last_good:  # as the newest, it would be kept in place of those that the run writes next
                self._manager.delete(name)
        if newest is None:
            return None, complaints
        tree, meta = newest
        partial = PartialEpoch(meta["steps"], tree["record"], meta["seconds"])
        return RestoredPartial(meta["epoch"], tree["state"], tree["best"], partial), complaints

    def _newest(
        self, like: dict[str, Arrays], recorded_elbo: RecordedElbo | None, expected_name: Callable[[_Content], int]
    ) -> tuple[_Content | None, list[str]]:
        """Returns the newest good checkpoint, or None, and complaints about those that were skipped."""
        complaints: list[str] = []
        for name in reversed(self.epochs()):
            try:
                content = self._read(name, like)
                if expected_name(content) != name:
                    raise ValueError(f"it is checkpoint {expected_name(content)}")
                _check_elbo(content.meta, recorded_elbo)
                return content, complaints
            except Exception as error:  # Orbax and tensorstore raise many kinds of errors for a damaged file
                if not (self._folder / str(name)).exists():  # a process that trains has removed it and written newer ones
                    return self._newest(like, recorded_elbo, expected_name)
                reason = " ".join(str(error).split())[:160]
                self._damaged.add(name)
                complaints.append(
                    f"checkpoint {name} is damaged or belongs to a different run or model and was skipped: {reason}"
                )
        return None, complaints

    def _read(self, epoch: int, like: dict[str, Arrays]) -> _Content:
        arguments = self._ocp.args
        restore_tree = arguments.PyTreeRestore() if self._in_little_memory else arguments.StandardRestore()
        restored = self._manager.restore(
            epoch, args=self._ocp.args.Composite(tree=restore_tree, meta=self._ocp.args.JsonRestore())
        )
        # Arrays are compared by name, because a version may have added fields without arrays, such as an objective's state.
        arrays, template = _by_path(restored["tree"]), _by_path(like)
        if arrays.keys() != template.keys():
            raise ValueError(f"it contains different arrays: {sorted(arrays.keys() ^ template.keys())[:3]}")
        for name, old in template.items():
            shape, dtype = arrays[name].shape, arrays[name].dtype
            if np.shape(old) != shape or old.dtype != dtype:
                raise ValueError(f"{name}: expected {np.shape(old)} {old.dtype}, got {shape} {dtype}")
        tree = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(arrays[name]) for name in template])
        meta = restored["meta"]
        if digest(tree) != meta["sha256"]:
            raise ValueError("its checksum is wrong")
        leaves, structure = jax.tree.flatten(tree)
        del restored, arrays, tree  # each array is given back once it is copied
        leaves.reverse()
        return _Content(jax.tree.unflatten(structure, [jnp.asarray(leaves.pop()) for _ in range(len(leaves))]), meta)

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        self._wait()
        try:
            self._manager.close()
        except Exception as error:
            raise _write_error(self._folder, error) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_elbo(meta: JsonObject, recorded_elbo: RecordedElbo | None) -> None:
    """Raises ValueError if a checkpoint does not have the test ELBO that metrics.jsonl records for its epoch."""
    if recorded_elbo is None or "test_elbo" not in meta:  # earlier versions did not write it
        return
    here, there = (json.dumps(as_json(elbo)) for elbo in (meta["test_elbo"], recorded_elbo(meta["epoch"])))
    if here != there:
        raise ValueError(f"its test ELBO of epoch {meta['epoch']} is {here}, but metrics.jsonl has {there}")
