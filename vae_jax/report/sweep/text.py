"""What a sweep's report says in words: the lead, the notes, what the bars mean, the command that repeats it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.config import Config, from_dict, settings_of
from vae_jax.report import html as page
from vae_jax.report.sweep.content import Overview, far_off, in_words
from vae_jax.runs.in_words import repeat_command
from vae_jax.sweep.members import static_names, varying
from vae_jax.sweep.results import Results, describe_overfitting
from vae_jax.sweep.statistics import DONE

_REPEATED = Path("runs/repeated")


def heading(results: Results) -> str:
    """The title of the page."""
    varied = varying(results.members)
    swept = [in_words(name) for name in varied if name != "seed"] or ["seeds"] * len(varied)
    return f"VAE sweep{' over ' if swept else ''}{_listed(swept)} on {Path(results.members[0].dataset).name}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def lead(results: Results) -> str:
    """What all members share, what varies, and how they ran."""
    config, varied, default = results.members[0], varying(results.members), Config()
    treated_alike = not {"likelihood", "binarize", "dequantize"} & set(varied)
    shared = [config.network]
    for name, words in (("hidden", "hidden layers"), ("channels", "channels"), ("dense", "dense layers")):
        if name not in varied and name in settings_of("network", config.network) and (widths := getattr(config, name)):
            shared.append(f"{words} {'-'.join(map(str, widths))}")
    if "latent_dim" not in varied:
        shared.append(_counted(config.latent_dim, "latent dimension"))
    if "likelihood" not in varied:
        shared.append(f"{config.likelihood} likelihood")
    if "objective" not in varied:
        own = [name for name in settings_of("objective", config.objective) if name not in varied]
        own = [name for name in own if name == "beta" or getattr(config, name) != getattr(default, name)]
        settings = [f"{in_words(name)} = {value_in_words(getattr(config, name))}" for name in own]
        shared.append(" with ".join(filter(None, [f"objective {config.objective}", _listed(settings)])))
    if "epochs" not in varied:
        shared.append(_counted(config.epochs, "epoch"))
    values = [f"{in_words(name)} = {_values([getattr(member, name) for member in results.members])}" for name in varied]
    static = [in_words(name) for name in varied if name in static_names()]
    programs = len({tuple(getattr(member, name) for name in varied if name in static_names()) for member in results.members})
    compiled = f"{programs} programs, one for each {_listed(static)}" if programs > 1 else "one program"
    return (
        f"{page.data_words(Path(config.dataset).name, results.description['data'], treated_alike)} {', '.join(shared)}. "
        f"Varied: {'; '.join(values) or 'nothing'}. {_counted(len(results.members), 'member')} in {compiled}. How they ran: "
        f"{_listed(list(dict.fromkeys(results.placements)))}."
    )


def _values(values: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 8 and not any(isinstance(value, str | tuple | None) for value in distinct):
        return f"{len(distinct)} values from {min(distinct):.3g} to {max(distinct):.3g}"
    return ", ".join(value_in_words(value) for value in distinct)


def value_in_words(value: Any) -> str:
    """A setting's value, short."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "default" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def notes(results: Results, seen: Overview, most: int = 10) -> list[str]:
    """What a reader should know before the numbers."""
    found = []
    if missing := len(results.members) - len(results.rows):
        found.append(
            f"The sweep is unfinished: {missing} of {len(results.members)} members have not ended and are not in this report. "
            f"Continue with: python experiments/sweep.py --out {shlex.quote(str(results.path))} --resume"
        )
    lost = [row for row in results.rows if row["status"] not in DONE]
    if lost:
        named = [f"member {row['member']} ({settings_words(results, row['member'])}) {row['status']}" for row in lost[:most]]
        rest = f"; {len(lost) - most} more, in the table of members" if len(lost) > most else ""
        found.append(f"Left out of every mean: {'; '.join(named)}{rest}.")
    empty = [str(row["member"]) for row in results.rows if row["status"] in DONE and row["test_elbo"] is None]
    if empty:
        found.append(f"No finite test ELBO: member {_listed(empty)}. Settings with such a member have no mean.")
    words = describe_overfitting(results)
    if words is not None:
        found.append(f"{words[0].upper()}{words[1:]}".replace("`", ""))
    if len(seen.units) > 1:
        found.append(
            f"Each likelihood ({'; '.join(seen.units)}) has a panel of its own, because their numbers are in different units: "
            "probabilities of binarised pixels, probabilities of levels or counts, and densities cannot be compared."
        )
    counts = [len(setting.point.members) for part in seen.parts for setting in part.settings]
    if max(counts) == 1:
        found.append("One seed for each setting: there are no standard errors and no intervals.")
    return found


def settings_words(results: Results, number: int) -> str:
    """In what a member differs from others."""
    member = results.members[number]
    return ", ".join(f"{in_words(name)} = {_values([getattr(member, name)])}" for name in varying(results.members)) or "alone"


def about_bars(seen: Overview) -> str:
    """What the bars of the figures are, and over how many seeds."""
    known = [setting for part in seen.parts for setting in part.settings if setting.is_known]
    counts = sorted({setting.point.numbers["test_elbo"].n for setting in known})
    if not counts:
        return ""
    if counts[-1] == 1:
        return "One seed for each setting, so there are no bars."
    few = [n for n in counts if n > 1]
    words = f"{counts[0]} to {counts[-1]} seeds, as in the table" if len(counts) > 1 else f"{counts[0]} seeds"
    return (
        f"Thick bars: ± standard error of the mean; thin bars: 95 % t-interval; n = {words}. Faint dots: single members."
        + (" A setting with one seed has no bars." if counts[0] == 1 else "")
        + (" The intervals of so few seeds are wide." if few[0] <= 3 else "")
    )


def outside(seen: Overview) -> str:
    """Which members the axes leave out; "" where all are in."""
    far = sorted(number for unit in seen.units for number in far_off([part for part in seen.parts if part.unit == unit]))
    named = _listed([str(number) for number in far]) if far else ""
    return f" Far off, outside of the range shown: member {named}, and means over such." if far else ""


def command(results: Results) -> tuple[str, str]:
    """What repeats the sweep, and a remark: the script's command line, where one command made all members."""
    own, data_dir = results.description.get("arguments"), results.description.get("data_dir")
    if own is None or _count(own) not in (None, len(results.members)):
        remark = "Made from Python." if own is None else "Members were added by --resume; this repeats all of them."
        place = f", data_dir={data_dir!r}" if data_dir else ""
        code = (
            "from pathlib import Path",
            "from vae_jax.sweep.directory import read_sweep, run_sweep",
            "from vae_jax.sweep.results import write_results",
            f"members, _ = read_sweep(Path({str(results.path)!r}))",
            f"run_sweep(members, Path({str(_REPEATED)!r}){place})",
            f"write_results(Path({str(_REPEATED)!r}))",
        )
        return "\n".join(code), remark
    words = ["python", "experiments/sweep.py"]
    for name in ("betas", "seeds", "learning_rates", "over", "groups", "ranges"):
        if own[name]:
            words += ["--" + name.replace("_", "-"), *map(str, own[name])]
    if own["points"]:
        words += ["--points", own["points"]]
    if own["ranges"]:
        words += ["--design", own["design"], "--num-points", str(own["num_points"]), "--design-seed", str(own["design_seed"])]
    remark = "With the file of points as it was." if own["points"] else ""
    return repeat_command(from_dict(own["base"]), _REPEATED, data_dir, tuple(words)), remark


def _count(own: dict[str, Any]) -> int | None:
    """Members that the arguments describe; None where a file of points does."""
    if own["points"]:
        return None
    count = own["num_points"] ** (len(own["ranges"]) if own["design"] == "grid" else 1) if own["ranges"] else 1
    for name in ("betas", "seeds", "learning_rates"):
        count *= len(own[name] or [0])
    for text in (*own["over"], *own["groups"]):
        count *= text.count(",") + 1
    return count
