"""Translates VAE losses of other code bases into the terms of this one, and ours into PyTorch.

Both directions take and return plain numbers. Our loss, for one example, in nats, summed over pixels and latent dimensions,
with a normalized likelihood, is

    loss(x) = -(E_q[log p(x|z)] - beta KL(q(z|x) || N(0, I)))

The foreign loss, for a batch of N, from an error e for each pixel and a divergence kl for each latent dimension, is

    L = scale_factor * REDUCE_r(e) + kl_weight * REDUCE_k(kl)

A REDUCE gives f times the mean over examples of the sum over their D pixels (or D latent dimensions):

    "sum"          f = N      sum over everything, the batch too: torch's reduction="sum"
    "mean"         f = 1/D    mean over everything: torch's reduction="mean", which is its default
    "batch_mean"   f = 1      sum over dimensions, mean over examples; also "batchmean", "mean_sum", "sum_mean"

Losses of counts need no translation of numbers: they are means over examples of sums over columns, and the weight of the KL is
our beta.

    Mult-VAE   -sum_i x_i log softmax(f(z))_i + anneal KL: `multinomial`, beta = anneal. The loss leaves out the coefficient
               log n! - sum_i log x_i!, which depends on the data alone.
    scVI       -log_zinb_positive (log_nb_positive, Poisson) summed over genes + kl_weight KL, observed library size:
               `zero_inflated_negative_binomial` (`negative_binomial`, `poisson`), `exposure="observed"`, r = exp(px_r),
               beta = kl_weight. The constants are all there, and an eps of 1e-8 is added inside of its logarithms. A learned
               library size adds a KL, which has no counterpart here.
"""

import math
import numbers
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from vae_jax.errors import unknown


class _Error(NamedTuple):
    """A reconstruction error e of one pixel, and the likelihood that it stands for."""

    likelihood: str
    power: int  # the minimum depends on beta * scale^power only; 0 if the error does not have a fixed scale
    weight: float  # scale_factor * e is -log p(x|z), up to a constant, where scale^-power = weight * scale_factor
    constant: float  # nats of -log p(x|z) of one pixel at scale 1 that e leaves out
    torch: str  # the call of e in PyTorch
    decoded: str = "mean of x"  # meaning of the decoder output


_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_NLL = "F.gaussian_nll_loss(decoded, x, (2 * decoded_log_scale).exp().expand_as(x)"
_ERRORS = {
    "mse": _Error("gaussian", 2, 2.0, _HALF_LOG_2PI, "F.mse_loss(decoded, x"),
    "half_mse": _Error("gaussian", 2, 1.0, _HALF_LOG_2PI, "0.5 * F.mse_loss(decoded, x"),
    "mae": _Error("laplace", 1, 1.0, math.log(2), "F.l1_loss(decoded, x", "median of x"),
    "bce": _Error("bernoulli", 0, 1.0, 0.0, "F.binary_cross_entropy_with_logits(decoded, x", "logits of x"),
    "gaussian_nll": _Error("gaussian", 0, 1.0, _HALF_LOG_2PI, _NLL, "mean of x, decoded_log_scale: its log standard deviation"),
}
_ERROR_NAMES = {name: name for name in _ERRORS} | {"l2": "mse", "l1": "mae", "cross_entropy": "bce"}
_REDUCTIONS = {"sum": "sum", "mean": "mean"} | dict.fromkeys(("batch_mean", "batchmean", "mean_sum", "sum_mean"), "batch_mean")


class Implied(NamedTuple):
    """A foreign loss in our terms.

    Pairs of beta and scale with equal beta scale^2 (Gaussian) or beta scale (Laplace) have the same minimum.

    Attributes:
      likelihood: "bernoulli", "gaussian" or "laplace".
      beta: weight of the KL, >= 0. 0 is an autoencoder.
      scale: standard deviation (Gaussian) or scale (Laplace) of every pixel. None: a Bernoulli, or a learned scale.
      scale_at_beta_one: the scale of the plain VAE with the same minimum. None without a scale, or at beta 0.
      beta_at_scale_one: the beta at scale 1 with the same minimum. None without a scale.
      constant: nats for each example that the loss leaves out.
      multiplier: multiplier * L + constant is our mean loss. Use L / N for L where the error is summed over the batch.
      batch_size: the only N for which `beta` holds. None if N does not matter.
    """

    likelihood: str
    beta: float
    scale: float | None
    scale_at_beta_one: float | None
    beta_at_scale_one: float | None
    constant: float
    multiplier: float
    batch_size: int | None

    @property
    def settings(self) -> dict[str, str | float]:
        """Settings of a `config.Config` with this loss. A learned scale is one number for all pixels there."""
        scale = {} if self.likelihood == "bernoulli" else {"scale": "shared" if self.scale is None else self.scale}
        return {"likelihood": self.likelihood, **scale, "beta": self.beta}

    @property
    def flags(self) -> str:
        """The same settings as options of the training command, numbers with seven digits."""
        values = {name: value if isinstance(value, str) else f"{value:.7g}" for name, value in self.settings.items()}
        return " ".join(f"--{name} {value}" for name, value in values.items())

    @property
    def sentence(self) -> str:
        """The whole result in one sentence."""
        size = "" if self.batch_size is None else f", in batches of {self.batch_size} (beta changes with that),"
        text = f"Up to a factor and a constant this loss is -(E log p(x|z) - {self.beta:.4g} KL) of one example{size}"
        if self.likelihood == "bernoulli":
            text += " with a Bernoulli for every pixel, a likelihood only of 0 and 1: for gray pixels use continuous_bernoulli"
        elif self.scale is None:
            text += " with a Gaussian whose standard deviation is learned"
        else:
            name = "standard deviation" if self.likelihood == "gaussian" else "scale"
            text += f" with a {self.likelihood.capitalize()} of {name} {self.scale:.4g} for every pixel"
            pairs = ((1.0, self.scale_at_beta_one), (self.beta_at_scale_one, 1.0)) if self.beta else ()
            others = [f"beta {b:.4g} with {name} {s:.4g}" for b, s in pairs if (b, s) != (self.beta, self.scale)]
            text += f", the same minimum as {' or '.join(others)}" if others else ""
        return text + ("; nothing ties q(z|x) to the prior: an autoencoder." if self.beta == 0 else ".")


class Recipe(NamedTuple):
    """Our loss in other reductions. The fields are the arguments of `implied`, so implied(**recipe._asdict()) inverts it."""

    reconstruction: str
    reconstruction_reduction: str
    kl_reduction: str
    kl_weight: float
    scale_factor: float
    data_dims: int
    latent_dims: int
    batch_size: int | None  # the only N for which kl_weight holds

    @property
    def code(self) -> str:
        """Lines of PyTorch that compute a `loss` to minimize.

        They use the names `decoded`, `x`, `mean` and `log_scale`, and `decoded_log_scale` for a learned scale.
        """
        error = _ERRORS[self.reconstruction]
        reduced = {"sum": '"sum")', "mean": '"mean")', "batch_mean": '"sum") / len(x)'}[self.reconstruction_reduction]
        reduced_kl = {"sum": ".sum()", "mean": ".mean()", "batch_mean": ".sum() / len(x)"}[self.kl_reduction]
        examples = self.batch_size or "batch"
        return (
            f"# decoded: {error.decoded}; mean, log_scale: of q(z|x), shape ({examples}, {self.latent_dims})\n"
            f"reconstruction = {error.torch}, reduction={reduced}\n"
            f"kl = (0.5 * (mean.square() + torch.expm1(2 * log_scale) - 2 * log_scale)){reduced_kl}\n"
            f"loss = {self.scale_factor:.12g} * reconstruction + {self.kl_weight:.12g} * kl\n"
        )


def _expect(is_valid: bool, argument: str, expected: str, got: object) -> None:
    if not is_valid:
        raise ValueError(f"{argument}: expected {expected}, got {got!r}.")


def _is_within(value: object, least: float, most: float) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and least <= value <= most  # pyright: ignore[reportOperatorIssue]


def _canonical_name(kind: str, name: object, names: Mapping[str, str]) -> str:
    if not isinstance(name, str) or name not in names:
        raise unknown(kind, str(name), names)
    return names[name]


def _factors(function: str, error: str, kl: str, data: int, latent: int, size: int | None) -> tuple[float, float, int | None]:
    """Returns the f of both terms (see the module docstring) and the N on which f_kl / f_error depends.

    An N that both terms share is left out of their f.
    """
    for name, value in {"data_dims": data, "latent_dims": latent, "batch_size": size}.items():
        is_optional = name == "batch_size" and value is None
        is_valid = is_optional or (isinstance(value, numbers.Integral) and _is_within(value, 1, 1e15))
        _expect(is_valid, f"{function}: {name}", "a whole number >= 1 (of a shape, the product)", value)
    needs_size = (error == "sum") != (kl == "sum")
    expected = f"a number, on which beta depends when the error is reduced by {error!r} and the KL by {kl!r}"
    _expect(not needs_size or size is not None, f"{function}: batch_size", expected, size)
    f = {"sum": float(size) if needs_size and size is not None else 1.0, "batch_mean": 1.0}
    return f.get(error, 1 / data), f.get(kl, 1 / latent), size if needs_size else None


def implied(
    reconstruction: str,
    *,
    reconstruction_reduction: str = "sum",
    kl_reduction: str = "sum",
    kl_weight: float = 1.0,
    scale_factor: float = 1.0,
    data_dims: int,
    latent_dims: int,
    batch_size: int | None = None,
) -> Implied:
    """Computes the likelihood, its scale and the beta that a foreign loss stands for.

        beta = kl_weight f_k / f_r,   with the f of the reductions (see the module docstring)
        mse:  1 / (2 scale^2) = scale_factor      half_mse:  1 / scale^2 = scale_factor      mae:  1 / scale = scale_factor
        bce, gaussian_nll:  without such a scale, beta = kl_weight f_k / (scale_factor f_r)

    Args:
      reconstruction: the error of a pixel. "mse" (or "l2") is (x - m)^2, "half_mse" half of it. "mae" (or "l1") is |x - m|.
        "bce" (or "cross_entropy") is the binary cross-entropy. "gaussian_nll" is 1/2 (log v + (x - m)^2 / v) with a learned v,
        which is torch's GaussianNLLLoss with full=False.
      reconstruction_reduction, kl_reduction: "sum", "mean" or "batch_mean".
      kl_weight: factor of the reduced KL, >= 0.
      scale_factor: factor of the reduced error, > 0.
      data_dims: pixels times channels of an example, >= 1.
      latent_dims: dimensions of z, >= 1.
      batch_size: N. It is needed if one term is summed over the batch and the other is not.

    Returns:
      `Implied`: beta, scale, the pairs with the same minimum, and the multiplier and the constant that turn L into our mean
      loss.

    Raises:
      ValueError: an argument is out of range, or a name is unknown.

    Example:
      >>> theirs = implied("mse", reconstruction_reduction="mean", kl_reduction="batch_mean", kl_weight=0.00025,
      ...                  data_dims=64 * 64 * 3, latent_dims=128)
      >>> round(theirs.beta, 3), round(theirs.scale, 4)
      (3.072, 0.7071)
      >>> round(theirs.scale_at_beta_one, 3), round(theirs.beta_at_scale_one, 3)
      (1.239, 1.536)

    Source:
      Kingma & Welling (2014), appendix C. The trade-off between beta and scale^2: Rybkin et al. (2021).
    """
    error = _ERRORS[_canonical_name("reconstruction", reconstruction, _ERROR_NAMES)]
    reduction = _canonical_name("reduction", reconstruction_reduction, _REDUCTIONS)
    kl_reduction = _canonical_name("reduction", kl_reduction, _REDUCTIONS)
    _expect(_is_within(kl_weight, 0, 1e30), "implied: kl_weight", "a number >= 0", kl_weight)  # more overflows float32
    _expect(_is_within(scale_factor, 1e-30, 1e30), "implied: scale_factor", "a number > 0", scale_factor)
    f_error, f_kl, size = _factors("implied", reduction, kl_reduction, data_dims, latent_dims, batch_size)
    beta, multiplier = float(kl_weight) * f_kl / f_error, float(data_dims) if reduction == "mean" else 1.0
    if not error.power:  # a factor of such an error is not a parameter of its likelihood, but it divides the weight of the KL
        beta, multiplier = beta / float(scale_factor), multiplier / float(scale_factor)
        return Implied(error.likelihood, beta, None, None, None, data_dims * error.constant, multiplier, size)
    scale = (error.weight * float(scale_factor)) ** (-1 / error.power)
    at_beta_one = scale * beta ** (1 / error.power) if beta else None  # a density cannot have scale 0
    constant = data_dims * (error.constant + math.log(scale))
    return Implied(error.likelihood, beta, scale, at_beta_one, beta * scale**error.power, constant, multiplier, size)


def in_pytorch(
    likelihood: str,
    *,
    beta: float = 1.0,
    scale: float | None = None,
    reconstruction_reduction: str = "sum",
    kl_reduction: str = "sum",
    data_dims: int,
    latent_dims: int,
    batch_size: int | None = None,
) -> Recipe:
    """Writes our loss, up to a constant and a positive factor, in PyTorch. It is the inverse of `implied`.

        kl_weight = beta f_r / f_k      gaussian:  scale_factor = 1 / (2 scale^2)      laplace:  scale_factor = 1 / scale

    Args:
      likelihood: "bernoulli", "gaussian" or "laplace".
      beta: weight of the KL, >= 0.
      scale: standard deviation of the Gaussian, or None for a learned one. Scale of the Laplace. None for the Bernoulli.
      reconstruction_reduction, kl_reduction, data_dims, latent_dims, batch_size: see `implied`.

    Returns:
      `Recipe`. The loss of its `code` and ours differ by the multiplier and the constant of implied(**recipe._asdict()).

    Raises:
      ValueError: an argument is out of range, or a name is unknown.

    Example:
      >>> print(in_pytorch("gaussian", scale=0.5, beta=2.0, data_dims=784, latent_dims=20).code)
      # decoded: mean of x; mean, log_scale: of q(z|x), shape (batch, 20)
      reconstruction = F.mse_loss(decoded, x, reduction="sum")
      kl = (0.5 * (mean.square() + torch.expm1(2 * log_scale) - 2 * log_scale)).sum()
      loss = 2 * reconstruction + 2 * kl
    """
    scaled_error = _canonical_name("likelihood", likelihood, {"bernoulli": "", "gaussian": "mse", "laplace": "mae"})
    _expect(_is_within(beta, 0, 1e30), "in_pytorch: beta", "a number >= 0", beta)
    if scale is not None or likelihood == "laplace":
        is_valid = scaled_error != "" and _is_within(scale, 1e-9, 1e9)
        _expect(is_valid, "in_pytorch: scale", "a number > 0 (None for a Bernoulli, which has none)", scale)
    reduction = _canonical_name("reduction", reconstruction_reduction, _REDUCTIONS)
    kl_reduction = _canonical_name("reduction", kl_reduction, _REDUCTIONS)
    f_error, f_kl, size = _factors("in_pytorch", reduction, kl_reduction, data_dims, latent_dims, batch_size)
    name = scaled_error if scale is not None else "bce" if likelihood == "bernoulli" else "gaussian_nll"
    scale_factor = 1.0 if scale is None else float(scale) ** -_ERRORS[name].power / _ERRORS[name].weight
    return Recipe(name, reduction, kl_reduction, float(beta) * f_error / f_kl, scale_factor, data_dims, latent_dims, size)


# Losses of public repositories, as (name, repository with file and version, arguments). `implied(**arguments)` translates them.
_Arguments: TypeAlias = dict[str, str | float]
_SUMMED_MSE: _Arguments = {"reconstruction": "mse", "reconstruction_reduction": "batch_mean", "kl_reduction": "batch_mean"}
_MEAN_MSE = _SUMMED_MSE | {"reconstruction_reduction": "mean"}
EXAMPLES: tuple[tuple[str, str, _Arguments], ...] = (
    ("summed BCE + KL", "pytorch/examples vae/main.py 77f55b9", {"reconstruction": "bce", "data_dims": 784, "latent_dims": 20}),
    (
        "summed MSE + KL",
        "google-research/disentanglement_lib disentanglement_lib/methods/shared/losses.py (l2_loss) 86a644d",
        {**_SUMMED_MSE, "data_dims": 64 * 64, "latent_dims": 10},
    ),
    (
        "pixel-mean MSE + 0.00025 KL",
        "AntixK/PyTorch-VAE models/vanilla_vae.py and configs/vae.yaml a6896b9",
        {**_MEAN_MSE, "kl_weight": 0.00025, "data_dims": 64 * 64 * 3, "latent_dims": 128},
    ),
    (
        "255 times the summed MSE + KL",
        "YannDubs/disentangling-vae disvae/models/losses.py (rec_dist gaussian) f045219",
        {**_SUMMED_MSE, "scale_factor": 255.0, "data_dims": 64 * 64 * 3, "latent_dims": 10},
    ),
    (
        "pixel-mean MSE + 0.1 latent-mean KL",
        "Lightning-Universe/lightning-bolts pl_bolts/models/autoencoders/basic_vae/basic_vae_module.py 0.7.0",
        {**_MEAN_MSE, "kl_reduction": "mean", "kl_weight": 0.1, "data_dims": 32 * 32 * 3, "latent_dims": 256},
    ),
)
