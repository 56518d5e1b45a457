"""report.html of a run: one self-contained page; the numbers first, then the figures, then how to repeat the run."""

from pathlib import Path

import numpy as np

from vae_jax.build import repeat_command
from vae_jax.report import figures, page, summary
from vae_jax.report.page import Section
from vae_jax.runs import Run, read_config


def _sections(run: Run) -> list[Section]:
    """In the order of the page."""
    seen = summary.pictures(run)
    kl = seen.kl_per_dimension
    sections = []
    if run.metrics:
        caption = "Training values are means over the epoch, with the weights changing underneath."
        sections.append(Section("learning_curves", "Learning curves", caption, figures.learning_curves(run.metrics)))
    sections += [
        Section(
            "reconstructions",
            "Reconstructions",
            "Test images, each above the likelihood's mean E[x|z] at the posterior mean of z.",
            figures.reconstructions(seen.originals, seen.reconstructions),
        ),
        Section(
            "prior_means",
            "Samples from the prior: means",
            f"E[x|z] for z drawn from the {'prior N(0, I)' if run.built.vae.prior is None else 'learned prior'}.",
            figures.grid(seen.prior_means, 16),
        ),
        Section(
            "prior_samples",
            "Samples from the prior: data",
            "x drawn from p(x|z) for the same z, with the likelihood's own noise.",
            figures.grid(seen.prior_samples, 16),
        ),
        Section(
            "kl_per_dimension",
            "KL per latent dimension",
            f"{'' if run.built.vae.prior is None else 'Against N(0, I), not the learned prior. '}Mean over the test set; "
            f"together {kl.sum():.2f} nats. A dimension near 0 is not used.",
            figures.kl_per_dimension(kl),
        ),
    ]
    if len(kl) >= 2:
        first, second = (int(j) for j in np.argsort(-kl)[:2])
        dimensions = (0, 1) if len(kl) == 2 else (first, second)
        words = "the two" if len(kl) == 2 else "the two that carry the most KL"
        caption = f"Posterior means of the test set in {words} dimensions."
        scatter = figures.latent_scatter(seen.posterior_means, dimensions, run.built.dataset.test_labels)
        sections.append(Section("latent_space", "Latent space", caption, scatter))
    if seen.manifold is not None:
        caption = "E[x|z] on a grid of prior quantiles: each tile has the same prior probability."
        sections.append(Section("manifold", "Latent manifold", caption, figures.grid(seen.manifold, 15)))
    return sections


def write_report(run: Run) -> Path:
    """Draws figures/*.png and writes report.html into the run directory; returns the path of the page."""
    config, description = read_config(run.path)
    dataset = Path(config.dataset).name
    widths = "-".join(str(width) for width in (*config.hidden, config.latent_dim))
    lead = f"{page.data_words(dataset, description['data'])} {config.network} {widths}, {config.likelihood} likelihood."
    command = repeat_command(config, Path("runs/repeated"), description.get("data_dir"))
    body = [
        page.notes(run.notes),
        page.table(summary.numbers(run), ("", "value", "remark")),
        page.write_sections(_sections(run), run.path / "figures"),
        page.how_to_repeat("run", command, description),
    ]
    title = f"{dataset} · {config.likelihood} · vae_jax"
    return page.write_page(run.path / "report.html", title, f"VAE on {dataset}", lead, "".join(body))
