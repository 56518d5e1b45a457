"""The section of a sweep's report with test examples, reconstructions and samples by setting."""

from collections.abc import Iterator

from vae_jax.report.html import Section
from vae_jax.report.run.content import given_captions
from vae_jax.report.run.events import series_figures, vector_figures
from vae_jax.report.run.events.categories import about_indicators, as_indicators, names_of_columns, names_with_indicators
from vae_jax.report.run.events.panels import displayed_kind
from vae_jax.report.run.events.sections import number_scale
from vae_jax.report.run.figures import labeled_strips
from vae_jax.report.sweep.content import (
    EXAMPLES_PER_ROW,
    Overview,
    display_name,
    histogram_rows,
    shown_members,
    strips,
)
from vae_jax.sweep.directory import BuildArguments
from vae_jax.sweep.results import Results

_MAX_HISTOGRAMS = 5  # columns of vectors
_BLOCKS = (
    "Test {} as stored, and means E[x|z] by the first finished seed of each setting. Reconstructions use the posterior mean of "
    "z. Means from the prior are drawn {}. In the last block, z moves along the named dimension, with the others at the "
    "posterior mean of the first test {}.{}"
)


def example_section(results: Results, overview: Overview, arguments: BuildArguments, max_settings: int) -> Iterator[Section]:
    """Yields the section, if a member has finished.

    Args:
      results: the sweep.
      overview: its overview.
      arguments: where the data are, and the parts of the user.
      max_settings: number of settings to show at most, evenly chosen.
    """
    members = shown_members(results, overview, arguments, max_settings)
    if not members:
        return
    kind = displayed_kind(members[0].built.dataset.data_shape)
    num_known = sum(bool(setting.point.members) for part in overview.parts for setting in part.settings)
    which = f" Shown are {len(members)} of {num_known} settings, evenly chosen." if len(members) < num_known else ""
    by = display_name(overview.names[0])
    learned = any(part.has_learned_prior for part in overview.parts)
    if kind == "vector":
        built = members[0].built
        scale, names = number_scale(built), names_with_indicators(built)
        rows = [
            (name, as_indicators(built, data), as_indicators(built, samples)) for name, data, samples in histogram_rows(members)
        ]
        chosen, about_columns = vector_figures.shown_columns(rows[0][1], scale, _MAX_HISTOGRAMS)
        rows = [(name, data[:, chosen], samples[:, chosen]) for name, data, samples in rows]
        title = "samples from the model"
        figure = vector_figures.labeled_histograms(rows, [names[j] for j in chosen], scale, title)
        prior = "the prior, or the learned prior where there is one" if learned else "the prior"
        caption = (
            f"Histograms of columns by setting: test data, and draws of x from p(x|z) with z from {prior}, by the first "
            f"finished seed of each setting. The height is the share of examples."
            f"{given_captions(built).sampled}{about_indicators(built)}{about_columns}{which}"
        )
        yield Section("by_beta", f"Samples by {by}", caption, figure)
        return
    rows = strips(members)
    if members[0].views.conditions is not None:
        which += (
            " Reconstructions have the condition of each example, means from the prior those of the test examples in the first "
            "row, and the last block that of the first example."
        )
    from_prior = "with the same z for all settings with the same number of latent dimensions"
    from_prior += ", or with z from the learned prior where there is one" if learned else ""
    if kind == "series":
        caption = _BLOCKS.format("series", from_prior, "series", which)
        figure = series_figures.labeled_lines(rows, names_of_columns(members[0].built), EXAMPLES_PER_ROW[kind])
        yield Section("by_beta", f"Series by {by}", caption, figure)
        return
    caption = _BLOCKS.format("images", from_prior, "image", which)
    yield Section("by_beta", f"Images by {by}", caption, labeled_strips(rows))
