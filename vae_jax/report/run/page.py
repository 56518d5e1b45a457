"""report.html of a run: one self-contained page; the numbers first, then the figures, then how to repeat the run."""

from pathlib import Path

import numpy as np

from vae_jax.evaluation.overfitting import describe_overfit, overfit
from vae_jax.model import num_parameters
from vae_jax.report import html as page
from vae_jax.report.html import Section
from vae_jax.report.run import content as summary
from vae_jax.report.run import evaluation_table as evaluated
from vae_jax.report.run import figures, latent, latent_figures
from vae_jax.runs import Run, read_config
from vae_jax.runs.in_words import describe_network, repeat_command

_SPAN = 3  # of traversals, in prior standard deviations
_MOST_ROWS, _MOST_PANELS, _MOST_PAIRS, _STEPS = 10, 12, 6, 7
_ABOUT_KL = {
    False: (
        "Above each panel, the mean over the test set of KL(q(z_j|x) ‖ p(z_j)), and KL(q(z_j) ‖ p(z_j)), the distance of the "
        "two curves; the difference is the information that z_j has of x."
    ),
    True: "Above each panel, the mean over the test set of the KL of q(z_j|x), which is not the distance of the two curves.",
}
_PRIOR_WORDS = {False: "the prior N(0, 1)", True: "the learned prior, from draws"}


def _sections(run: Run) -> list[Section]:
    """In the order of the page."""
    seen = summary.pictures(run)
    kl = seen.kl_per_dimension
    sections: list[Section] = []
    if run.metrics:
        curves = figures.learning_curves(run.metrics)
        caption = f"Training values are means over the epoch, with the weights changing underneath.{figures.cut_off(curves)}"
        sections.append(Section("learning_curves", "Learning curves", caption, curves))
        path = figures.rate_distortion(run.metrics, run.epoch)
        caption = (
            "On the test set after each epoch, β = 1 whatever was trained on; the ring marks the parameters that this report "
            "shows. Grey lines: equal ELBO, −(rate + distortion), which grows towards the lower left. The epochs after the "
            f"first tenth set the scale.{figures.cut_off(path)}"
        )
        sections.append(Section("rate_distortion", "Rate and distortion", caption, path))
    sections += [
        Section(
            "reconstructions",
            "Reconstructions",
            f"Test images as the model sees them ({run.built.data.description}), each above the likelihood's mean E[x|z] at "
            f"the posterior mean of z.{seen.views.scale}",
            figures.reconstructions(seen.originals, seen.reconstructions),
        ),
        Section(
            "prior_means",
            "Means E[x|z] for z from the prior",
            f"E[x|z] for z drawn from the {'prior N(0, I)' if run.built.vae.prior is None else 'learned prior'}: means, not "
            f"draws of x.{seen.views.scale}",
            figures.grid(seen.prior_means, 16),
        ),
        Section(
            "prior_samples",
            "Samples of x from the model",
            f"x drawn from p(x|z) for the same z, with the likelihood's own noise.{seen.views.scale}",
            figures.grid(seen.prior_samples, 16),
        ),
        Section(
            "kl_per_dimension",
            "KL per latent dimension",
            f"{'' if run.built.vae.prior is None else 'Against N(0, I), not the learned prior. '}Mean over the test set; "
            f"together {kl.sum():z.2f} nats{_most_of(kl)}. A dimension near 0 is not used.",
            figures.kl_per_dimension(kl),
        ),
        *_latent_sections(run, seen),
    ]
    if len(kl) >= 2:
        first, second = (int(j) for j in np.argsort(-kl)[:2])
        dimensions = (0, 1) if len(kl) == 2 else (first, second)
        words = "" if len(kl) == 2 else " that carry the most KL"
        caption = f"Posterior means of the test set in the two dimensions{words}."
        scatter = figures.latent_scatter(seen.posterior_means, dimensions, run.built.dataset.test_labels)
        sections.append(Section("latent_space", "Latent space", caption, scatter))
    if seen.manifold is not None:
        caption = "E[x|z] on a grid of prior quantiles: each tile has the same prior probability."
        sections.append(Section("manifold", "Latent manifold", caption, figures.grid(seen.manifold, 15)))
    return sections


def _most_of(kl: np.ndarray) -> str:
    """How many dimensions carry nearly all of the KL."""
    if len(kl) < 2 or not kl.sum() > 0:
        return ""
    count = int(np.argmax(np.cumsum(np.sort(kl)[::-1]) >= 0.95 * kl.sum())) + 1
    return f", of which {count} of the {len(kl)} dimensions carr{'ies' if count == 1 else 'y'} 95 %"


def _latent_sections(run: Run, seen: summary.Pictures) -> list[Section]:
    """The aggregate posterior, one test image along the latent dimensions, and lines between test images."""
    kl, learned = seen.kl_per_dimension, run.built.vae.prior is not None
    prior = latent.prior_shape(run.built, run.params)
    panels = latent.by_kl(kl, _MOST_PANELS)
    aggregate = latent.aggregate(seen.posterior_means, seen.posterior_log_scales, panels, prior)
    aggregate_kl = [None] * len(panels) if learned else latent.aggregate_kl(aggregate).tolist()
    panel_names = [latent_figures.panel_name(j, kl, own) for j, own in zip(panels, aggregate_kl, strict=True)]
    moved = latent.by_kl(kl, _MOST_ROWS)
    offsets = np.linspace(-_SPAN, _SPAN, 2 * _STEPS - 1)  # the animation's; every other one is a column of the grid
    half = len(seen.codes) // 2
    pairs = range(min(_MOST_PAIRS, half))  # far apart in the test set, where the classes may be sorted
    codes = latent.traversal_codes(seen.codes[0], moved, offsets, prior)
    between = latent.interpolation_codes(seen.codes[:half][: len(pairs)], seen.codes[half : half + len(pairs)], _STEPS)
    images = latent.decode(seen.views, run.params, np.concatenate([c.reshape(-1, len(kl)) for c in (codes, between)]))
    along = images[: len(moved) * len(offsets)].reshape(len(moved), len(offsets), *images.shape[1:])
    lines = images[len(moved) * len(offsets) :].reshape(len(pairs), _STEPS, *images.shape[1:])

    own = (seen.codes[0, moved] - prior.mean[moved]) / prior.std[moved]
    names = [latent_figures.name(j, kl) for j in moved]
    reference = np.stack([seen.originals[0], seen.reconstructions[0]])
    chosen = f"the {len(moved)} of {len(kl)} dimensions with the most KL" if len(moved) < len(kl) else "every dimension"
    unit = "prior standard deviations" + (" from the learned prior's mean" if learned else "")
    against = " KL against N(0, I)." if learned else ""
    sections: list[Section] = [
        Section(
            "aggregate_posterior",
            "Aggregate posterior and prior",
            f"Filled: q(z_j) = 1/N Σ q(z_j|x_n) over the {len(seen.posterior_means)} test examples, the mixture itself without "
            f"draws of z. Dashed: {_PRIOR_WORDS[learned]}. Where the two differ, codes drawn from the prior are not like those "
            f"of data. {_ABOUT_KL[learned]} Each panel has its own scales. {_chosen(len(panels), len(kl))}{against}",
            latent_figures.aggregate_panels(aggregate, panel_names, _PRIOR_WORDS[learned]),
        ),
        Section(
            "traversal",
            "Latent traversal",
            f"E[x|z] as one dimension at a time moves from −{_SPAN} to {_SPAN} {unit}, the others at the posterior mean of the "
            f"test image at the top; {chosen}, largest first. In a row without change the decoder ignores the dimension. KL: "
            f"of q(z_j|x), the mean over the test set.{against}{seen.views.scale}",
            latent_figures.traversal(
                along[:, ::2],
                names,
                offsets[::2],
                own,
                reference,
                latent.image_name(run.built, int(seen.views.places[0])),
                learned,
            ),
        ),
        Section(
            "traversal",
            "Latent traversal, moving",
            f"The same in motion: each tile moves its own dimension from −{_SPAN} to {_SPAN} {unit} and back, all others as in "
            "the test image. What changes in a tile is what its dimension stands for.",
            latent_figures.animation(along, [f"z[{j}]" for j in moved], (f"−{_SPAN}", f"{_SPAN}")),
        ),
    ]
    if pairs:
        row_names = [f"{seen.views.places[i]} → {seen.views.places[half + i]}" for i in pairs]
        caption = (
            "E[x|z] along the straight line between the posterior means of two test images, shown at either end and numbered "
            "on the left. Straight lines rather than great circles: posterior means do not lie on the sphere that draws of "
            f"N(0, I) are near.{seen.views.scale}"
        )
        figure = latent_figures.interpolation(
            lines, seen.originals[: len(pairs)], seen.originals[half : half + len(pairs)], row_names
        )
        sections.append(Section("interpolation", "Interpolation", caption, figure))
    return sections


def _chosen(shown: int, count: int) -> str:
    return f"The {shown} of {count} dimensions with the most KL." if shown < count else "Largest KL first."


def _observations(run: Run) -> list[str]:
    """Returns what the curves show that a reader should know first."""
    found = overfit(run.metrics, run.epoch)
    words = "" if found is None else describe_overfit(found).replace("`", "")
    return [f"{words[0].upper()}{words[1:]}"] if words else []


def write_report(run: Run) -> Path:
    """Draws figures/*.png and traversal.gif, and writes report.html into the run directory; returns the path of the page."""
    config, description = read_config(run.path)
    dataset = Path(config.dataset).name
    network = f"{describe_network(config)}, {config.likelihood} likelihood. {num_parameters(run.built.vae):,} parameters."
    lead = f"{page.data_words(dataset, description['data'])} {network}"
    command = repeat_command(config, Path("runs/repeated"), description.get("data_dir"))
    body = [
        page.notes([*run.notes, *_observations(run), *evaluated.warnings(run)]),
        page.table(summary.numbers(run), ("", "value", "remark")),
        evaluated.section(run),
        page.write_sections(_sections(run), run.path / "figures"),
        page.how_to_repeat("run", command, description),
    ]
    title = f"{dataset} · {config.likelihood} · vae_jax"
    return page.write_page(run.path / "report.html", title, f"VAE on {dataset}", lead, "".join(body))
