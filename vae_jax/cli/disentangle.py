"""`vae-jax disentangle`: disentanglement metrics of every member of a sweep over a data set with known factors."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts, is_sweep
from vae_jax.cli.messages import note
from vae_jax.cli.program import current_program
from vae_jax.cli.user_parts import PartArguments, load_parts
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:
    from vae_jax.disentanglement import Settings
    from vae_jax.sweep.results import Results
    from vae_jax.sweep.statistics import Point, Row

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
    "gaussian_wasserstein_correlation_normalised": "Wasserstein correlation, normalized",
    "average_mutual_information": "average mutual information (nats)",
}


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Score a sweep directory of a data set whose factors are known (sprites, sprites_grid, the files of dSprites, MPI3D ...).

    Writes disentanglement.csv (a row for each member), disentanglement.json (means, standard errors and t-intervals over
    seeds) and figures/disentanglement.png into it. The metrics and their sizes are the published ones (disentanglement_lib), on
    encoder means. The metric dci trains a boosted tree for each value of each factor and takes most of the time.

    Example: vae-jax sweep --dataset sprites --betas 1 4 16 --seeds 0 1 2 --epochs 20 --out runs/sprites &&
    vae-jax disentangle runs/sprites
    """

    sweep: tyro.conf.Positional[Path]
    """A sweep directory."""
    metrics: tuple[str, ...] = ()
    """Metrics to compute: beta_vae, factor_vae, mig, sap, dci, modularity, explicitness, unsupervised. By default all."""
    rows: int = 50_000
    """Images to encode; the metrics draw theirs from these."""
    num_points: int = 10_000
    """Rows, or votes, that a metric is trained on."""
    num_eval: int = 5_000
    """Rows, or votes, that a metric is evaluated on."""
    metric_seed: int = 0
    """Seed of the choice of images and of the metrics; the same for all members."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the sweep found it."""


def check(arguments: Arguments) -> tuple[str, ...]:
    """Returns the names of the metrics to compute. Raises `UserError` for values that are wrong for every sweep."""
    from vae_jax.disentanglement import METRICS

    if not is_sweep(arguments.sweep):
        train = current_program().name("sweep")
        raise UserError(f"{arguments.sweep}: not a sweep directory (it has no sweep.json). Train one with {train}.")
    expect_counts(2, rows=arguments.rows, num_points=arguments.num_points)
    expect_counts(1, num_eval=arguments.num_eval)
    if not 0 <= arguments.metric_seed < 2**31:
        raise UserError(field="metric_seed", expected="a whole number from 0 to 2147483647", got=arguments.metric_seed)
    for name in arguments.metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return arguments.metrics or METRICS


def score(results: "Results", arguments: Arguments, settings: "Settings", names: tuple[str, ...]) -> "list[Row]":
    """Returns a row for each member that ended well: its settings and its scores."""
    from tqdm import tqdm

    from vae_jax.runs.codes_and_factors import disentanglement_scores
    from vae_jax.sweep.results import load_params
    from vae_jax.sweep.statistics import DONE

    good = [row for row in results.rows if row["status"] in DONE]
    if not good:
        raise UserError(f"{results.path}: every member diverged; there is nothing to score.")
    parts = load_parts(arguments, results.path)
    loaded = load_params(results, [row["member"] for row in good], arguments.data_dir, **parts)
    rows = []
    for row in tqdm(good, unit="member", disable=None):
        built, params = loaded[row["member"]]
        scores = disentanglement_scores(built, params, arguments.metric_seed, arguments.rows, settings, names)
        kept = {name: value for name, value in row.items() if name != "kl_per_dimension"}
        rows.append(kept | scores)
    return rows


def print_tables(points: "Sequence[Point]", titles: Mapping[str, str]) -> None:
    """Prints a table for each metric: a line for each setting, with its mean, standard error and interval over the seeds."""
    settings = [", ".join([*([p.group] if p.group else []), *(f"{k} = {v:zg}" for k, v in p.settings.items())]) for p in points]
    width = max(map(len, settings))
    for name, title in titles.items():
        print(f"\n{title}")
        for label, point in zip(settings, points, strict=True):
            one = point.numbers.get(name)
            if one is None:
                continue
            errors = f" +- {one.standard_error:.4f}   [{one.low:z.4f}, {one.high:z.4f}]" if one.n > 1 else ""
            print(f"  {label:{width}}  {one.mean:z8.4f}{errors}   (n = {one.n})")
    print("\nmeans over n seeds +- standard error; [ ]: 95 % t-interval, cut at the least and greatest value of the metric")


def main(argv: Sequence[str] | None = None) -> int:
    """Scores the members of a sweep, prints tables, and returns the exit status."""
    arguments = parse(Arguments, argv, "disentangle")
    names = check(arguments)

    from vae_jax.disentanglement import PUBLISHED, RANGES
    from vae_jax.report.html import write_picture
    from vae_jax.report.sweep.metric_figures import against
    from vae_jax.storage.atomic import write_json, write_text
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.sweep.members import traced_names, varying
    from vae_jax.sweep.results import load_sweep
    from vae_jax.sweep.statistics import points, to_csv

    enable_compilation_cache()
    out = arguments.sweep
    results = load_sweep(out)
    if len(results.rows) < len(results.members):
        note(f"{out}: the sweep is unfinished; {len(results.rows)} of {len(results.members)} members are scored.")
    settings = PUBLISHED._replace(
        num_points=arguments.num_points,
        num_eval=arguments.num_eval,
        num_variance_points=min(arguments.rows, PUBLISHED.num_variance_points),
    )
    rows = score(results, arguments, settings, names)
    titles = {name: title for name, title in TITLES.items() if name in rows[0]}
    varied = [name for name in varying(results.members) if name in traced_names() and name != "seed"]
    over_seeds = points(rows, varied, list(titles), RANGES)
    figure = against(over_seeds, rows, next(iter(varied), "beta"), titles)
    (out / "figures").mkdir(exist_ok=True)
    write_text(out / "disentanglement.csv", to_csv(rows, list(rows[0])))
    content = {
        "points": [
            {"group": p.group, **p.settings, **{name: numbers._asdict() for name, numbers in p.numbers.items()}}
            for p in over_seeds
        ],
        "interval": "t, 95 %, over seeds, cut at the least and the greatest value that a score can have",
        "settings": settings._asdict() | {"rows": arguments.rows, "metric_seed": arguments.metric_seed},
    }
    write_json(out / "disentanglement.json", content)
    picture = out / "figures" / "disentanglement.png"
    write_picture(picture, figure)
    print_tables(over_seeds, titles)
    print(f"table: {out / 'disentanglement.csv'}\nfigure: {picture}")
    return 0
