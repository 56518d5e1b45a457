"""Disentanglement metrics of every member of a sweep over a data set with known factors: a table, intervals, a figure."""

import environment  # noqa: F401

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from common import is_sweep, parse, run_script

from vae_jax.errors import UserError, unknown

TITLES = {
    "beta_vae_score": "BetaVAE score",
    "factor_vae_score": "FactorVAE score",
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "modularity": "modularity",
    "explicitness": "explicitness",
    "gaussian_total_correlation": "Gaussian total correlation (nats)",
    "gaussian_wasserstein_correlation": "Wasserstein correlation (squared)",
    "gaussian_wasserstein_correlation_normalised": "Wasserstein correlation, normalised",
    "average_mutual_information": "average mutual information (nats)",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score a sweep directory of a data set whose factors are known (sprites, sprites_grid, TFDS dsprites or shapes3d).

    Writes disentanglement.csv (a row for each member), disentanglement.json (means, standard errors and t-intervals over
    seeds) and figures/disentanglement.png into it. The metrics and their sizes are the published ones (disentanglement_lib), on
    encoder means; `dci` trains a boosted tree for each value of each factor and takes most of the time.

    Example: python experiments/sweep.py --dataset sprites --betas 1 4 16 --seeds 0 1 2 --epochs 20 --out runs/sprites &&
    python experiments/disentanglement.py runs/sprites
    """

    sweep: tyro.conf.Positional[Path]
    """A sweep directory written by sweep.py."""
    metrics: tuple[str, ...] = ()
    """Which to compute: beta_vae, factor_vae, mig, sap, dci, modularity, explicitness, unsupervised; all without."""
    rows: int = 50_000
    """Images to encode; the metrics draw theirs from these."""
    num_points: int = 10_000
    """Rows, or votes, that a metric is trained on."""
    num_eval: int = 5_000
    """Rows, or votes, that it is evaluated on."""
    metric_seed: int = 0
    """Seed of the choice of images and of the metrics; the same for all members."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the sweep found it."""


def score(results: Any, arguments: Arguments, settings: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for each member that ended well: its settings and its scores."""
    import jax
    from tqdm import tqdm

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.disentanglement import all_metrics
    from vae_jax.runs.evaluate_run import representation
    from vae_jax.sweep.results import load_params
    from vae_jax.sweep.statistics import DONE

    good = [row for row in results.rows if row["status"] in DONE]
    if not good:
        raise UserError(f"{results.path}: every member diverged; there is nothing to score.")
    loaded = load_params(results, [row["member"] for row in good], arguments.data_dir)
    key_rows, key_metrics = jax.random.split(stream(arguments.metric_seed, Stream.DISENTANGLEMENT))
    rows = []
    for row in tqdm(good, unit="member", disable=None):
        built, params = loaded[row["member"]]
        codes, factors = representation(built, params, key_rows, arguments.rows)
        scores = all_metrics(key_metrics, codes, factors, settings, only=names)
        kept = {name: value for name, value in row.items() if name != "kl_per_dimension"}
        rows.append(kept | scores)
    return rows


def print_tables(gathered: Sequence[Any], titles: dict[str, str]) -> None:
    """Prints a table for each metric: a line for each setting, with its mean, standard error and interval over the seeds."""
    words = [", ".join([*([p.group] if p.group else []), *(f"{k} = {v:zg}" for k, v in p.settings.items())]) for p in gathered]
    width = max(map(len, words))
    for name, title in titles.items():
        print(f"\n{title}")
        for word, point in zip(words, gathered, strict=True):
            one = point.numbers.get(name)
            if one is None:
                continue
            errors = f" +- {one.standard_error:.4f}   [{one.low:z.4f}, {one.high:z.4f}]" if one.n > 1 else ""
            print(f"  {word:{width}}  {one.mean:z8.4f}{errors}   (n = {one.n})")
    print("\nmeans over n seeds +- standard error; [ ]: 95 % t-interval, cut at the least and greatest value of the metric")


def main() -> int:
    """Parses, scores, writes, prints."""
    arguments = parse(Arguments)
    if not is_sweep(arguments.sweep):
        raise UserError(f"{arguments.sweep}: not a sweep directory (it has no sweep.json). Train one with sweep.py.")
    for name, least in (("rows", 2), ("num_points", 2), ("num_eval", 1)):
        if getattr(arguments, name) < least:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}: expected a whole number >= {least}, got {getattr(arguments, name)}.")
    if not 0 <= arguments.metric_seed < 2**31:
        raise UserError(f"--metric-seed: expected a whole number from 0 to 2147483647, got {arguments.metric_seed}.")
    from vae_jax.disentanglement import METRICS, PUBLISHED, RANGES

    for name in arguments.metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    from vae_jax.report.html import write_picture
    from vae_jax.report.sweep.metric_figures import against
    from vae_jax.storage.atomic import write_json, write_text
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.sweep.members import traced_names, varying
    from vae_jax.sweep.results import load_sweep
    from vae_jax.sweep.statistics import points, to_csv

    enable_compilation_cache()
    out, names = arguments.sweep, arguments.metrics or METRICS
    results = load_sweep(out)
    if len(results.rows) < len(results.members):
        done = f"{len(results.rows)} of {len(results.members)} members"
        print(f"note: {out}: the sweep is unfinished; {done} are scored.", file=sys.stderr)
    settings = PUBLISHED._replace(
        num_points=arguments.num_points,
        num_eval=arguments.num_eval,
        num_variance_points=min(arguments.rows, PUBLISHED.num_variance_points),
    )
    rows = score(results, arguments, settings, names)
    titles = {name: title for name, title in TITLES.items() if name in rows[0]}
    varied = [name for name in varying(results.members) if name in traced_names() and name != "seed"]
    gathered = points(rows, varied, list(titles), RANGES)
    across = next(iter(varied), "beta")
    figure = against(gathered, rows, across, titles)
    (out / "figures").mkdir(exist_ok=True)
    write_text(out / "disentanglement.csv", to_csv(rows, list(rows[0])))
    content = {
        "points": [
            {"group": p.group, **p.settings, **{name: numbers._asdict() for name, numbers in p.numbers.items()}}
            for p in gathered
        ],
        "interval": "t, 95 %, over seeds, cut at the least and the greatest value that a score can have",
        "settings": settings._asdict() | {"rows": arguments.rows, "metric_seed": arguments.metric_seed},
    }
    write_json(out / "disentanglement.json", content)
    picture = out / "figures" / "disentanglement.png"
    write_picture(picture, figure)
    print_tables(gathered, titles)
    print(f"table: {out / 'disentanglement.csv'}\nfigure: {picture}")
    return 0


if __name__ == "__main__":
    run_script(main)
