"""report.html: one self-contained page; the numbers first, then the figures, then how to repeat the run."""

import base64
import io
import json
import os
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vae_jax.build import repeat_command
from vae_jax.report import figures, summary
from vae_jax.runs import Run, read_config

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p.lead { color: #616e7c; margin-top: .2rem; } .note { background: #fff3c4; padding: .5rem .8rem; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; } td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb; }
td.value { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; } td.remark { color: #616e7c; }
img { max-width: 100%; }
pre { background: #f5f7fa; padding: .8rem; overflow-x: auto; border-radius: 4px; }
figure { margin: 0; } figcaption { color: #616e7c; font-size: .9rem; }
"""


def _sections(run: Run) -> list[tuple[str, str, str, Figure]]:
    """(file name, title, caption, figure) in the order of the page."""
    seen = summary.pictures(run)
    kl = seen.kl_per_dimension
    sections = []
    if run.metrics:
        caption = "Training values are means over the epoch, with the weights changing underneath."
        sections.append(("learning_curves", "Learning curves", caption, figures.learning_curves(run.metrics)))
    sections += [
        (
            "reconstructions",
            "Reconstructions",
            "Test images, each above the likelihood's mean E[x|z] at the posterior mean of z.",
            figures.reconstructions(seen.originals, seen.reconstructions),
        ),
        (
            "prior_means",
            "Samples from the prior: means",
            f"E[x|z] for z drawn from the {'prior N(0, I)' if run.built.vae.prior is None else 'learned prior'}.",
            figures.grid(seen.prior_means, 16),
        ),
        (
            "prior_samples",
            "Samples from the prior: data",
            "x drawn from p(x|z) for the same z, with the likelihood's own noise.",
            figures.grid(seen.prior_samples, 16),
        ),
        (
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
        scatter = figures.latent_scatter(seen.posterior_means, dimensions, run.built.dataset.test_labels)
        sections.append(("latent_space", "Latent space", f"Posterior means of the test set in {words} dimensions.", scatter))
    if seen.manifold is not None:
        caption = "E[x|z] on a grid of prior quantiles: each tile has the same prior probability."
        sections.append(("manifold", "Latent manifold", caption, figures.grid(seen.manifold, 15)))
    return sections


def write_report(run: Run) -> Path:
    """Draws figures/*.png and writes report.html into the run directory; returns the path of the page."""
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    body = []
    for name, title, caption, figure in _sections(run):
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        _replace(folder / f"{name}.png", buffer.getvalue())
        encoded = base64.b64encode(buffer.getvalue()).decode()
        body.append(
            f'<h2>{escape(title)}</h2><figure><img alt="{escape(title)}" src="data:image/png;base64,{encoded}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    page = run.path / "report.html"
    _replace(page, _page(run, "".join(body)).encode())
    return page


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _page(run: Run, figures_html: str) -> str:
    config, description = read_config(run.path)
    facts = description["data"]
    dataset = escape(Path(config.dataset).name)
    shape = " × ".join(str(size) for size in facts["shape"])
    widths = "-".join(str(width) for width in (*config.hidden, config.latent_dim))
    lead = (
        f"{dataset}: {facts['train_examples']} training and {facts['test_examples']} test examples of {shape}, "
        f"{escape(facts['treatment'])}; split: {escape(facts['split'])}. {escape(config.network)} {widths}, "
        f"{escape(config.likelihood)} likelihood."
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in run.notes)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="value">{escape(value)}</td><td class="remark">{escape(remark)}</td></tr>'
        for name, value, remark in summary.numbers(run)
    )
    command = repeat_command(config, Path("runs/repeated"), description.get("data_dir"))
    settings = escape(json.dumps(description, indent=2))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{dataset} · {escape(config.likelihood)} · '
        f"vae_jax</title><style>{_STYLE}</style></head><body><h1>VAE on {dataset}</h1>"
        f'<p class="lead">{lead}</p>{notes}<table>{rows}</table>{figures_html}'
        f"<h2>How to repeat this run</h2><pre>{escape(command)}</pre>"
        f"<p>All settings, versions and the fingerprint of the data:</p><pre>{settings}</pre></body></html>\n"
    )
