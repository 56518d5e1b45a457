"""Settings in order, comparable groups of them, and examples by setting, computed once for the report of a sweep."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.config import Config, settings_of
from vae_jax.model import Params
from vae_jax.report.run.content import num_shown, prior_codes
from vae_jax.report.run.displayed_examples import Views, views
from vae_jax.report.run.events.panels import displayed_kind
from vae_jax.runs.in_words import has_learned_prior
from vae_jax.sweep.directory import BuildArguments
from vae_jax.sweep.members import groups, varying
from vae_jax.sweep.results import Results, load_params
from vae_jax.sweep.statistics import DONE, UNBOUNDED, Point, Range, Row, within

T = TypeVar("T")
Strip = tuple[str, np.ndarray | None]  # name and examples of a row, or a heading and None

EXAMPLES_PER_ROW = {"image": 12, "series": 4}


class Member(NamedTuple):
    """One member that has ended."""

    row: Row
    curve: list[Row]
    value: float  # of the hyperparameter on the axis

    @property
    def is_good(self) -> bool:
        """True if the numbers of this member enter the means."""
        return self.row["status"] in DONE and self.row["test_elbo"] is not None


class Setting(NamedTuple):
    """Results of all seeds of one setting."""

    values: tuple[float, ...]  # of the hyperparameters that vary, in the order of `Overview.names`
    labels: tuple[str, ...]  # the same values as text
    point: Point

    @property
    def is_known(self) -> bool:
        """True if at least one member finished, so that the setting can be drawn."""
        return {"rate", "distortion", "test_elbo"} <= set(self.point.numbers)


class Part(NamedTuple):
    """The members of one compiled program."""

    label: str  # its static settings, or "" if there is a single program
    unit: str  # likelihood and preprocessing of the data; numbers with different units cannot be compared
    has_learned_prior: bool
    settings: list[Setting]
    members: dict[int, Member]
    has_diagonal_posterior: bool = True

    @property
    def static(self) -> dict[str, str]:
        """Names and values of the static settings in the label."""
        return dict(pair.split(" = ", 1) for pair in self.label.split(", ") if pair)


class Overview(NamedTuple):
    """The results of a sweep as its report shows them."""

    names: Sequence[str]  # of the hyperparameters that vary, the one on the axis first; beta if none varies
    parts: list[Part]

    @property
    def units(self) -> list[str]:
        """The distinct units, in order of appearance."""
        return list(dict.fromkeys(part.unit for part in self.parts))


def display_name(name: str) -> str:
    """Returns the name of a setting as reports show it."""
    return "β" if name == "beta" else name.replace("_", " ")


def _program_label(group: str) -> str:
    """Returns the label of a group, with the names of its settings as reports show them."""
    pairs = [pair.partition(" = ") for pair in group.split(", ") if pair]
    return ", ".join(f"{display_name(name)} = {value}" for name, _, value in pairs)


def setting_label(names: Sequence[str], setting: Setting) -> str:
    """Returns a label such as "β = 0.5, learning rate = 0.001"."""
    return ", ".join(f"{display_name(name)} = {value}" for name, value in zip(names, setting.labels, strict=True))


def number_labels(values: Iterable[float]) -> dict[float, str]:
    """Returns texts for numbers, with as few digits as tell them apart, but at least three."""
    distinct, labels = sorted(set(values)), {}
    for digits in range(3, 10):
        labels = {value: f"{float(f'{value:.{digits}g}'):.{max(digits, 6)}g}" for value in distinct}
        if len(set(labels.values())) == len(distinct):
            break
    return labels


def _unit(config: Config) -> str:
    binarized = f", binarized ({config.binarization})" if config.binarization != "none" else ""
    # Log-likelihoods given the total of the row leave the total out.
    exposed = (
        ", given totals" if "exposure" in settings_of("likelihood", config.likelihood) and config.exposure != "none" else ""
    )
    return f"{config.likelihood}{exposed}{binarized}{', dequantized' if config.dequantize else ''}"


def _cut_intervals(point: Point, config: Config) -> Point:
    """Cuts the intervals of a point at the range of each measure. Rates are at least 0, ELBOs of discrete data at most 0."""
    nonnegative = (0.0, math.inf)
    ranges: dict[str, Range] = {"rate": nonnegative, "active_units": (0.0, float(config.latent_dim))}
    if "latent_channels" in settings_of("network", config.network):  # the members do not record the length of the code
        ranges["active_units"] = nonnegative
    if "test_bits_per_dim" in point.numbers:  # the data are discrete, so p is a probability
        ranges |= {"test_elbo": (-math.inf, 0.0), "distortion": nonnegative, "test_bits_per_dim": nonnegative}
    return point._replace(numbers={name: within(one, ranges.get(name, UNBOUNDED)) for name, one in point.numbers.items()})


def summarize(results: Results) -> Overview:
    """Orders the points of each program by their settings, with defaults that depend on other settings filled in."""
    program_groups = groups(results.members)
    configs = {group.label: group.configs[0] for group in program_groups}
    varied = varying(results.members)
    names = tuple(name for name in results.points[0].settings if name in varied) or ("beta",)

    def values(point: Point) -> tuple[float, ...]:
        hyperparams = dataclasses.replace(configs[point.group], **point.settings).hyperparams
        return tuple(float(getattr(hyperparams, name)) for name in names)

    point_values = [values(point) for point in results.points]
    labels = [number_labels(column) for column in zip(*point_values, strict=True)]
    curves: dict[int, list[Row]] = {}
    for line in results.curves:
        curves.setdefault(line["member"], []).append(line)
    parts = []
    for group in program_groups:
        ordered = sorted((row, i) for i, row in enumerate(point_values) if results.points[i].group == group.label)
        settings = [
            Setting(
                row,
                tuple(texts[value] for texts, value in zip(labels, row, strict=True)),
                _cut_intervals(results.points[i], group.configs[0]),
            )
            for row, i in ordered
        ]
        members = {
            row["member"]: Member(
                row, curves.get(row["member"], []), float(getattr(results.members[row["member"]].hyperparams, names[0]))
            )
            for row in results.rows
            if row["group"] == group.label
        }
        if settings:
            config = group.configs[0]
            # A prior p(z|c) of the user, whose codes are N(0, I), shows in this entry.
            is_diagonal = config.posterior == "diagonal" and config.network != "ladder"
            is_learned = has_learned_prior(config) and "codes" not in results.description["data"]
            parts.append(Part(_program_label(group.label), _unit(config), is_learned, settings, members, is_diagonal))
    return Overview(names, parts)


def find_outliers(parts: Sequence[Part]) -> set[int]:
    """Returns the members whose ELBO is so much lower than the others that they would flatten a figure.

    All parts must have the same unit.
    """
    elbos = {number: m.row["test_elbo"] for part in parts for number, m in part.members.items() if m.is_good}
    if not elbos:
        return set()
    best, middle = max(elbos.values()), float(np.median(list(elbos.values())))
    reach = 10 * max(best - middle, abs(best), 1.0)
    return {number for number, elbo in elbos.items() if best - elbo > reach}


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Returns at most `count` of the items, evenly spaced, including the first and the last."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in chosen]


def kl_rows(part: Part) -> list[tuple[Setting, np.ndarray]]:
    """Returns settings with the KL of their latent dimensions, sorted within each member and then averaged over seeds."""
    result = []
    for setting in part.settings:
        sorted_kl = [
            np.sort(part.members[number].row["kl_per_dimension"])[::-1]
            for number in setting.point.members
            if None not in part.members[number].row["kl_per_dimension"]
        ]
        if sorted_kl:
            result.append((setting, np.mean(sorted_kl, axis=0)))
    return result


class ShownMember(NamedTuple):
    """The first finished member of a setting, with its parameters and the functions that make its examples."""

    name: str  # of its row, with a line for each setting
    built: Built
    params: Params
    views: Views
    widest: int  # the latent dimension with the most KL


def shown_members(results: Results, overview: Overview, arguments: BuildArguments, max_settings: int) -> list[ShownMember]:
    """Returns the first finished member of each setting, for the examples by setting.

    Args:
      results: the sweep.
      overview: its overview.
      arguments: where the data are, and the parts of the user.
      max_settings: number of settings to show at most, evenly chosen.
    """
    chosen = _choose_settings(overview, max_settings)
    numbers, (data_dir, dataset, parts, _) = [setting.point.members[0] for _, setting in chosen], arguments
    loaded = load_params(results, numbers, data_dir, dataset=dataset, **parts) if chosen else {}
    views_by_config: dict[Config, Views] = {}
    members = []
    for part, setting in chosen:
        number = setting.point.members[0]
        built, params = loaded[number]
        if built.config not in views_by_config:
            kind = displayed_kind(built.dataset.data_shape)
            views_by_config[built.config] = views(built, EXAMPLES_PER_ROW.get(kind) or num_shown(built))
        widest = int(np.argmax(np.nan_to_num(np.array(part.members[number].row["kl_per_dimension"], float))))
        name = "\n".join(filter(None, [*part.label.split(", "), *setting_label(overview.names, setting).split(", ")]))
        members.append(ShownMember(name, built, params, views_by_config[built.config], widest))
    return members


def strips(members: Sequence[ShownMember]) -> list[Strip]:
    """Returns rows for `figures.labeled_strips` or lines of series: test examples, and examples by setting.

    Args:
      members: the first finished member of each setting, at least one.
    """
    kind = displayed_kind(members[0].built.dataset.data_shape)
    columns = EXAMPLES_PER_ROW[kind]
    blocks: dict[str, list[Strip]] = {
        "Reconstructions: means E[x|z]": [],
        "Means E[x|z] for z from the prior": [],
        "Means E[x|z] along the dimension with the most KL, z from −3 to 3": [],
    }
    for name, built, params, view, widest in members:
        codes = view.codes(params)
        key_z, _ = jax.random.split(stream(built.config.test_seed, Stream.REPORT_SAMPLES))  # as in the report of a run
        across = jnp.tile(codes[0], (columns, 1)).at[:, widest].set(jnp.linspace(-3, 3, columns))
        drawn = prior_codes(built.vae, params, key_z, columns)
        examples = (
            view.means_like(params, codes, np.arange(len(codes))),
            view.means(params, drawn, None if view.conditions is None else view.conditions[np.arange(columns) % len(codes)]),
            view.means(params, across),
        )
        for rows, strip, suffix in zip(blocks.values(), examples, ("", "", f", z[{widest}]"), strict=True):
            rows.append((name + suffix, strip))
    title = "test images" if kind == "image" else "test series"
    return [(title, members[0].views.stored), *(row for title, rows in blocks.items() for row in [(title, None), *rows])]


def histogram_rows(members: Sequence[ShownMember]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Returns (name, test vectors, samples from the model) for each setting."""
    rows = []
    for member in members:
        built, count = member.built, len(member.views.originals)
        key_z, key_x = jax.random.split(stream(built.config.test_seed, Stream.REPORT_SAMPLES))  # as in the report of a run
        drawn = prior_codes(built.vae, member.params, key_z, count)
        samples = member.views.samples(member.params, jax.random.split(key_x, count), drawn, np.arange(count))
        rows.append((member.name, member.views.originals, samples))
    return rows


def _choose_settings(overview: Overview, max_settings: int) -> list[tuple[Part, Setting]]:
    """Chooses settings with a finished member evenly from all parts."""
    parts = evenly([part for part in overview.parts if any(setting.point.members for setting in part.settings)], max_settings)
    return [
        (part, setting)
        for part in parts
        for setting in evenly([one for one in part.settings if one.point.members], max_settings // len(parts))
    ]
