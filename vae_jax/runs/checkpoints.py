"""Checkpoints of a run by Orbax: the last few and the best parameters, written atomically, checked when read."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.atomic import as_json
from vae_jax.training import Best, PartialEpoch, StepMetrics, TrainState


def digest(tree: Any) -> str:
    """SHA-256 over the paths, shapes, dtypes and bytes of all arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        sha.update(array.data)
    return sha.hexdigest()


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their paths, whether its nodes are dicts or NamedTuples."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _cannot_write(folder: Path, error: Exception) -> OSError:
    """One line for a full disk and the like, which Orbax and tensorstore report in many ways."""
    words = " ".join(str(error).split())
    known = (os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
    reason = next((text for text in known if text in words), words[:160])
    return OSError(f"{folder}: a checkpoint could not be written: {reason}")


# An epoch -> its test ELBO (of a block, the list of its members') in metrics.jsonl, None where it is not there.
Told = Callable[[int], Any]


class Checkpoints:
    """The checkpoints of one run directory, named by their epoch. Each holds the epoch's test ELBO, to be known by."""

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports each of its steps, and its errors twice
        self._ocp = ocp
        self._folder = folder.absolute()
        self._damaged: set[int] = set()  # found to be so by `restore`
        self._manager = ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep))

    def save(self, epoch: int, state: TrainState, best: Best, test_elbo: Any = None) -> None:
        """Copies to the host and returns; the files are written behind and appear at once when complete.

        Args:
          epoch, state, best: to be saved.
          test_elbo: what metrics.jsonl says of this epoch, for `restore`; of several members a list.
        """
        self._save(epoch, {"state": state, "best": best}, {"epoch": epoch, "test_elbo": test_elbo})

    def save_partial(self, epoch: int, state: TrainState, best: Best, partial: PartialEpoch, test_elbo: Any = None) -> None:
        """The same in the middle of the epoch after `epoch`. In a folder of its own: it is named by the steps of the run."""
        tree = {"state": state, "best": best, "record": partial.record}
        meta = {"epoch": epoch, "test_elbo": test_elbo, "steps": partial.steps, "seconds": partial.seconds}
        self._save(int(state.step), tree, meta)

    def _save(self, name: int, tree: Any, meta: dict[str, Any]) -> None:
        tree = jax.device_get(tree)
        arguments = self._ocp.args.Composite(
            tree=self._ocp.args.StandardSave(tree), meta=self._ocp.args.JsonSave({**meta, "sha256": digest(tree)})
        )
        try:
            if name in self._names():  # a damaged one, passed over by `restore`
                self._manager.delete(name)
                self._damaged.discard(name)
            self._manager.save(name, args=arguments, force=True)
        except Exception as error:
            raise _cannot_write(self._folder, error) from None

    def epochs(self) -> list[int]:
        """Epochs of the complete checkpoints, oldest first, without those that `restore` passed over."""
        return [name for name in self._names() if name not in self._damaged]

    def _names(self) -> list[int]:
        self._wait()  # one that is being written is complete only then
        return sorted(self._manager.all_steps(read=True))

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise _cannot_write(self._folder, error) from None

    def restore(
        self, like: tuple[TrainState, Best], told: Told | None = None
    ) -> tuple[int, TrainState, Best, list[str]] | None:
        """The newest checkpoint that can be read and whose checksum is right, or None where there is none at all.

        Args:
          like: a state and a best of the same run, for shapes and dtypes.
          told: what metrics.jsonl says of an epoch; a checkpoint that says something else belongs to another run.

        Returns:
          (epoch, state, best, complaints about newer checkpoints that were passed over).

        Raises:
          UserError: where checkpoints exist and none is good.
        """
        found, complaints = self._newest({"state": like[0], "best": like[1]}, told, lambda meta, tree: meta["epoch"])
        if found is not None:
            return found[1]["epoch"], found[0]["state"], found[0]["best"], complaints
        if complaints:
            raise UserError(f"{self._folder}: no good checkpoint. {complaints[0]}")
        return None

    def restore_partial(
        self, like: tuple[TrainState, Best, StepMetrics], told: Told | None = None
    ) -> tuple[tuple[int, TrainState, Best, PartialEpoch] | None, list[str]]:
        """((epochs before it, state, best, partial) of the newest that is good or None, complaints) of those by `save_partial`.

        Args:
          like: as of `restore`, and a record of an epoch's steps.
          told: as of `restore`.
        """
        template: dict[str, Any] = dict(zip(("state", "best", "record"), like, strict=True))
        found, complaints = self._newest(template, told, lambda meta, tree: int(tree["state"].step))
        last_good = int(found[0]["state"].step) if found else -1
        for name in self._names():
            if name > last_good:  # damaged; as the newest it would be kept before those that the run writes next
                self._manager.delete(name)
        if found is None:
            return None, complaints
        tree, meta = found
        partial = PartialEpoch(meta["steps"], tree["record"], meta["seconds"])
        return (meta["epoch"], tree["state"], tree["best"], partial), complaints

    def _newest(
        self, like: dict[str, Any], told: Told | None, name_of: Callable[[Any, Any], int]
    ) -> tuple[tuple[dict[str, Any], dict[str, Any]] | None, list[str]]:
        """((arrays, meta) of the newest good checkpoint or None, complaints about those passed over)."""
        complaints: list[str] = []
        for name in reversed(self.epochs()):
            try:
                tree, meta = self._read(name, like)
                if name_of(meta, tree) != name:
                    raise ValueError(f"it is checkpoint {name_of(meta, tree)}")
                if told is not None and "test_elbo" in meta:  # which older versions did not write
                    here, there = (json.dumps(as_json(elbo)) for elbo in (meta["test_elbo"], told(meta["epoch"])))
                    if here != there:
                        raise ValueError(f"its test ELBO of epoch {meta['epoch']} is {here}, in metrics.jsonl it is {there}")
                return (tree, meta), complaints
            except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged file
                if not (self._folder / str(name)).exists():  # a process that trains has removed it, and written newer ones
                    return self._newest(like, told, name_of)
                reason = " ".join(str(error).split())[:160]
                self._damaged.add(name)
                complaints.append(
                    f"checkpoint {name} is damaged or belongs to another run or model and was passed over: {reason}"
                )
        return None, complaints

    def _read(self, epoch: int, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        restored = self._manager.restore(
            epoch, args=self._ocp.args.Composite(tree=self._ocp.args.StandardRestore(), meta=self._ocp.args.JsonRestore())
        )
        # By the names of the arrays: a version may have added fields that hold none, such as the state of an objective.
        found, template = _named(restored["tree"]), _named(like)
        if found.keys() != template.keys():
            raise ValueError(f"its arrays are others: {sorted(found.keys() ^ template.keys())[:3]}")
        for name, old in template.items():
            new = found[name]
            if np.shape(old) != new.shape or old.dtype != new.dtype:
                raise ValueError(f"{name}: expected {np.shape(old)} {old.dtype}, got {new.shape} {new.dtype}")
        tree = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(found[name]) for name in template])
        if digest(tree) != restored["meta"]["sha256"]:
            raise ValueError("its checksum is wrong")
        return jax.tree.map(jnp.asarray, tree), restored["meta"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._wait()
        try:
            self._manager.close()
        except Exception as error:
            raise _cannot_write(self._folder, error) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
