"""What the latent code carries: from the posteriors of a data set, (examples, latent) means and log standard deviations."""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.short_repr import short_repr
from vae_jax.divergences import kl_per_dimension
from vae_jax.posteriors import posterior_log_prob, sample_posterior

_NOTHING = 0.1  # nats of KL in all: the code says next to nothing of x
REMEDIES = (
    "usual remedies: a lower --beta, a warm-up of it (--beta-warmup-steps), --objective free_bits, a learned or smaller "
    "--scale, a weaker decoder"
)


def active_units(posterior_means: Array, threshold: ArrayLike = 0.01) -> Array:
    """Number of latent dimensions whose posterior mean varies over the data: Var_x(E_q[z_j]) > threshold.

    Args:
      posterior_means: (examples, latent), E_q(z|x)[z] of each example.
      threshold: variance, 0.01 in the paper; an array of thresholds gives the curve over them.

    Returns:
      Whole numbers, of the shape of threshold.

    Example:
      >>> active_units(jnp.array([[0.0, 1.0], [0.1, -1.0]]), jnp.array([0.001, 0.01])).tolist()
      [2, 1]

    Source:
      Burda et al. (2016), section 5.2.
    """
    if jnp.ndim(posterior_means) != 2:
        raise ValueError(f"active_units: expected means (examples, latent), got shape {jnp.shape(posterior_means)}.")
    return jnp.sum(jnp.var(posterior_means, axis=0) > jnp.asarray(threshold)[..., None], axis=-1)


@short_repr
class Collapse(NamedTuple):
    """Which latent dimensions carry nothing, by the definition of Lucas et al. (2019)."""

    collapsed: Array  # (latent,), booleans
    share_below: Array  # (latent,), the share of examples whose KL in that dimension is below epsilon


def collapse(mean: Array, log_scale: Array, *, epsilon: float = 0.01, delta: float = 0.01) -> Collapse:
    """The (epsilon, delta)-collapse of each latent dimension, for a data set.

        dimension j is collapsed when  P_x[ KL(q(z_j|x) || N(0, 1)) < epsilon ] >= 1 - delta

    Args:
      mean, log_scale: of q(z|x), (examples, latent).
      epsilon: nats.
      delta: share of examples that may use the dimension all the same.

    Returns:
      `Collapse`.

    Example: the first dimension is at the prior, the second is not.
      >>> collapse(jnp.array([[0.0, 2.0], [0.01, -2.0]]), jnp.array([[0.0, -1.0], [0.0, -1.0]])).collapsed.tolist()
      [True, False]

    Source:
      Lucas et al. (2019).
    """
    below = jnp.mean(jax.vmap(kl_per_dimension)(mean, log_scale) < epsilon, axis=0)
    return Collapse(below >= 1 - delta, below)


def collapse_words(num_collapsed: int, latent_dim: int, kl: float) -> str | None:
    """One sentence for a user on the dimensions that `collapse` found and the mean KL of all, in nats; None if all is well."""
    if num_collapsed == latent_dim or kl < _NOTHING:
        return f"posterior collapse: the {latent_dim} latent dimensions together carry {kl:z.3f} nats of x; {REMEDIES}."
    if num_collapsed:
        return f"{num_collapsed} of {latent_dim} latent dimensions are collapsed onto the prior and carry nothing of x."
    return None


def is_collapsing(kl: Sequence[float], patience: int = 10) -> bool:
    """Whether the mean KL after each epoch so far, in nats, means that the code carries next to nothing of x.

    True when the last `patience` epochs are all below 0.1 nats: a healthy run may pass through there in its first epochs.
    """
    return len(kl) >= patience and max(kl[-patience:]) < _NOTHING


class Overfit(NamedTuple):
    """The best held-out ELBO of a run, beside the one of the parameters that it reports."""

    split: str  # "validation", or "test" without a validation set
    best_epoch: int
    best_elbo: float
    epoch: int
    elbo: float

    @property
    def fall(self) -> float:
        """Nats that were lost since the best epoch."""
        return self.best_elbo - self.elbo


def overfit(lines: Sequence[Mapping[str, Any]], epoch: int | None = None) -> Overfit | None:
    """Finds a held-out ELBO that had clearly peaked before the epoch that is evaluated, while the training ELBO still rose.

    Both curves are smoothed by a running median over a tenth of the epochs (at most five) first. The fall counts as clear
    beyond two standard errors over the examples, and beyond four times the usual change from one epoch to the next. The
    standard error is that of one epoch's mean; the difference of two epochs on the same examples is less uncertain.

    Args:
      lines: of the epochs in order, as in metrics.jsonl: epoch, train_elbo, and test_elbo or validation_elbo with its
        standard error.
      epoch: that of the parameters which are evaluated; the last one by default.

    Returns:
      The observation, by the validation set where there is one; None where there is nothing to say.

    Example:
      >>> curves = zip([-9, -7, -6, -5, -4], [-9, -7, -6.5, -7.5, -9])
      >>> lines = [{"epoch": i, "train_elbo": a, "test_elbo": b} for i, (a, b) in enumerate(curves, 1)]
      >>> overfit(lines)
      Overfit(split='test', best_epoch=3, best_elbo=-6.5, epoch=5, elbo=-9)
    """
    split = "validation" if lines and "validation_elbo" in lines[0] else "test"
    name = f"{split}_elbo"
    until = [line for line in lines if epoch is None or line["epoch"] <= epoch]
    if len(until) < 3 or not all(math.isfinite(line.get(key, math.nan)) for line in until for key in (name, "train_elbo")):
        return None
    values = [line[name] for line in until]
    width = max(1, min(5, len(until) // 10))
    held_out, train = (_running_median([line[key] for line in until], width) for key in (name, "train_elbo"))
    peak = max(range(len(held_out)), key=held_out.__getitem__)
    usual = statistics.median(abs(b - a) for a, b in itertools.pairwise(values))
    error = until[-1].get(f"{name}_standard_error", math.nan)
    least = max(2 * error if error == error else 1.0, 4 * usual if len(values) > 10 else 0.0)  # no NaN, which one example has
    if held_out[peak] - held_out[-1] <= least or train[-1] <= train[peak]:
        return None
    best = max(range(len(values)), key=values.__getitem__)
    return Overfit(split, until[best]["epoch"], values[best], until[-1]["epoch"], values[-1])


def _running_median(values: Sequence[float], width: int) -> list[float]:
    """Returns the median of every window of `width` values."""
    return [statistics.median(values[i : i + width]) for i in range(len(values) - width + 1)]


def overfit_words(found: Overfit) -> str:
    """Tells a user in one or two sentences what `overfit` found, and what to do."""
    return (
        f"overfitting: the {found.split} ELBO was best after epoch {found.best_epoch} ({found.best_elbo:z.2f}) and is "
        f"{found.elbo:z.2f} after epoch {found.epoch}, while the training ELBO rose. {how_to_stop(found.split)}"
    )


def how_to_stop(split: str) -> str:
    """Returns the remedy for overfitting that was seen on this split."""
    if split == "validation":
        return "Add --early-stopping 10, which keeps the best parameters by the validation ELBO."
    return (
        "Hold out validation data and stop by them (--validation-fraction 0.1 --early-stopping 10): an epoch chosen by the "
        "test set would make its numbers too good."
    )


@short_repr
class KLDecomposition(NamedTuple):
    """KL(q(z|x) || p(z)) in three parts at single draws of z, (draws,), nats; only their means are of interest."""

    kl: Array  # of the example of each draw: the sum of the next three
    mutual_information: Array  # of x and z, if the examples were all there is: at most log N on average
    total_correlation: Array  # KL(q(z) || prod_j q(z_j))
    dimension_wise_kl: Array  # KL(prod_j q(z_j) || p(z)); sum_j KL(q(z_j) || p(z_j)) for a prior that factorises
    mutual_information_upper: Array  # the example itself left out of q(z): above that of the source, on average


def decompose_kl(
    key: Array,
    mean: Array,
    log_scale: Array,
    *,
    num_draws: int = 2000,
    prior_log_prob: Callable[[Array], Array] | None = None,
    draws_at_once: int = 8,
) -> KLDecomposition:
    """Mutual information, total correlation and dimension-wise KL with the aggregate posterior of a whole data set.

        q(z) = 1/N sum_n q(z|x_n),   q(z_j) = 1/N sum_n q(z_j|x_n):   all N examples, no minibatch in their place
        KL = [KL - log q(z)/p(z)] + [log q(z) - log prod_j q(z_j)] + [log prod_j q(z_j) - log p(z)],   z ~ q(z|x_m)

    For these N examples the estimates are unbiased. As statements about the source of the examples they are not: a mixture
    of N cannot tell more than N examples apart, so mutual_information <= log N and is too low where the source has more to
    tell. mutual_information_upper leaves x_m out of the mixture for its own z, which is too high on average: between the two is
    the source's. Where they are far apart, N is too small to say.

    Args:
      key: a new-style PRNG key.
      mean, log_scale: of q(z|x) for all N >= 2 examples, (N, latent).
      num_draws: M, of z: each from another example, in random order, as long as there are some. Work is M N latent.
      prior_log_prob: z -> log p(z), for a learned prior; N(0, I) by default, whose KL is then in closed form.
      draws_at_once: memory only.

    Returns:
      `KLDecomposition`, fields (M,). Take the mean, and the standard error over the draws, on the host.

    Example:
      >>> parts = decompose_kl(jax.random.key(0), jnp.zeros((5, 2)), jnp.zeros((5, 2)), num_draws=10)
      >>> print(abs(parts.total_correlation).max() < 1e-5)
      True

    Source:
      Hoffman & Johnson (2016), Chen et al. (2018); the two bounds: Poole et al. (2019).
    """
    if mean.ndim != 2 or mean.shape != log_scale.shape or mean.shape[0] < 2:
        raise ValueError(
            f"decompose_kl: expected mean and log_scale of one shape (examples >= 2, latent), got {mean.shape} and "
            f"{log_scale.shape}."
        )
    count = mean.shape[0]
    key_order, key_z = jax.random.split(key)
    rounds = -(-num_draws // count)
    orders = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key_order, rounds))
    index = orders.reshape(-1)[:num_draws]
    precision = jnp.exp(-log_scale)

    def one(drawn: tuple[Array, Array]) -> KLDecomposition:
        m, key = drawn
        z = sample_posterior(key, mean[m], log_scale[m])
        pairs = -0.5 * jnp.square((z - mean) * precision) - log_scale - 0.5 * math.log(2 * math.pi)  # (N, latent)
        joint = jnp.sum(pairs, axis=1)
        log_q = jax.nn.logsumexp(joint) - math.log(count)
        log_product = jnp.sum(jax.nn.logsumexp(pairs, axis=0) - math.log(count))
        others = jax.nn.logsumexp(jnp.where(jnp.arange(count) == m, -jnp.inf, joint)) - math.log(count - 1)
        if prior_log_prob is None:
            log_p = posterior_log_prob(jnp.zeros_like(z), jnp.zeros_like(z), z)
            kl = jnp.sum(kl_per_dimension(mean[m], log_scale[m]))
        else:
            log_p = prior_log_prob(z)
            kl = joint[m] - log_p
        return KLDecomposition(kl, kl - (log_q - log_p), log_q - log_product, log_product - log_p, kl - (others - log_p))

    return jax.lax.map(one, (index, jax.random.split(key_z, num_draws)), batch_size=draws_at_once)
