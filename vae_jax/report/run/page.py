"""The report.html of a run: one self-contained page with the numbers, the figures, and the command that repeats the run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vae_jax.evaluation.overfitting import describe_overfit, overfit
from vae_jax.model import num_parameters
from vae_jax.report import html
from vae_jax.report.html import Section
from vae_jax.report.run import content, evaluation_table, figures, latent, latent_figures
from vae_jax.report.run.conditions import condition_sections
from vae_jax.report.run.content import Pictures, given_captions
from vae_jax.report.run.events import sections as event_sections
from vae_jax.report.run.events.panels import displayed_kind
from vae_jax.report.run.events.table_sections import table_sections
from vae_jax.report.run.latent import PriorShape
from vae_jax.runs import Run, read_config
from vae_jax.runs.in_words import describe_network, describe_part, describe_posterior_part, repeat_command
from vae_jax.runs.length import describe_lengths
from vae_jax.runs.notation import Notation
from vae_jax.runs.posterior_facts import about_dimensions, posterior_facts
from vae_jax.runs.trained.initial import describe_lineage

_SPAN = 3  # of traversals, in prior standard deviations
_MAX_ROWS, _MAX_PANELS, _MAX_PAIRS, _STEPS = 10, 12, 6, 7


def write_report(run: Run) -> Path:
    """Draws figures/*.png (and traversal.gif of images), writes report.html into the run directory, and returns its path."""
    config, description = read_config(run.path)
    dataset, notation = Path(run.built.dataset.name).name, Notation.of(run.built)
    parts = description.get("parts", {})
    likelihood = describe_part(config, "likelihood", parts)
    is_diagonal = run.built.vae.posterior is None
    posterior = "" if is_diagonal else f", {describe_posterior_part(config, run.built, parts)} posterior"
    network = (
        f"{describe_network(config, parts)}, {likelihood} likelihood{posterior}. {num_parameters(run.built.vae):,} parameters."
    )
    origin = [describe_lineage(description.get("init_from")), describe_lengths(description)]
    lead = " ".join(filter(None, [html.describe_data(dataset, description["data"]), network, *origin]))
    more = {"records": parts, "init": run.built.init, "devices": description.get("devices", 1)}
    command = repeat_command(config, Path("runs/repeated"), description.get("data_dir"), **more)
    pictures = content.pictures(run)
    body = [
        html.notes([*run.notes, *_observations(run), *evaluation_table.warnings(run)]),
        notation.translate(html.quantity_table(content.quantities(run))),
        html.quantity_table(rows) if (rows := content.givens(run)) else "",
        notation.translate(evaluation_table.section(run)),
        notation.translate(table_sections(run, pictures)),
        html.write_sections([in_notation(section, notation) for section in _sections(run, pictures)], run.path / "figures"),
        html.repeat_section("run", command, description),
    ]
    title = f"{dataset} · {likelihood} · vae_jax"
    return html.write_page(run.path / "report.html", title, f"VAE on {dataset}", lead, "".join(body))


def in_notation(section: Section, notation: Notation) -> Section:
    """Returns a section whose caption and figure name the densities of a conditional model or of data with missing entries."""
    if notation == Notation():
        return section
    if isinstance(section.picture, Figure):
        figures.rewrite(section.picture, notation.translate)
    return section._replace(title=notation.translate(section.title), caption=notation.translate(section.caption))


def _observations(run: Run) -> list[str]:
    """Returns warnings that follow from the learning curves."""
    peak = overfit(run.metrics, run.epoch)
    text = "" if peak is None else describe_overfit(peak)
    return [f"{text[0].upper()}{text[1:]}"] if text else []


def _sections(run: Run, pictures: Pictures) -> list[Section]:
    """Returns the figures in the order of the page."""
    return [
        *_training_sections(run),
        *(_image_sections(run, pictures) if _has_images(run) else event_sections.example_sections(run, pictures)),
        *condition_sections(run, pictures.views, pictures.codes),
        _kl_section(run, pictures.kl_per_dimension),
        *_latent_sections(run, pictures),
        *_code_sections(run, pictures),
    ]


def _training_sections(run: Run) -> Iterator[Section]:
    if not run.metrics:
        return
    curves = figures.learning_curves(run.metrics)
    caption = f"Training values are means over the epoch, during which the weights change.{figures.cut_off(curves)}"
    yield Section("learning_curves", "Learning curves", caption, curves)
    path = figures.rate_distortion(run.metrics, run.epoch)
    caption = (
        "Rate and distortion on the test set after each epoch, evaluated at β = 1 whatever the training objective was. The "
        "ring marks the parameters that this report shows. Gray lines have equal ELBO, −(rate + distortion), which grows "
        f"towards the lower left. The scale is set by the epochs after the first tenth.{figures.cut_off(path)}"
    )
    yield Section("rate_distortion", "Rate and distortion", caption, path)


def _has_images(run: Run) -> bool:
    return displayed_kind(run.built.dataset.data_shape) == "image"


def _image_sections(run: Run, pictures: Pictures) -> list[Section]:
    scale, totals = pictures.views.scale, given_captions(run.built)
    imputed = () if pictures.imputed is None else (pictures.imputed.values,)
    prior = "prior N(0, I)" if run.built.vae.prior is None else "learned prior"
    return [
        Section(
            "reconstructions",
            "Reconstructions",
            f"Test images as the model sees them ({run.built.data.description}), each above the mean E[x|z] of the likelihood "
            f"at the posterior mean of z.{totals.reconstructed}{imputed_caption(pictures)}{scale}",
            figures.reconstructions(pictures.originals, pictures.reconstructions, *imputed),
        ),
        Section(
            "prior_means",
            "Means E[x|z] for z from the prior",
            f"E[x|z] for z drawn from the {prior}. These are means, not draws of x.{totals.sampled}{scale}",
            figures.grid(pictures.prior_means, 16),
        ),
        Section(
            "prior_samples",
            "Samples of x from the model",
            f"Draws of x from p(x|z) for the same z, including the noise of the likelihood.{totals.sampled}{scale}",
            figures.grid(pictures.prior_samples, 16),
        ),
    ]


def imputed_caption(pictures: Pictures) -> str:
    """Returns sentences about missing pixels, or "" where there are none."""
    if pictures.imputed is None:
        return ""
    return (
        " Missing pixels are orange. The third row has the observed pixels, and E[x_missing|x_observed] in place of the "
        f"missing ones, {pictures.imputed.describe()}"
    )


def _kl_section(run: Run, kl: np.ndarray) -> Section:
    against = "" if run.built.vae.prior is None else " to N(0, I), not to the learned prior"
    caption = (
        f"The KL{against}, averaged over the test set. The sum is {kl.sum():z.2f} nats{_share_of_largest(kl)}. A dimension "
        f"near 0 is not used.{about_dimensions(posterior_facts(run.built.vae))}"
    )
    return Section("kl_per_dimension", "KL per latent dimension", caption, figures.kl_per_dimension(kl))


def _share_of_largest(kl: np.ndarray) -> str:
    """Says how many dimensions carry 95 % of the KL."""
    if len(kl) < 2 or not kl.sum() > 0:
        return ""
    count = int(np.argmax(np.cumsum(np.sort(kl)[::-1]) >= 0.95 * kl.sum())) + 1
    return f", of which {count} of the {len(kl)} dimensions carr{'ies' if count == 1 else 'y'} 95 %"


def _latent_sections(run: Run, pictures: Pictures) -> list[Section]:
    """Returns the aggregate posterior, the traversals of one test image, and interpolations between test images."""
    kl, prior, views = pictures.kl_per_dimension, latent.prior_shape(run.built, run.params), pictures.views
    moved = latent.by_kl(kl, _MAX_ROWS)
    offsets = np.linspace(-_SPAN, _SPAN, 2 * _STEPS - 1)  # of the animation; the grid has every other one
    half = len(pictures.codes) // 2
    num_pairs = min(_MAX_PAIRS, half)  # far apart in the test set, whose classes may be sorted
    codes = latent.traversal_codes(pictures.codes[0], moved, offsets, prior)
    between = latent.interpolation_codes(pictures.codes[:num_pairs], pictures.codes[half : half + num_pairs], _STEPS)
    conditions = None
    if views.conditions is not None:
        each = np.asarray(views.conditions)
        conditions = np.repeat(each[[0, *range(num_pairs)]], [codes[..., 0].size, *[_STEPS] * num_pairs], axis=0)
    images = latent.decode(views, run.params, np.concatenate([c.reshape(-1, len(kl)) for c in (codes, between)]), conditions)
    traversed = images[: len(moved) * len(offsets)].reshape(len(moved), len(offsets), *images.shape[1:])
    interpolated = images[len(moved) * len(offsets) :].reshape(num_pairs, _STEPS, *images.shape[1:])
    sections = [_aggregate_section(run, pictures, prior), *_traversal_sections(run, pictures, prior, offsets, traversed)]
    if num_pairs:
        row_names = [f"{views.places[i]} → {views.places[half + i]}" for i in range(num_pairs)]
        starts, ends = pictures.originals[:num_pairs], pictures.originals[half : half + num_pairs]
        straight = (
            "The lines are straight rather than great circles, because posterior means do not lie on the sphere near which "
            f"draws of N(0, I) lie.{views.scale}"
        )
        if _has_images(run):
            figure: Figure = latent_figures.interpolation(interpolated, starts, ends, row_names)
            caption = (
                "E[x|z] along the straight line between the posterior means of two test images, which are shown at both ends "
                f"and numbered on the left.{given_captions(run.built).between} {straight}"
            )
        else:
            between = event_sections.Interpolation(interpolated, starts, ends, row_names)
            figure, explained = event_sections.interpolation_figure(run.built, pictures.originals, between)
            caption = (
                "E[x|z] along the straight line between the posterior means of two test examples, whose numbers are the "
                f"headings. {explained} {straight}"
            )
        sections.append(Section("interpolation", "Interpolation", caption, figure))
    return sections


def _aggregate_section(run: Run, pictures: Pictures, prior: PriorShape) -> Section:
    kl, has_learned_prior = pictures.kl_per_dimension, run.built.vae.prior is not None
    shown = latent.by_kl(kl, _MAX_PANELS)
    aggregate = latent.aggregate(pictures.posterior_means, pictures.posterior_log_scales, shown, prior)
    if has_learned_prior:
        prior_name, aggregate_kl = "the learned prior, from draws", [None] * len(shown)
        about_kl = (
            "Above each panel is the mean over the test set of the KL of q(z_j|x) to N(0, 1), which is not the distance "
            "between the two curves."
        )
    else:
        prior_name, aggregate_kl = "the prior N(0, 1)", latent.aggregate_kl(aggregate).tolist()
        about_kl = (
            "Above each panel are the mean over the test set of KL(q(z_j|x) ‖ p(z_j)) and KL(q(z_j) ‖ p(z_j)), the distance "
            "between the two curves. Their difference is the mutual information of z_j and x."
        )
    chosen = f"The {len(shown)} of {len(kl)} dimensions with the most KL are shown." if len(shown) < len(kl) else ""
    evaluated = "evaluated exactly rather than from draws of z"
    if (posterior := run.built.vae.posterior) is not None and posterior.factor is None:
        evaluated = f"each taken as a Gaussian with the mean and the variance of draws from the {posterior.name} posterior"
        about_kl = about_kl.replace("is the mutual", "is about the mutual")
    caption = (
        f"Filled is q(z_j) = 1/N Σ q(z_j|x_n) over the {len(pictures.posterior_means)} test examples, {evaluated}. Dashed is "
        f"{prior_name}. Where the two differ, codes drawn from the prior are unlike those of data. {about_kl} Each panel has "
        f"its own scales. {chosen or 'The largest KL comes first.'}"
    )
    names = [latent_figures.panel_name(j, kl, value) for j, value in zip(shown, aggregate_kl, strict=True)]
    figure = latent_figures.aggregate_panels(aggregate, names, prior_name)
    return Section("aggregate_posterior", "Aggregate posterior and prior", caption, figure)


def _traversal_sections(
    run: Run, pictures: Pictures, prior: PriorShape, offsets: np.ndarray, images: np.ndarray
) -> list[Section]:
    kl, views, has_learned_prior = pictures.kl_per_dimension, pictures.views, run.built.vae.prior is not None
    moved = latent.by_kl(kl, _MAX_ROWS)
    names = [latent_figures.name(j, kl) for j in moved]
    marks = (pictures.codes[0, moved] - prior.mean[moved]) / prior.std[moved]
    # A reconstruction has the total of its example, where the likelihood is given one. Traversals have the mean total.
    given = run.built.vae.likelihood.mean_given is not None
    base = latent.decode(views, run.params, pictures.codes[:1])[0] if given else pictures.reconstructions[0]
    reference = np.stack([pictures.originals[0], base])
    image = latent.example_name(run.built, int(views.places[0]))
    chosen = (
        f"The {len(moved)} of {len(kl)} dimensions with the most KL are shown, the largest first."
        if len(moved) < len(kl)
        else "The dimension with the largest KL comes first."
    )
    unit = "prior standard deviations" + (" from the learned prior's mean" if has_learned_prior else "")
    against = " to N(0, I)" if has_learned_prior else ""
    if not _has_images(run):
        moved_values = event_sections.Traversal(images[:, ::2], names, offsets[::2], *reference)
        figure, explained = event_sections.traversal_figure(run.built, pictures.originals, moved_values)
        caption = (
            f"E[x|z] as one dimension at a time moves from −{_SPAN} to {_SPAN} {unit}, with the others at the posterior mean "
            f"of {image}. {explained} {chosen} A panel without change is a dimension that the decoder ignores. The KL is that "
            f"of q(z_j|x){against}, averaged over the test set."
        )
        return [Section("traversal", "Latent traversal", caption, figure)]
    caption = (
        f"E[x|z] as one dimension at a time moves from −{_SPAN} to {_SPAN} {unit}, with the others at the posterior mean of "
        f"the test image at the top. {chosen} A row without change is a dimension that the decoder ignores. The KL is that of "
        f"q(z_j|x){against}, averaged over the test set.{given_captions(run.built).mean}{views.scale}"
    )
    figure = latent_figures.traversal(images[:, ::2], names, offsets[::2], marks, reference, image, has_learned_prior)
    moving_caption = (
        f"The same in motion. Each tile moves one dimension from −{_SPAN} to {_SPAN} {unit} and back, with all others as in "
        "the test image. What changes in a tile is what its dimension represents."
    )
    tiles = [Notation.of(run.built).translate(f"z[{j}]") for j in moved]
    animation = latent_figures.animation(images, tiles, (f"−{_SPAN}", f"{_SPAN}"))
    return [
        Section("traversal", "Latent traversal", caption, figure),
        Section("traversal", "Latent traversal, animated", moving_caption, animation),
    ]


def _code_sections(run: Run, pictures: Pictures) -> Iterator[Section]:
    """Yields the scatter plot of codes, and the manifold of a model with two latent dimensions."""
    kl = pictures.kl_per_dimension
    if len(kl) >= 2:
        first, second = (int(j) for j in np.argsort(-kl)[:2])
        dimensions = (0, 1) if len(kl) == 2 else (first, second)
        which = "" if len(kl) == 2 else " with the most KL"
        caption = f"Posterior means of the test set in the two dimensions{which}."
        dataset = run.built.dataset
        scatter = figures.latent_scatter(pictures.posterior_means, dimensions, dataset.test_labels, dataset.label_names)
        yield Section("latent_space", "Latent space", caption, scatter)
    if pictures.manifold is not None:
        caption = "E[x|z] on a grid of prior quantiles, so that each tile has the same prior probability."
        if pictures.views.conditions is not None:
            caption += f" The condition is that of {latent.example_name(run.built, int(pictures.views.places[0]))}."
        yield Section("manifold", "Latent manifold", caption, figures.grid(pictures.manifold, 15))
