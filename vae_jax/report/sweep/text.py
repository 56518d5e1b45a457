"""Texts of a sweep's report: heading, lead, notes, the meaning of the bars, and the command that repeats the sweep."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from vae_jax.build import PART_NAMES
from vae_jax.build.parts import recorded_source
from vae_jax.config import CUSTOM, Config, from_dict, settings_of
from vae_jax.report import html
from vae_jax.report.sweep.content import Overview, display_name, find_outliers
from vae_jax.runs.in_words import describe_part, repeat_command
from vae_jax.runs.trained.initial import describe_lineage, recorded_init
from vae_jax.storage.atomic import JsonObject
from vae_jax.sweep.members import static_names, varying
from vae_jax.sweep.results import Results, describe_overfitting
from vae_jax.sweep.statistics import DONE
from vae_jax.sweep.successive_halving.rule import STOPPED

Value = int | float | str | tuple[int, ...] | None  # of a setting
_REPEATED = Path("runs/repeated")


def heading(results: Results) -> str:
    """Returns the title of the page."""
    varied = varying(results.members)
    swept = [display_name(name) for name in varied if name != "seed"] or ["seeds"] * len(varied)
    return f"VAE sweep{' over ' if swept else ''}{_join(swept)} on {_dataset_name(results)}"


def _dataset_name(results: Results) -> str:
    # Earlier versions did not record the name of the data set.
    return Path(results.description["data"].get("name", results.members[0].dataset)).name


def _join(items: Sequence[str]) -> str:
    """Returns a list such as "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _with_noun(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def lead(results: Results) -> str:
    """Returns the first paragraph: the data, what all members share, what varies, and how the members ran."""
    varied, parts = varying(results.members), results.description.get("parts", {})
    has_one_preprocessing = not {"likelihood", "binarize", "dequantize"} & set(varied)
    data = html.describe_data(_dataset_name(results), results.description["data"], with_preprocessing=has_one_preprocessing)
    values = [f"{display_name(name)} = {_values([getattr(one, name) for one in results.members])}" for name in varied]
    static = [name for name in varied if name in static_names()]
    num_programs = len({tuple(getattr(member, name) for name in static) for member in results.members})
    programs = "one program"
    if num_programs > 1:
        programs = f"{num_programs} programs, one for each {_join([display_name(name) for name in static])}"
    return (
        f"{data} {', '.join(_shared_settings(results.members[0], varied, parts))}. Varied: {'; '.join(values) or 'nothing'}. "
        f"{_with_noun(len(results.members), 'member')} in {programs}. Placement of the members: "
        f"{_join(list(dict.fromkeys(results.placements)))}. {describe_lineage(results.description.get('init_from'))}".rstrip()
    )


LATENT = ("latent_channels", "latent channels")  # of a ladder, in place of `latent_dim`


def _shared_settings(config: Config, varied: Sequence[str], parts: JsonObject) -> list[str]:
    """Describes the main settings that all members share, with the records of the user's parts."""
    shared, default = [describe_part(config, "network", parts)], Config()
    for name, description in (("hidden", "hidden layers"), ("channels", "channels"), ("dense", "dense layers"), LATENT):
        if name not in varied and name in settings_of("network", config.network) and (widths := getattr(config, name)):
            shared.append(f"{description} {'-'.join(map(str, widths))}")
    if "latent_dim" not in varied and LATENT[0] not in settings_of("network", config.network):
        shared.append(_with_noun(config.latent_dim, "latent dimension"))
    if "likelihood" not in varied:
        shared.append(f"{describe_part(config, 'likelihood', parts)} likelihood")
    if config.prior == CUSTOM:
        shared.append(f"prior {describe_part(config, 'prior', parts)}")
    if "posterior" not in varied and config.posterior != "diagonal":
        shared.append(f"posterior {describe_part(config, 'posterior', parts)}")
    if config.optimizer == CUSTOM:
        shared.append(f"optimizer {describe_part(config, 'optimizer', parts)}")
    if "objective" not in varied:
        names = [name for name in settings_of("objective", config.objective) if name not in varied]
        names = [name for name in names if name == "beta" or getattr(config, name) != getattr(default, name)]
        settings = [f"{display_name(name)} = {format_value(getattr(config, name))}" for name in names]
        shared.append(" with ".join(filter(None, [f"objective {describe_part(config, 'objective', parts)}", _join(settings)])))
    if "epochs" not in varied:
        shared.append(_with_noun(config.epochs, "epoch"))
    return shared


def _values(values: Sequence[Value]) -> str:
    distinct = list(dict.fromkeys(values))
    numbers = [value for value in distinct if isinstance(value, int | float)]
    if len(distinct) > 8 and len(numbers) == len(distinct):
        return f"{len(numbers)} values from {min(numbers):.3g} to {max(numbers):.3g}"
    return ", ".join(format_value(value) for value in distinct)


def format_value(value: Value) -> str:
    """Returns the value of a setting as short text."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "default" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def notes(results: Results, overview: Overview, max_named: int = 10) -> list[str]:
    """Returns warnings that a reader needs before the numbers; at most `max_named` members are named in one of them."""
    texts = [*_missing_members(results, max_named)]
    peaks = describe_overfitting(results)
    if peaks is not None:
        texts.append(f"{peaks[0].upper()}{peaks[1:]}")
    if len(overview.units) > 1:
        texts.append(
            f"Each likelihood ({'; '.join(overview.units)}) has a separate panel because their numbers have different units. "
            "Probabilities of binarized pixels, probabilities of levels or counts, and densities cannot be compared."
        )
    counts = [len(setting.point.members) for part in overview.parts for setting in part.settings]
    if max(counts) == 1:
        texts.append("Each setting has one seed, so there are no standard errors and no intervals.")
    return texts


def _missing_members(results: Results, max_named: int) -> list[str]:
    """Describes members that have not ended, that are left out of the means, or whose test ELBO is not finite."""
    texts = []
    if missing := len(results.members) - len(results.rows):
        parts = results.description.get("parts", {})
        sources = {name: recorded_source(parts, name) for name in PART_NAMES if name in parts}
        imported = [f"{_option(name)} {shlex.quote(f'{s.file}:{s.name}')}" for name, s in sources.items() if s.imported]
        command = " ".join([f"vae-jax sweep {_option('out')} {shlex.quote(str(results.path))} {_option('resume')}", *imported])
        texts.append(
            f"The sweep is unfinished. {missing} of {len(results.members)} members have not ended and are not in this report. "
            f"Continue with: {command}"
        )
    if stopped := sum(row["status"].startswith(STOPPED) for row in results.rows):
        texts.append(
            f"{stopped} members were stopped by successive halving. They are in no mean and in no figure of settings, because "
            "they were trained for fewer epochs."
        )
    if lost := [row for row in results.rows if row["status"] not in DONE and not row["status"].startswith(STOPPED)]:
        shown = [
            f"member {row['member']} ({describe_settings(results, row['member'])}) {row['status']}" for row in lost[:max_named]
        ]
        rest = f" The table of members lists {len(lost) - max_named} more." if len(lost) > max_named else ""
        texts.append(f"Left out of every mean: {'; '.join(shown)}.{rest}")
    not_finite = [str(row["member"]) for row in results.rows if row["status"] in DONE and row["test_elbo"] is None]
    if not_finite:
        texts.append(f"No finite test ELBO: member {_join(not_finite)}. Settings with such a member have no mean.")
    return texts


def describe_settings(results: Results, number: int) -> str:
    """Returns the settings in which a member differs from the rest of the sweep."""
    member, varied = results.members[number], varying(results.members)
    return ", ".join(f"{display_name(name)} = {_values([getattr(member, name)])}" for name in varied) or "the only member"


def about_bars(overview: Overview) -> str:
    """Explains the bars of the figures and says over how many seeds they are."""
    known = [setting for part in overview.parts for setting in part.settings if setting.is_known]
    counts = sorted({setting.point.numbers["test_elbo"].n for setting in known})
    if not counts:
        return ""
    if counts[-1] == 1:
        return "One seed for each setting, so there are no bars."
    several = [n for n in counts if n > 1]
    seeds = f"{counts[0]} to {counts[-1]} seeds, as in the table" if len(counts) > 1 else f"{counts[0]} seeds"
    return (
        f"Thick bars are ± the standard error of the mean, and thin bars are 95 % t-intervals, with n = {seeds}. Faint dots "
        "are single members."
        + (" A setting with one seed has no bars." if counts[0] == 1 else "")
        + (" The intervals are wide because there are few seeds." if several[0] <= 3 else "")
    )


def about_outliers(overview: Overview) -> str:
    """Returns a sentence about the members that the axes leave out, or "" if all are inside."""
    units = [[part for part in overview.parts if part.unit == unit] for unit in overview.units]
    outliers = sorted(number for parts in units for number in find_outliers(parts))
    names = _join([str(number) for number in outliers])
    return f" Far outside of the range shown: member {names}, and means that include them." if outliers else ""


def command(results: Results) -> tuple[str, str]:
    """Returns the command that repeats the sweep, and a remark.

    The command is that of the script if a single command made all members. Otherwise it is Python code.
    """
    arguments, data_dir = results.description.get("arguments"), results.description.get("data_dir")
    if arguments is None or _num_members(arguments) not in (None, len(results.members)):
        remark = "This sweep was made from Python."
        if arguments is not None:
            remark = "Members were added when the sweep was resumed. This code repeats all of them."
        place = f", data_dir={data_dir!r}" if data_dir else ""
        custom = [name for name in ("dataset", *PART_NAMES) if getattr(results.members[0], name) == CUSTOM]
        place += "".join(f", {name}={name}" for name in custom)
        place += f", init=runs.recorded_init({str(results.path)!r})" if results.description.get("init_from") else ""
        code = (
            "from pathlib import Path",
            *(["from vae_jax import runs"] if "recorded_init" in place else []),
            "from vae_jax.sweep.directory import read_sweep, run_sweep",
            "from vae_jax.sweep.results import write_results",
            f"members, _ = read_sweep(Path({str(results.path)!r}))",
            f"run_sweep(members, Path({str(_REPEATED)!r}){place})",
            f"write_results(Path({str(_REPEATED)!r}))",
        )
        return "\n".join(code), remark
    parts = ["vae-jax", "sweep"]
    for name in ("betas", "seeds", "learning_rates", "over", "groups", "ranges"):
        if arguments[name]:
            parts += [_option(name), *map(str, arguments[name])]
    if arguments["points"]:
        parts += [_option("points"), arguments["points"]]
    if arguments["ranges"]:
        for name in ("design", "num_points", "design_seed"):
            parts += [_option(name), str(arguments[name])]
    if arguments.get("halving"):
        for name in ("halving", "min_epochs", "halving_by", "num_concurrent"):
            if arguments[name] is not None:
                parts += [_option(name), str(arguments[name])]
    remark = "The file of points has to be unchanged." if arguments["points"] else ""
    records = results.description.get("parts", {})
    base, init = from_dict(arguments["base"]), recorded_init(results.path)
    return repeat_command(base, _REPEATED, data_dir, tuple(parts), records, init), remark


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _num_members(arguments: html.Record) -> int | None:
    """Returns the number of members that the script's arguments describe, or None if a file of points does."""
    if arguments["points"]:
        return None
    count = 1
    if arguments["ranges"]:
        count = arguments["num_points"] ** (len(arguments["ranges"]) if arguments["design"] == "grid" else 1)
    for name in ("betas", "seeds", "learning_rates"):
        count *= len(arguments[name] or [0])
    for text in (*arguments["over"], *arguments["groups"]):
        count *= text.count(",") + 1
    return count
