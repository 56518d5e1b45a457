"""Metrics of an epoch as names and numbers, the argument of every `on_epoch`, and a bar that shows them."""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TypeAlias

from vae_jax.training.progress import Epoch

# Called with the metrics of an epoch by `fit`, `runs.train`, `sweep.sweep` and `sweep.directory.run_sweep`, which end if it
# returns True.
OnEpoch: TypeAlias = Callable[[Mapping[str, float]], bool | None]


def epoch_metrics(epoch: Epoch, num_used: int, wall_seconds: float) -> dict[str, float]:
    """Returns the metrics of an epoch, as a line of metrics.jsonl has them.

    Args:
      epoch: the result of the epoch.
      num_used: training examples that were used in it.
      wall_seconds: time since the beginning of the run.

    Returns:
      epoch and step, counted from 1; train_elbo, train_loss, train_log_likelihood, train_kl and further terms of the objective,
      means over the epoch; test_elbo, test_log_likelihood, test_kl and their standard errors after it, and the same of the
      validation set, where there is one, in nats per example; seconds, wall_seconds and train_examples_per_second. Sweeps add
      the member and the numbers in which members differ.
    """
    line: dict[str, float] = {
        "epoch": epoch.epoch,
        "step": epoch.step,
        "train_elbo": epoch.train.log_likelihood - epoch.train.kl,
    }
    line |= {f"train_{name}": value for name, value in epoch.train._asdict().items() if name != "extra"}
    line |= {f"train_{name}": value for name, value in epoch.train.extra.items()}
    for name, means in (("test", epoch.test), ("validation", epoch.validation)):
        if means is not None:
            line |= {f"{name}_{field}": value for field, value in means._asdict().items()}
    return line | {
        "seconds": epoch.seconds,
        "wall_seconds": wall_seconds,
        "train_examples_per_second": num_used / epoch.seconds,
    }


def progress_bar(epochs: int, num_members: int = 1) -> OnEpoch:
    """Makes a bar over epochs for `fit(..., on_epoch=progress_bar(epochs))`, by `tqdm.auto`.

    It is a widget in notebooks that have ipywidgets, and a line of text on stdout elsewhere.

    Args:
      epochs: of the run.
      num_members: of a sweep, whose epochs the bar counts together.

    Returns:
      A function of the metrics that never ends the run. The bar appears at once, so that it shows the time of compilation too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm.auto warns, and draws text
        from tqdm.auto import tqdm
    bar = tqdm(total=epochs * num_members, unit="epoch" if num_members == 1 else "member-epoch", file=sys.stdout)

    def show(metrics: Mapping[str, float]) -> None:
        if not bar.n and num_members == 1:  # a resumed run begins later
            bar.n = bar.initial = int(metrics["epoch"]) - 1
        bar.set_postfix_str(f"test ELBO {metrics['test_elbo']:z.2f}, KL {metrics['test_kl']:z.2f}", refresh=False)
        bar.update()
        if bar.n >= bar.total:
            bar.close()

    return show
