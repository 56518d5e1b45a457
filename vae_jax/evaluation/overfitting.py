"""Detects overfitting in the curves of a finished run: a held-out ELBO that peaked while the training ELBO still rose."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Overfit(NamedTuple):
    """The best held-out ELBO of a run next to that of the evaluated parameters, both in nats per example."""

    split: str  # "validation", or "test" for a run without a validation set
    best_epoch: int
    best_elbo: float
    epoch: int
    elbo: float

    @property
    def fall(self) -> float:
        """Nats lost since the best epoch."""
        return self.best_elbo - self.elbo


def overfit(metrics: Sequence[Mapping[str, Any]], epoch: int | None = None) -> Overfit | None:
    """Detects a held-out ELBO that clearly peaked before the evaluated epoch while the training ELBO still rose.

    Both curves are first smoothed by a running median over a tenth of the epochs, at most five. The fall counts as clear if it
    exceeds two standard errors over the examples and four times the usual change from one epoch to the next. The standard
    error is that of one epoch's mean. The difference of two epochs on the same examples is less uncertain.

    Args:
      metrics: one record per epoch, in order, as in metrics.jsonl: epoch, train_elbo, and test_elbo or validation_elbo with
        its standard error.
      epoch: epoch of the evaluated parameters, the last one by default.

    Returns:
      The observation, on the validation set if there is one. None if the run does not overfit, has fewer than three epochs,
      or has values that are missing or not finite.

    Example:
      >>> curves = zip([-9, -7, -6, -5, -4], [-9, -7, -6.5, -7.5, -9])
      >>> metrics = [{"epoch": i, "train_elbo": a, "test_elbo": b} for i, (a, b) in enumerate(curves, 1)]
      >>> overfit(metrics)
      Overfit(split='test', best_epoch=3, best_elbo=-6.5, epoch=5, elbo=-9)
    """
    split = "validation" if metrics and "validation_elbo" in metrics[0] else "test"
    name = f"{split}_elbo"
    until = [line for line in metrics if epoch is None or line["epoch"] <= epoch]
    if len(until) < 3 or not all(math.isfinite(line.get(key, math.nan)) for line in until for key in (name, "train_elbo")):
        return None
    values = [line[name] for line in until]
    width = max(1, min(5, len(until) // 10))
    held_out, train = (_running_median([line[key] for line in until], width) for key in (name, "train_elbo"))
    peak = max(range(len(held_out)), key=held_out.__getitem__)
    usual_change = statistics.median(abs(b - a) for a, b in itertools.pairwise(values))
    error = until[-1].get(f"{name}_standard_error", math.nan)
    # The standard error of a single example is NaN: one nat takes its place.
    least_fall = max(1.0 if math.isnan(error) else 2 * error, 4 * usual_change if len(values) > 10 else 0.0)
    if held_out[peak] - held_out[-1] <= least_fall or train[-1] <= train[peak]:
        return None
    best = max(range(len(values)), key=values.__getitem__)
    return Overfit(split, until[best]["epoch"], values[best], until[-1]["epoch"], values[-1])


def _running_median(values: Sequence[float], width: int) -> list[float]:
    """Returns the median of every window of `width` values."""
    return [statistics.median(values[i : i + width]) for i in range(len(values) - width + 1)]


def describe_overfit(observed: Overfit) -> str:
    """Returns one or two sentences for the user about an overfit run and its remedy."""
    best = f"after epoch {observed.best_epoch} ({observed.best_elbo:z.2f})"
    return (
        f"overfitting: the {observed.split} ELBO was best {best} and is {observed.elbo:z.2f} after epoch {observed.epoch}, "
        f"while the training ELBO rose. {early_stopping_advice(observed.split)}"
    )


def early_stopping_advice(split: str) -> str:
    """Returns the remedy for overfitting that was observed on this split."""
    if split == "validation":
        return "Add `early_stopping=10`, which keeps the best parameters by the validation ELBO."
    return (
        "Hold out validation data and stop by them (`validation_fraction=0.1` `early_stopping=10`): an epoch chosen by the "
        "test set would make its numbers too good."
    )
