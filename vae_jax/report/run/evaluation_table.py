"""What evaluate.py found, as a table with errors, and warnings for the top of a report."""

import json
from typing import Any

from vae_jax.evaluation.posterior_collapse import describe_collapse
from vae_jax.report import html as page
from vae_jax.runs import Run
from vae_jax.runs.in_words import interval_of, remarks

Row = tuple[str, str, str]


def _found(run: Run) -> dict[str, Any] | None:
    """evaluation.json, if it is of these parameters."""
    try:
        numbers = json.loads((run.path / "evaluation.json").read_text())
        return numbers if numbers["evaluated_epoch"] == run.epoch and "log_px_mean" in numbers else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def warnings(run: Run) -> list[str]:
    """Collapse, and estimates that are not to be trusted."""
    if (numbers := _found(run)) is not None:
        return [remark.replace("`", "") for remark in remarks(numbers)]
    if run.summary is None or "latent_dim" not in run.summary:
        return []
    collapsed = len(run.summary.get("collapsed_units", ()))
    words = describe_collapse(collapsed, run.summary["latent_dim"], run.summary["test_kl"])
    return [words.replace("`", "")] if words else []


def section(run: Run) -> str:
    """The table, or how to get one."""
    numbers = _found(run)
    if numbers is None:
        words = (
            f"log p(x), mutual information and more: python experiments/evaluate.py {run.path}, then draw this report again."
        )
        return page.heading("Evaluation") + page.caption(words)
    seed = f"seed {numbers['test_seed']}"
    words = (
        f"Nats per example of the test set, β = 1; ± standard error over the {numbers['num_test_examples']} examples; {seed}."
    )
    return page.heading("Evaluation") + page.caption(words) + page.table(_rows(numbers), ("", "value", "remark"))


def _value(value: float | None, error: float | None = None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:z.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _interval(numbers: dict[str, Any]) -> str:
    """Where the mean log p(x) of these examples lies."""
    low, high = interval_of(numbers)
    if low is None:
        return "; no interval is known"
    ends = f"at least {_value(low)}" if high is None else f"in [{_value(low)}, {_value(high)}]"
    return f"; the mean over these examples is {ends}"


def _with_error(numbers: dict[str, Any], name: str) -> str:
    return _value(numbers[name], numbers.get(f"{name}_standard_error"))


def _draws(count: int) -> str:
    """Says how many draws this ELBO is from, and why it differs from the one at the top of the report."""
    if count == 1:
        return "one draw of z per example, as at the top"
    return f"{count} draws of z per example; the one at the top is of one draw, and differs by the noise of the draws alone"


def _rows(numbers: dict[str, Any]) -> list[Row]:
    k, or_more = numbers["num_samples"], " or more" if interval_of(numbers)[1] is None else ""
    trusted = "" if numbers["pareto_k_above_0.7"] is None else f"; Pareto k > 0.7 in {numbers['pareto_k_above_0.7']:.1%}"
    rows: list[Row] = [
        (
            "log p(x)",
            _value(numbers["log_px_mean"], numbers["log_px_standard_error"]),
            f"importance-weighted, K = {k} samples, worth {_value(numbers['effective_sample_size'], digits=0)} "
            f"(median){trusted}; a lower bound in expectation",
        ),
        (
            "its own errors",
            f"± {_value(numbers['log_px_monte_carlo_error'], digits=4)}, "
            f"too low by {_value(numbers['log_px_bias'], digits=4)}{or_more}",
            f"over the samples, and the bias estimated from K/2{_interval(numbers)}",
        ),
        (
            "ELBO",
            _value(numbers["test_elbo"], numbers["test_elbo_standard_error"]),
            f"{_draws(numbers['elbo_samples'])}; rate {_value(numbers['rate'])}, distortion {_value(numbers['distortion'])}",
        ),
    ]
    if numbers["log_px_bits_per_dim"] is not None:
        bits, of_elbo = (_value(numbers[name], digits=4) for name in ("log_px_bits_per_dim", "test_bits_per_dim"))
        rows.append(("bits per dimension", bits, f"of log p(x), an upper bound in expectation; of the ELBO {of_elbo}"))
    if "ais" in numbers:
        ais = numbers["ais"]
        rows.append(
            (
                "log p(x), annealed",
                _value(ais["log_px_mean"], ais["log_px_standard_error"]),
                f"from the {ais['start']}, {ais['num_temperatures']} temperatures, {ais['num_chains']} chains, the first "
                f"{ais['num_examples']} examples; a lower bound in expectation, "
                f"± {_value(ais['log_px_monte_carlo_error'], digits=4)} over the chains, "
                f"acceptance {_value(ais['acceptance_rate'], digits=2)}",
            )
        )
    if "bdmc" in numbers:
        bdmc = numbers["bdmc"]
        words = f"upper − lower bound (BDMC) of annealing, over {bdmc['num_examples']} examples simulated from the model; "
        words += "each is a bound in expectation"
        rows.append(("annealing's error", _with_error(bdmc, "gap"), words))
    if "gaps" in numbers:
        gaps = numbers["gaps"]
        for name, words in (
            (
                "approximation_gap",
                "best estimate of log p(x) − ELBO of the best diagonal Gaussian; too small by what the estimate lacks",
            ),
            ("amortization_gap", "that ELBO − the encoder's"),
        ):
            rows.append(
                (name.replace("_", " "), _with_error(gaps, name), f"{words}; the first {gaps['num_examples']} examples")
            )
    curve = ", ".join(f"{n} at {t}" for t, n in numbers["active_units_by_threshold"].items())
    active = f"{numbers['active_units']} of {numbers['latent_dim']}"
    rows += [
        ("active units", active, f"Var_x(E[z|x]) > 0.01; by threshold: {curve}"),
        (
            "mutual information",
            _with_error(numbers, "mutual_information"),
            f"of x and z, if these examples were all; at most log {numbers['num_test_examples']} = "
            f"{numbers['mutual_information_cap']:.2f}. Of the source: from here to "
            f"{_with_error(numbers, 'mutual_information_upper')}",
        ),
        ("total correlation", _with_error(numbers, "total_correlation"), "KL(q(z) ‖ Π q(z_j)), of the aggregate posterior"),
        ("dimension-wise KL", _with_error(numbers, "dimension_wise_kl"), "KL(Π q(z_j) ‖ p(z)); the three add up to the KL"),
    ]
    return rows
