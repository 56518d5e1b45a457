"""The results of evaluate.py as a table with errors, and warnings about them for the top of a report."""

import json

from vae_jax.evaluation.posterior_collapse import describe_collapse
from vae_jax.report import html
from vae_jax.report.html import Quantity, Record
from vae_jax.runs import Run
from vae_jax.runs.in_words import interval_of, remarks

_NATS = "nats per example"


def _read(run: Run) -> Record | None:
    """Returns evaluation.json if it belongs to the parameters and the prior of the run, else None."""
    refitted = None if run.refitted is None else run.refitted.record["marginal_kl_gain"]
    try:
        numbers = json.loads((run.path / "evaluation.json").read_text())
        is_current = numbers["evaluated_epoch"] == run.epoch and numbers.get("refit", {}).get("training_gain") == refitted
        return numbers if is_current and "log_px_mean" in numbers else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def warnings(run: Run) -> list[str]:
    """Returns warnings about posterior collapse and about estimates that should not be trusted."""
    if (numbers := _read(run)) is not None:
        return remarks(numbers)
    if run.summary is None or "latent_dim" not in run.summary:
        return []
    num_collapsed = len(run.summary.get("collapsed_units", ()))
    warning = describe_collapse(num_collapsed, run.summary["latent_dim"], run.summary["test_kl"])
    return [warning] if warning else []


def section(run: Run) -> str:
    """Returns the table with its heading, or the command that makes one."""
    numbers = _read(run)
    if numbers is None:
        text = f"For log p(x), mutual information and more, run vae-jax evaluate {run.path} and then draw this report again."
        return html.heading("Evaluation") + html.caption(text)
    text = (
        f"Over the {numbers['num_test_examples']} test examples, with β = 1 and seed {numbers['test_seed']}. ± is the standard "
        "error over these examples, except where a remark below says otherwise."
    )
    return html.heading("Evaluation") + html.caption(text) + html.quantity_table(_quantities(numbers))


def _value(value: float | None, error: float | None = None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:z.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _with_error(numbers: Record, name: str) -> str:
    return _value(numbers[name], numbers.get(f"{name}_standard_error"))


def _quantities(numbers: Record) -> list[Quantity]:
    rows = [*_log_px(numbers), *_elbo(numbers)]
    if "refit" in numbers:
        rows.append(_refit(numbers["refit"]))
    if "ais" in numbers:
        rows.append(_annealing(numbers["ais"]))
    if "bdmc" in numbers:
        remark = (
            "The error of annealing is the upper minus the lower bound (BDMC), over "
            f"{numbers['bdmc']['num_examples']} examples simulated from the model{_simulated(numbers)}. Each is a bound in "
            "expectation."
        )
        rows.append(Quantity("error of annealing", _with_error(numbers["bdmc"], "gap"), _NATS, remark))
    if "gaps" in numbers:
        rows += _gaps(numbers["gaps"], numbers.get("posterior"))
    return [*rows, *_code(numbers), *_labels(numbers)]


def _refit(refit: Record) -> Quantity:
    remark = (
        f"By so much log p(x) is higher than under the prior of the training, with which it is "
        f"{_with_error(refit, 'log_px_mean_before')}. The ELBO gains {_with_error(refit, 'elbo_gain')}."
    )
    if "marginal_kl" in refit:
        remark += (
            f" The marginal KL(q(z) ‖ p(z)) falls from {_with_error(refit, 'marginal_kl_before')} to "
            f"{_with_error(refit, 'marginal_kl')}, by {_with_error(refit, 'marginal_kl_gain')}."
        )
    return Quantity("gain of the refitted prior", _with_error(refit, "log_px_gain"), _NATS, remark)


def _simulated(numbers: Record) -> str:
    """Returns a phrase about simulated examples of a conditional model or of one of data with missing entries."""
    given = ", given the conditions of the first test examples" if "conditioned_on" in numbers else ""
    return given + (", without missing entries" if "missing_share_of_test" in numbers else "")


def _log_px(numbers: Record) -> list[Quantity]:
    low, high = interval_of(numbers)
    if low is None:
        interval = "No interval of the mean over these examples is known."
    elif high is None:
        interval = f"By these errors, the mean over these examples is at least {_value(low)}."
    else:
        interval = f"By these errors, the mean over these examples is in [{_value(low)}, {_value(high)}]."
    tail = numbers["pareto_k_above_0.7"]
    pareto = "" if tail is None else f" The Pareto shape k of the weights exceeds 0.7 for {tail:.1%} of the examples."
    at_least = "" if high is not None or numbers["log_px_bias"] is None else "≥ "
    return [
        Quantity(
            "log p(x)",
            _value(numbers["log_px_mean"], numbers["log_px_standard_error"]),
            _NATS,
            f"log p(x) is importance-weighted with K = {numbers['num_samples']} samples per example, whose median effective "
            f"sample size is {_value(numbers['effective_sample_size'], digits=0)}.{pareto} It is a lower bound in expectation.",
        ),
        Quantity(
            "its Monte Carlo error",
            f"± {_value(numbers['log_px_monte_carlo_error'], digits=4)}",
            _NATS,
            "The Monte Carlo error of log p(x) is its standard error over the importance samples.",
        ),
        Quantity(
            "its bias",
            f"{at_least}{_value(numbers['log_px_bias'], digits=4)}",
            _NATS,
            f"The bias is the amount by which log p(x) is too low, estimated from K/2 samples. {interval}",
        ),
    ]


def _describe_draws(count: int) -> str:
    """Says how many draws the ELBO uses, and why it differs from the one at the top of the report."""
    if count == 1:
        return "This ELBO uses one draw of z per example, as the one at the top does."
    return (
        f"This ELBO uses {count} draws of z per example. The one at the top uses one draw, and differs by the noise of the "
        "draws alone."
    )


def _elbo(numbers: Record) -> list[Quantity]:
    rows = [
        Quantity(
            "ELBO",
            _value(numbers["test_elbo"], numbers["test_elbo_standard_error"]),
            _NATS,
            _describe_draws(numbers["elbo_samples"]),
        ),
        Quantity("rate", _value(numbers["rate"]), _NATS, "The rate is the KL, and the distortion is −E log p(x|z)."),
        Quantity("distortion", _value(numbers["distortion"]), _NATS),
    ]
    if numbers["log_px_bits_per_dim"] is not None:
        from_log_px, from_elbo = (_value(numbers[name], digits=4) for name in ("log_px_bits_per_dim", "test_bits_per_dim"))
        name = "bits per observed entry" if "missing_share_of_test" in numbers else "bits per dimension"
        remark = f"{name.capitalize()} from log p(x) are an upper bound in expectation. From the ELBO they are {from_elbo}."
        rows.append(Quantity(name, from_log_px, "bits", remark))
    return rows


def _annealing(ais: Record) -> Quantity:
    remark = (
        f"Annealed importance sampling starts from the {ais['start']} and uses {ais['num_temperatures']} temperatures, "
        f"{ais['num_chains']} chains and the first {ais['num_examples']} examples. It is a lower bound in expectation. Its "
        f"Monte Carlo error over the chains is ± {_value(ais['log_px_monte_carlo_error'], digits=4)} nats, and its acceptance "
        f"rate is {_value(ais['acceptance_rate'], digits=2)}."
    )
    return Quantity("log p(x), annealed", _value(ais["log_px_mean"], ais["log_px_standard_error"]), _NATS, remark)


def _gaps(gaps: Record, posterior: Record | None) -> list[Quantity]:
    best = "diagonal Gaussian" if posterior is None else f"{posterior['name']} posterior with the weights of this model"
    approximation = (
        f"The approximation gap is the best estimate of log p(x) minus the ELBO of the best {best}, over the first "
        f"{gaps['num_examples']} examples. It is too small by the bias of that estimate."
    )
    amortization = f"The amortization gap is the ELBO of the best {best} minus that of the encoder."
    return [
        Quantity("approximation gap", _with_error(gaps, "approximation_gap"), _NATS, approximation),
        Quantity("amortization gap", _with_error(gaps, "amortization_gap"), _NATS, amortization),
    ]


def _labels(numbers: Record) -> list[Quantity]:
    """Returns the accuracy of labels that are predicted from codes, where the data have labels."""
    if "knn_accuracy" not in numbers:
        return []

    def accuracy(name: str) -> str:
        return _value(numbers[name], numbers[f"{name}_standard_error"])

    neighbors = (
        f"The label of each of {numbers['probe_test_codes']} test examples is that of most of its {numbers['knn_neighbors']} "
        f"nearest neighbors among the standardized posterior means of {numbers['probe_train_codes']} training examples. Always "
        f"the most frequent of the {numbers['num_labels']} labels would give {accuracy('majority_accuracy')}."
    )
    if "conditioned_on" in numbers:
        neighbors += " The decoder is given c, so codes need not contain what c says."
    converged = "" if numbers["linear_probe_converged"] else " It had not converged."
    return [
        Quantity("kNN accuracy of labels", accuracy("knn_accuracy"), "share", neighbors),
        Quantity(
            "linear probe of labels",
            accuracy("linear_probe_accuracy"),
            "share",
            f"The linear probe is logistic regression on the same codes.{converged}",
        ),
    ]


def _code(numbers: Record) -> list[Quantity]:
    by_threshold = ", ".join(f"{count} at {t}" for t, count in numbers["active_units_by_threshold"].items())
    information = (
        "The mutual information of x and z takes these examples for the whole population, so it is at most "
        f"log {numbers['num_test_examples']} = {numbers['mutual_information_cap']:.2f} nats. The mutual information for the "
        f"source of the data lies between it and {_with_error(numbers, 'mutual_information_upper')}."
    )
    if "conditioned_on" in numbers:
        information += (
            " q(z) is the mean of q(z|x) over the test examples with their conditions, so this and the next two terms take x "
            "together with c, and include what z says about c."
        )
    layers = []
    if "kl_per_layer" in numbers:
        values = ", ".join(_value(value, digits=2) for value in numbers["kl_per_layer"])
        remark = "The KL of each layer given the layers above it, the top layer first, from one draw for each example."
        layers.append(Quantity("KL of the layers", values, _NATS, remark))
    return [
        *layers,
        Quantity(
            "active units",
            f"{numbers['active_units']} of {numbers['latent_dim']}",
            "units",
            f"A unit is active if Var_x(E[z|x]) > 0.01. The counts by threshold are {by_threshold}.",
        ),
        Quantity("mutual information", _with_error(numbers, "mutual_information"), _NATS, information),
        Quantity(
            "total correlation",
            _with_error(numbers, "total_correlation"),
            _NATS,
            "The total correlation is KL(q(z) ‖ Π q(z_j)), where q(z) is the aggregate posterior.",
        ),
        Quantity(
            "dimension-wise KL",
            _with_error(numbers, "dimension_wise_kl"),
            _NATS,
            "The dimension-wise KL is KL(Π q(z_j) ‖ p(z)). Mutual information, total correlation and this term add up to the "
            "KL.",
        ),
    ]
