"""What somebody else's VAE loss is in our terms, and how to write ours in PyTorch: plain numbers in, plain numbers out.

Ours, for one example, in nats, summed over pixels and latent dimensions, the likelihood normalised:

    loss(x) = -(E_q[log p(x|z)] - beta KL(q(z|x) || N(0, I)))

Theirs, for a batch of N, from an error e for each pixel and a divergence kl for each latent dimension:

    L = scale_factor * REDUCE_r(e) + kl_weight * REDUCE_k(kl)

where a REDUCE gives f times the mean over examples of the sum over their D pixels (or D latent dimensions):

    "sum"          f = N      sum over everything, the batch too: torch's reduction="sum"
    "mean"         f = 1/D    mean over everything: torch's reduction="mean", which is its default
    "batch_mean"   f = 1      sum over dimensions, mean over examples; also "batchmean", "mean_sum", "sum_mean"
"""

import math
import numbers
from typing import Any, NamedTuple

from vae_jax.errors import unknown


class _Error(NamedTuple):
    likelihood: str
    power: int  # only beta * scale^power decides where the minimum is; 0: the error has no fixed scale
    weight: float  # scale_factor * e is -log p(x|z), up to a constant, where scale^-power = weight * scale_factor
    constant: float  # what e leaves out of -log p(x|z) of one pixel at scale 1, nats
    torch: str  # how PyTorch calls e
    decoded: str = "mean of x"  # what the decoder puts out


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
    """A foreign loss in our terms. Pairs of equal beta scale^2 (Gaussian) or beta scale (Laplace) have the same minimum."""

    likelihood: str  # "bernoulli", "gaussian" or "laplace"
    beta: float  # weight of the KL, >= 0; 0 is an autoencoder
    scale: float | None  # of every pixel: standard deviation (Gaussian) or scale (Laplace); None: has none, or it is learned
    scale_at_beta_one: float | None  # the scale of the plain VAE with the same minimum; None without a scale or at beta 0
    beta_at_scale_one: float | None  # the beta at scale 1 with the same minimum; None without a scale
    constant: float  # nats for each example that the loss leaves out
    multiplier: float  # multiplier * L + constant is our mean loss; put L / N for L where the error is summed over the batch
    batch_size: int | None  # the only N that `beta` holds for; None where N does not matter

    @property
    def flags(self) -> str:
        """The same loss for experiments/train.py. There a learned scale is one number for all pixels."""
        scale = "shared" if self.scale is None else f"{self.scale:.7g}"
        likelihood = self.likelihood if self.likelihood == "bernoulli" else f"{self.likelihood} --scale {scale}"
        return f"--likelihood {likelihood} --beta {self.beta:.7g}"

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        size = "" if self.batch_size is None else f", in batches of {self.batch_size} (beta changes with that),"
        text = f"Up to a factor and a constant this loss is -(E log p(x|z) - {self.beta:.4g} KL) of one example{size}"
        if self.likelihood == "bernoulli":
            text += " with a Bernoulli for every pixel, a likelihood only of 0 and 1: for grey pixels use continuous_bernoulli"
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
    """Our loss in somebody else's reductions. The fields are the arguments of `implied`: implied(**recipe._asdict())."""

    reconstruction: str
    reconstruction_reduction: str
    kl_reduction: str
    kl_weight: float
    scale_factor: float
    data_dims: int
    latent_dims: int
    batch_size: int | None  # the only N that kl_weight holds for

    @property
    def code(self) -> str:
        """PyTorch lines from `decoded`, `x`, `mean`, `log_scale` (and `decoded_log_scale`) to a `loss` to minimise."""
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


def _expect(good: bool, what: str, expected: str, got: Any) -> None:
    if not good:
        raise ValueError(f"{what}: expected {expected}, got {got!r}.")


def _within(value: Any, least: float, most: float) -> bool:
    number: Any = value if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    return least <= number <= most


def _among(kind: str, name: Any, names: dict[str, str]) -> str:
    if not isinstance(name, str) or name not in names:
        raise unknown(kind, str(name), names)
    return names[name]


def _factors(where: str, error: str, kl: str, data: int, latent: int, size: int | None) -> tuple[float, float, int | None]:
    """The f of both terms (module docstring) without an N that they share, and the N that f_kl / f_error depends on."""
    for name, value in {"data_dims": data, "latent_dims": latent, "batch_size": size}.items():
        good = (isinstance(value, numbers.Integral) and _within(value, 1, 1e15)) or (name == "batch_size" and value is None)
        _expect(good, f"{where}: {name}", "a whole number >= 1 (of a shape, the product)", value)
    matters = (error == "sum") != (kl == "sum")
    why = f"a number, on which beta depends when the error is reduced by {error!r} and the KL by {kl!r}"
    _expect(not matters or size is not None, f"{where}: batch_size", why, size)
    f = {"sum": float(size) if matters and size is not None else 1.0, "batch_mean": 1.0}
    return f.get(error, 1 / data), f.get(kl, 1 / latent), size if matters else None


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
    """The likelihood, its scale and the beta that a foreign loss stands for.

        beta = kl_weight f_k / f_r,   with the f of the reductions (module docstring)
        mse:  1 / (2 scale^2) = scale_factor      half_mse:  1 / scale^2 = scale_factor      mae:  1 / scale = scale_factor
        bce, gaussian_nll:  no such scale, so beta = kl_weight f_k / (scale_factor f_r)

    Args:
      reconstruction: the error of a pixel: "mse" ("l2") (x - m)^2; "half_mse" half of it; "mae" ("l1") |x - m|; "bce"
        ("cross_entropy"); "gaussian_nll" 1/2 (log v + (x - m)^2 / v), v learned: torch's GaussianNLLLoss with full=False.
      reconstruction_reduction, kl_reduction: "sum", "mean" or "batch_mean".
      kl_weight, scale_factor: the factors of the reduced KL, >= 0, and of the reduced error, > 0.
      data_dims, latent_dims: pixels times channels of an example; dimensions of z.
      batch_size: N; needed where one term is summed over the batch and the other is not.

    Returns:
      `Implied`: beta, scale, the pairs with the same minimum, and multiplier and constant, which turn L into our mean loss.

    Example:
      >>> theirs = implied("mse", reconstruction_reduction="mean", kl_reduction="batch_mean", kl_weight=0.00025,
      ...                  data_dims=64 * 64 * 3, latent_dims=128)
      >>> print(theirs.flags)
      --likelihood gaussian --scale 0.7071 --beta 3.072
      >>> round(theirs.scale_at_beta_one, 3), round(theirs.beta_at_scale_one, 3)
      (1.239, 1.536)

    Source:
      Kingma & Welling (2014), appendix C. That beta and scale^2 trade against each other: Rybkin et al. (2021).
    """
    error = _ERRORS[_among("reconstruction", reconstruction, _ERROR_NAMES)]
    by, kl_by = _among("reduction", reconstruction_reduction, _REDUCTIONS), _among("reduction", kl_reduction, _REDUCTIONS)
    _expect(_within(kl_weight, 0, 1e30), "implied: kl_weight", "a number >= 0", kl_weight)  # more overflows float32
    _expect(_within(scale_factor, 1e-30, 1e30), "implied: scale_factor", "a number > 0", scale_factor)
    f_error, f_kl, only_size = _factors("implied", by, kl_by, data_dims, latent_dims, batch_size)
    beta, multiplier = float(kl_weight) * f_kl / f_error, float(data_dims) if by == "mean" else 1.0
    if not error.power:  # a factor in front of the error is no parameter of its likelihood: it makes the KL weigh less
        beta, multiplier = beta / float(scale_factor), multiplier / float(scale_factor)
        return Implied(error.likelihood, beta, None, None, None, data_dims * error.constant, multiplier, only_size)
    scale = (error.weight * float(scale_factor)) ** (-1 / error.power)
    at_beta_one = scale * beta ** (1 / error.power) if beta else None  # no density has scale 0
    constant = data_dims * (error.constant + math.log(scale))
    return Implied(error.likelihood, beta, scale, at_beta_one, beta * scale**error.power, constant, multiplier, only_size)


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
    """Our loss, up to a constant and a positive factor, in PyTorch's words: the inverse of `implied`.

        kl_weight = beta f_r / f_k      gaussian:  scale_factor = 1 / (2 scale^2)      laplace:  scale_factor = 1 / scale

    Args:
      likelihood, beta: "bernoulli", "gaussian" or "laplace"; weight of the KL, >= 0.
      scale: standard deviation of the Gaussian, None for a learned one; scale of the Laplace; None for the Bernoulli.
      reconstruction_reduction, kl_reduction, data_dims, latent_dims, batch_size: as for `implied`.

    Returns:
      `Recipe`, whose `code` is a loss that implied(**recipe._asdict()) turns into ours again, by a multiplier and a constant.

    Example:
      >>> print(in_pytorch("gaussian", scale=0.5, beta=2.0, data_dims=784, latent_dims=20).code)
      # decoded: mean of x; mean, log_scale: of q(z|x), shape (batch, 20)
      reconstruction = F.mse_loss(decoded, x, reduction="sum")
      kl = (0.5 * (mean.square() + torch.expm1(2 * log_scale) - 2 * log_scale)).sum()
      loss = 2 * reconstruction + 2 * kl
    """
    with_scale = _among("likelihood", likelihood, {"bernoulli": "", "gaussian": "mse", "laplace": "mae"})
    _expect(_within(beta, 0, 1e30), "in_pytorch: beta", "a number >= 0", beta)
    if scale is not None or likelihood == "laplace":
        good = with_scale != "" and _within(scale, 1e-9, 1e9)
        _expect(good, "in_pytorch: scale", "a number > 0 (None for a Bernoulli, which has none)", scale)
    by, kl_by = _among("reduction", reconstruction_reduction, _REDUCTIONS), _among("reduction", kl_reduction, _REDUCTIONS)
    f_error, f_kl, only_size = _factors("in_pytorch", by, kl_by, data_dims, latent_dims, batch_size)
    name = with_scale if scale is not None else "bce" if likelihood == "bernoulli" else "gaussian_nll"
    scale_factor = 1.0 if scale is None else float(scale) ** -_ERRORS[name].power / _ERRORS[name].weight
    return Recipe(name, by, kl_by, float(beta) * f_error / f_kl, scale_factor, data_dims, latent_dims, only_size)


# Public losses, as (name, repository, file and version, arguments): implied(**arguments) says what they are.
_SUMMED_MSE = {"reconstruction": "mse", "reconstruction_reduction": "batch_mean", "kl_reduction": "batch_mean"}
_MEAN_MSE = _SUMMED_MSE | {"reconstruction_reduction": "mean"}
EXAMPLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
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
