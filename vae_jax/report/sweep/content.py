"""What a sweep's report shows, computed once: settings in order and in words, what is comparable, images by setting."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax.config import Config
from vae_jax.report.run import content as summary
from vae_jax.sweep.members import groups, varying
from vae_jax.sweep.results import Results, load_params
from vae_jax.sweep.statistics import DONE, UNBOUNDED, Point, Range, Row, within

T = TypeVar("T")


class Member(NamedTuple):
    """One member that has ended."""

    row: Row
    curve: list[Row]
    value: float  # of the hyperparameter on the axis

    @property
    def is_good(self) -> bool:
        """Whether its numbers enter the means."""
        return self.row["status"] in DONE and self.row["test_elbo"] is not None


class Setting(NamedTuple):
    """All seeds of one setting."""

    values: tuple[float, ...]  # of the hyperparameters that vary, in the order of `Overview.names`
    words: tuple[str, ...]  # the same as words
    point: Point

    @property
    def is_known(self) -> bool:
        """Whether it has a place in the figures: some member of it ended well."""
        return {"rate", "distortion", "test_elbo"} <= set(self.point.numbers)


class Part(NamedTuple):
    """The members of one program."""

    label: str  # its static settings; "" where there is one program
    unit: str  # likelihood and treatment of the data: numbers of different ones cannot be compared
    learned_prior: bool
    settings: list[Setting]
    members: dict[int, Member]

    @property
    def static(self) -> dict[str, str]:
        """Names and values in the label."""
        return dict(pair.split(" = ", 1) for pair in self.label.split(", ") if pair)


class Overview(NamedTuple):
    """A sweep as its report shows it."""

    names: Sequence[str]  # of the hyperparameters that vary, the one on the axis first; beta where none does
    parts: list[Part]

    @property
    def units(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(part.unit for part in self.parts))


def in_words(name: str) -> str:
    """A setting's name."""
    return "β" if name == "beta" else name.replace("_", " ")


def program(group: str) -> str:
    """A group's label, with the names of its settings in words."""
    pairs = [pair.partition(" = ") for pair in group.split(", ") if pair]
    return ", ".join(f"{in_words(name)} = {value}" for name, _, value in pairs)


def label(names: Sequence[str], setting: Setting) -> str:
    """Such as "β = 0.5, learning rate = 0.001"."""
    return ", ".join(f"{in_words(name)} = {value}" for name, value in zip(names, setting.words, strict=True))


def _numbers_in_words(values: Iterable[float]) -> dict[float, str]:
    """With as few digits, from three on, as tell them apart."""
    distinct, words = sorted(set(values)), {}
    for digits in range(3, 10):
        words = {value: f"{float(f'{value:.{digits}g}'):.{max(digits, 6)}g}" for value in distinct}
        if len(set(words.values())) == len(distinct):
            break
    return words


def _unit(config: Config) -> str:
    treatment = f", binarised ({config.binarization})" if config.binarization != "none" else ""
    return f"{config.likelihood}{treatment}{', dequantised' if config.dequantize else ''}"


def _shown(point: Point, config: Config) -> Point:
    """Cuts the intervals of a point at the range of each measure: rates are above 0, ELBOs of discrete data below."""
    amount = (0.0, math.inf)
    ranges: dict[str, Range] = {"rate": amount, "active_units": (0.0, float(config.latent_dim))}
    if "test_bits_per_dim" in point.numbers:  # the data are discrete, so that log p is that of a probability
        ranges |= {"test_elbo": (-math.inf, 0.0), "distortion": amount, "test_bits_per_dim": amount}
    return point._replace(numbers={name: within(one, ranges.get(name, UNBOUNDED)) for name, one in point.numbers.items()})


def overview(results: Results) -> Overview:
    """Orders the points of each program by their settings, with defaults that depend on other settings filled in."""
    everything = groups(results.members)
    configs = {group.label: group.configs[0] for group in everything}
    varied = varying(results.members)
    names = tuple(name for name in results.points[0].settings if name in varied) or ("beta",)

    def values(point: Point) -> tuple[float, ...]:
        hyperparams = dataclasses.replace(configs[point.group], **point.settings).hyperparams
        return tuple(float(getattr(hyperparams, name)) for name in names)

    columns = zip(*(values(point) for point in results.points), strict=True)
    words = [_numbers_in_words(column) for column in columns]
    curves: dict[int, list[Row]] = {}
    for line in results.curves:
        curves.setdefault(line["member"], []).append(line)
    parts = []
    for group in everything:
        ordered = sorted((values(point), i) for i, point in enumerate(results.points) if point.group == group.label)
        settings = [
            Setting(
                row,
                tuple(word[value] for word, value in zip(words, row, strict=True)),
                _shown(results.points[i], group.configs[0]),
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
            parts.append(Part(program(group.label), _unit(config), config.prior != "normal", settings, members))
    return Overview(names, parts)


def far_off(parts: Sequence[Part]) -> set[int]:
    """Members, of parts of one unit, so much worse than the others that they would flatten a figure."""
    elbos = {number: m.row["test_elbo"] for part in parts for number, m in part.members.items() if m.is_good}
    if not elbos:
        return set()
    best, middle = max(elbos.values()), float(np.median(list(elbos.values())))
    reach = 10 * max(best - middle, abs(best), 1.0)
    return {number for number, elbo in elbos.items() if best - elbo > reach}


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of them, the first and the last included."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in chosen]


def kl_rows(part: Part) -> list[tuple[Setting, np.ndarray]]:
    """The settings with the mean KL of each latent dimension: sorted within each member, then averaged over the seeds."""
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


def strips(
    results: Results, seen: Overview, data_dir: str | None, most: int, columns: int = 12
) -> list[tuple[str, np.ndarray | None]]:
    """Rows for `figures.labelled_strips`: test images, and what the first good seed of each setting makes of them."""
    parts = evenly([part for part in seen.parts if any(setting.point.members for setting in part.settings)], most)
    if not parts:
        return []
    chosen = [
        (part, setting)
        for part in parts
        for setting in evenly([one for one in part.settings if one.point.members], most // len(parts))
    ]
    loaded = load_params(results, [setting.point.members[0] for _, setting in chosen], data_dir)
    views: dict[Config, summary.Views] = {}
    blocks: dict[str, list[tuple[str, np.ndarray | None]]] = {
        "Reconstructions: means E[x|z]": [],
        "Means E[x|z] for z from the prior": [],
        "Means E[x|z] along the dimension with the most KL, z from −3 to 3": [],
    }
    first = None
    for part, setting in chosen:
        number = setting.point.members[0]
        built, params = loaded[number]
        if built.config not in views:
            views[built.config] = summary.views(built, columns)
        view = views[built.config]
        first = first or view
        codes = view.codes(params)
        key_z, _ = jax.random.split(stream(built.config.test_seed, Stream.REPORT_SAMPLES))  # as in the report of a run
        widest = int(np.argmax(np.nan_to_num(np.array(part.members[number].row["kl_per_dimension"], float))))
        across = jnp.tile(codes[0], (columns, 1)).at[:, widest].set(jnp.linspace(-3, 3, columns))
        drawn = summary.prior_codes(built.vae, params, key_z, columns)
        name = "\n".join(filter(None, [*part.label.split(", "), *label(seen.names, setting).split(", ")]))
        images = (view.means(params, codes), view.means(params, drawn), view.means(params, across))
        for rows, strip, suffix in zip(blocks.values(), images, ("", "", f", z[{widest}]"), strict=True):
            rows.append((name + suffix, strip))
    assert first is not None
    return [("test images", first.stored), *(row for title, rows in blocks.items() for row in [(title, None), *rows])]
