"""Metrics of the members of a sweep, one after the other, for `on_epoch`."""

from collections import Counter
from collections.abc import Iterable, Sequence

from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.storage.atomic import JsonObject
from vae_jax.sweep.members import Group, varying
from vae_jax.training import MembersProgress
from vae_jax.training.metrics import OnEpoch, epoch_metrics
from vae_jax.training.queue import QueueProgress


class MemberMetrics:
    """Passes the metrics of each member that has completed an epoch to a function.

    There is one call for each member, so a function that logs one run logs each member of a sweep as well.

    Args:
      members: of the whole sweep.
      on_epoch: the function.
    """

    def __init__(self, members: Sequence[Config], on_epoch: OnEpoch) -> None:
        self._names, self._on_epoch = varying(members), on_epoch
        self._num_reported: Counter[int] = Counter()  # epochs by member, for members that do not start together

    def skip(self, lines: Iterable[JsonObject]) -> None:
        """Leaves out the epochs that an earlier process has reported, the lines of its metrics.jsonl."""
        self._num_reported.update(line["member"] for line in lines if not line.get("diverged"))

    def report(self, group: Group, built: Built, progress: MembersProgress | QueueProgress) -> bool:
        """Calls the function for the epoch that a group has completed; returns True if a call returned True."""
        batch_size = built.config.batch_size
        num_used = len(built.dataset.train) // batch_size * batch_size
        results = []
        for number, config, history in zip(group.members, group.configs, progress.histories, strict=True):
            if isinstance(progress, QueueProgress):
                is_new = len(history) > self._num_reported[number]
                self._num_reported[number] = max(len(history), self._num_reported[number])
            else:  # the others ended in an earlier epoch, or diverged in this one
                is_new = len(history) == progress.epoch
            if history and is_new:
                metrics = epoch_metrics(history[-1], num_used, sum(epoch.seconds for epoch in history))
                results.append(self._on_epoch({"member": number, **self._settings(config), **metrics}))
        return any(results)

    def _settings(self, config: Config) -> dict[str, float]:
        """Returns the numbers in which the members differ."""
        values = ((name, getattr(config, name)) for name in self._names)
        return {name: value for name, value in values if isinstance(value, int | float) and not isinstance(value, bool)}
