"""Annealed importance sampling of log p(x), and bidirectional Monte Carlo, which bounds log p(x) from both sides."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation.annealing import DEFAULT, Annealing, Start, check_annealing
from vae_jax.evaluation.dataset_means import DataSlice, ToInput, map_examples
from vae_jax.evaluation.hmc import (
    ADAPTATION_STEPS,
    Path,
    Point,
    StepSizes,
    adapt_step_sizes,
    fold_in_chains,
    move_chains,
    point_at,
)
from vae_jax.example import Example, condition_of, with_event
from vae_jax.model import VAE, BoundModel, Params, bind, decode_given, sample_prior
from vae_jax.objectives import log_mean_exp_k
from vae_jax.objectives.base import scalar_log_prob, standard_normal_log_prob
from vae_jax.posteriors import DIAGONAL, posterior_log_prob, sample_posterior


@short_repr
class Annealed(NamedTuple):
    """An estimate of log p(x) for one example from several chains. Results for a data set have a leading axis of examples."""

    log_px: Float[Array, "*examples"]  # nats, in expectation a lower bound (forward chains) or an upper bound (reverse chains)
    standard_error: Float[Array, "*examples"]  # of log_px over the chains, NaN for a single chain
    effective_sample_size: Float[Array, "*examples"]  # from 1 to num_chains
    acceptance_rate: Float[Array, "*examples"]  # mean over transitions and chains, NaN for num_temperatures = 1


@short_repr
class Bounds(NamedTuple):
    """Bounds of log p(x) for data simulated from the model: in expectation lower.log_px <= log p(x) <= upper.log_px."""

    lower: Annealed  # forward chains, from p_0 to p(z|x)
    upper: Annealed  # reverse chains, from the true code z* back to p_0

    @property
    def gap(self) -> Float[Array, "*examples"]:
        """The upper minus the lower bound in nats. In expectation it bounds the error of either."""
        return self.upper.log_px - self.lower.log_px


LogDensity: TypeAlias = Callable[[Array], Array]  # z -> nats


class _Problem(NamedTuple):
    """Annealing path of one example, sampler of its initial distribution, and scale of the momenta."""

    path: Path
    sample: Callable[[Array], Array]  # key -> z
    scale: Float[Array, "latent"]


def _problem(vae: VAE, params: Params, x: Array | Example, start: Start) -> _Problem:
    model = bind(vae, params, x)
    log_prior = model.prior_log_prob or standard_normal_log_prob

    def log_likelihood(z: Array) -> Array:
        return scalar_log_prob(model.log_prob, model.decode(z), model.x)

    if start == "prior":
        code = jax.eval_shape(lambda key: sample_prior(vae, params, key), stream(0, Stream.CHECK))
        scale = jnp.ones(code.shape, code.dtype)
        return _Problem(Path(log_prior, log_likelihood), lambda key: sample_prior(vae, params, key), scale)
    if model.posterior is not DIAGONAL:
        return _problem_from(model, log_likelihood, log_prior)
    mean, log_scale = model.encode(model.x)

    def log_q(z: Array) -> Array:
        return posterior_log_prob(mean, log_scale, z)

    path = Path(log_q, lambda z: log_likelihood(z) + log_prior(z) - log_q(z))
    # With five dimensions of standard deviation 0.05 and five of 1, the scales of q reduce the gap from 0.05 nats to 0.02.
    return _Problem(path, lambda key: sample_posterior(key, mean, log_scale), jnp.exp(log_scale))


def _problem_from(model: BoundModel, log_likelihood: LogDensity, log_prior: LogDensity) -> _Problem:
    """Returns the path from q(z|x) of any posterior with a density. The momenta have the scales of its dimensions."""
    posterior, q = model.posterior, model.encode(model.x)
    log_prob = posterior.log_prob
    assert log_prob is not None
    log_q = lambda z: log_prob(q, z)  # noqa: E731
    _, log_scale = posterior.moments(stream(0, Stream.MOMENTS), q)
    path = Path(log_q, lambda z: log_likelihood(z) + log_prior(z) - log_q(z))
    return _Problem(path, lambda key: posterior.sample(key, q), jnp.exp(log_scale))


def check_start(function: str, vae: VAE, settings: Annealing) -> None:
    """Raises `UserError` for settings out of range, and for chains from a posterior without a density."""
    check_annealing(function, settings)
    if settings.start == "posterior" and vae.posterior is not None and vae.posterior.log_prob is None:
        raise UserError(
            f"annealing from the encoder needs the density q(z|x) of a given z, and the posterior {vae.posterior.name!r} has "
            "that of its own draws only.",
            fix='Start from the prior by `ais_start="prior"`, in Python Annealing(start="prior").',
        )


def _chain_keys(key: Array, num_chains: int) -> Key[Array, "chains"]:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_chains))


def _start(keys: Array, problem: _Problem) -> Point:
    return jax.vmap(lambda key: point_at(problem.path, problem.sample(key)))(fold_in_chains(keys, 0))


def _adapt(key: Array, problem: _Problem, settings: Annealing) -> StepSizes | None:
    """Adapts the step sizes of one example with separate chains. Returns None if the settings have no transitions.

    Each example has its step sizes, shared by its chains: posteriors differ in width, and step sizes shared in a batch would
    make results depend on the batch. They are adapted at up to num_adaptation / 10 temperatures, so that neither the cost nor
    the memory grows with the number of temperatures.
    """
    last = settings.num_temperatures - 1  # transitions take place at t_1 ... t_last
    if last == 0:
        return None
    numbers = np.linspace(1, last, min(last, max(1, settings.num_adaptation // ADAPTATION_STEPS)))
    numbers = np.unique(np.rint(numbers).astype(int))
    keys = _chain_keys(key, settings.num_chains)
    return adapt_step_sizes(
        keys,
        problem.path,
        settings.temperatures()[numbers],
        numbers,
        _start(keys, problem),
        problem.scale,
        target_acceptance=settings.target_acceptance,
        num_leapfrog=settings.num_leapfrog,
    )


def _add(total: Array, lost: Array, term: Array) -> tuple[Array, Array]:
    """Adds a term by Kahan summation: returns the new total and the rounding error to add next time.

    The sums have thousands of float32 terms.
    """
    term = term + lost
    new = total + term
    return new, term - (new - total)


def _increments(t: np.ndarray) -> np.ndarray:
    return np.diff(t)


def _anneal(
    keys: Array,
    problem: _Problem,
    points: Point,
    reverse: Bool[np.ndarray, "chains"],
    step_sizes: StepSizes | None,
    settings: Annealing,
) -> tuple[Array, Array]:
    """Runs chains along the path and returns their log weights and acceptance rates, each (chains,).

    Forward chains start at t = 0, reverse chains at t = 1. Forward, log w = sum_i (t_i - t_(i-1)) log_ratio(z_(i-1)), where z_i
    comes from z_(i-1) by a transition that leaves f_(t_i) invariant. In reverse it is the same sum along the same transitions
    in opposite order. Both directions go through the decoder together.
    """
    dtype, n = problem.scale.dtype, settings.num_temperatures
    t = settings.temperatures().astype(dtype)
    # Differences of the rounded temperatures, which the transitions use: any others would bias the weights.
    increments, temperature = jnp.asarray(_increments(t)), jnp.asarray(t)
    backwards = jnp.asarray(reverse)

    def step(carry: tuple[Point, Array, Array, Array], i: Array) -> tuple[tuple[Point, Array, Array, Array], None]:
        points, log_w, lost, accepted = carry
        number = jnp.where(backwards, n - i, i)  # number of the transition, from 1 to n - 1
        increment = increments[jnp.where(backwards, number, number - 1)]  # from the chain's present temperature
        log_w, lost = _add(log_w, lost, increment * points.log_ratio)
        assert step_sizes is not None
        points, rates = move_chains(
            fold_in_chains(keys, number),
            problem.path,
            temperature[number],
            points,
            step_sizes(number),
            problem.scale,
            settings.num_leapfrog,
        )
        return (points, log_w, lost, accepted + rates), None

    zero = jnp.zeros_like(points.log_ratio)
    carry = (points, zero, zero, zero)
    if n > 1:
        carry, _ = jax.lax.scan(step, carry, jnp.arange(1, n))
    points, log_w, lost, accepted = carry
    log_w, _ = _add(log_w, lost, increments[np.where(reverse, 0, n - 1)] * points.log_ratio)
    return log_w, accepted / (n - 1) if n > 1 else jnp.full_like(accepted, jnp.nan)


def _summary(log_w: Array, acceptance_rates: Array, *, reverse: bool) -> Annealed:
    """Summarizes log weights with E[w] = p(x), or E[w] = 1/p(x) in reverse.

    The standard error is that of the mean weight divided by the mean weight (delta method).
    """
    num_chains = log_w.shape[0]
    log_w = -log_w if reverse else log_w
    log_mean = log_mean_exp_k(log_w)
    relative = jnp.exp(log_w - log_mean)  # weights scaled to a mean of 1
    spread = jnp.sum(jnp.square(relative - 1)) / (num_chains - 1) if num_chains > 1 else jnp.full_like(log_mean, jnp.nan)
    return Annealed(
        log_px=-log_mean if reverse else log_mean,
        standard_error=jnp.sqrt(spread / num_chains),
        effective_sample_size=jnp.square(jnp.sum(relative)) / jnp.sum(jnp.square(relative)),
        acceptance_rate=jnp.mean(acceptance_rates),
    )


def ais(key: Key[Array, ""], vae: VAE, params: Params, x: Shaped[Array, "..."], settings: Annealing = DEFAULT) -> Annealed:
    """Estimates log p(x) of one example by annealed importance sampling. In expectation it is a lower bound.

        log p(x) ~ log 1/C sum_c w_c,   log w = sum_i (t_i - t_(i-1)) [log p(x, z_(i-1)) - log p_0(z_(i-1))],   z_0 ~ p_0

    where p_0 is q(z|x) or p(z), and z_i is a Hamiltonian Monte Carlo transition from z_(i-1) that leaves the density
    proportional to p_0(z)^(1 - t_i) p(x, z)^(t_i) invariant. E[w] = p(x) holds exactly for any number of temperatures. It
    requires transitions that are fixed beforehand, so the step sizes are adapted in a preliminary pass with different keys and
    then frozen.

    Args:
      key: a new-style PRNG key. It is split, one part for the preliminary pass. Chain c folds c into the other part.
      vae, params: the model.
      x: one example, as floats that the likelihood and the encoder take.
      settings: `Annealing` (static). From the posterior, momenta are scaled to the standard deviations of q (of each
        dimension, without correlations; those of flows are estimated from draws). From the prior
        they are not, so that the encoder has no influence.

    Returns:
      `Annealed`: log_px in nats, its standard error over the chains, effective sample size and acceptance rate.

    Raises:
      UserError: chains from a posterior without a density of a given z, such as "planar".

    Numerics:
      If q is the true posterior, every weight is p(x) for all settings. The sums of log weights are compensated: after
      thousands of temperatures they are accurate to the rounding of log p(x, z).

    Example: z ~ N(0, 1) and x ~ N(z, 1), so p(x) = N(0, 2). The encoder's q is too narrow.
      >>> from vae_jax import likelihoods
      >>> encode = lambda params, x: (x / 2, jnp.full(1, -0.6))
      >>> vae = VAE(lambda key: {}, encode, lambda params, z: z, likelihoods.gaussian(1.0), (1,), 1)
      >>> settings = Annealing(num_temperatures=200)
      >>> print(jax.jit(lambda key, x: ais(key, vae, {}, x, settings).log_px)(jax.random.key(0), jnp.zeros(1)))
      -1.27

    Source:
      Neal (2001). Wu et al. (2017) apply it to decoders; the default chains, leapfrog steps and acceptance rate are theirs.
    """
    check_start("ais", vae, settings)
    problem = _problem(vae, params, x, settings.start)
    key_adapt, key = jax.random.split(key)
    step_sizes = _adapt(key_adapt, problem, settings)
    keys = _chain_keys(key, settings.num_chains)
    forward = np.zeros(settings.num_chains, bool)
    return _summary(*_anneal(keys, problem, _start(keys, problem), forward, step_sizes, settings), reverse=False)


def bdmc(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    x: Shaped[Array, "..."],
    z: Float[Array, "latent"],
    settings: Annealing = DEFAULT,
) -> Bounds:
    """Bounds log p(x) from both sides by bidirectional Monte Carlo, for one example that was simulated from the model.

        lower = log 1/C sum_c w_c (`ais`);   upper = -log 1/C sum_c 1/w'_c,   E[1/w'] = 1/p(x)

    where w' is the weight of the path run backwards from z, an exact draw from p(z|x), to p_0. The gap measures the accuracy of
    these settings on this model. Real data cannot provide it, because their codes are unknown.

    Args:
      key, vae, params, settings: see `ais`.
      x, z: one joint draw from p(z) p(x|z), with z of shape (latent,). For any other z the upper value is not a bound.

    Returns:
      `Bounds`. All reverse chains start from the same z, so their standard error and effective sample size do not include the
      variation due to this single draw.

    Source:
      Grosse, Ghahramani & Adams (2015); Wu et al. (2017).
    """
    check_start("bdmc", vae, settings)
    problem = _problem(vae, params, x, settings.start)
    key_adapt, key_forward, key_reverse = jax.random.split(key, 3)
    step_sizes = _adapt(key_adapt, problem, settings)
    chains = settings.num_chains
    keys = jnp.concatenate([_chain_keys(key_forward, chains), _chain_keys(key_reverse, chains)])
    starts, end = _start(keys[:chains], problem), point_at(problem.path, z)
    points = jax.tree.map(lambda s, e: jnp.concatenate([s, jnp.broadcast_to(e, s.shape)]), starts, end)
    log_w, rates = _anneal(keys, problem, points, np.repeat([False, True], chains), step_sizes, settings)
    lower = _summary(log_w[:chains], rates[:chains], reverse=False)
    return Bounds(lower, _summary(log_w[chains:], rates[chains:], reverse=True))


def ais_dataset(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."] | DataSlice,
    settings: Annealing = DEFAULT,
    *,
    to_input: ToInput = lambda x: x,
    batch_size: int = 100,
    log_jacobian: float = 0.0,
) -> Annealed:
    """Computes `ais` for every example of a data set. Jit it at the call site.

    Example i uses fold_in(key, i), so its draws do not depend on batch_size, but the rounding of the decoder's matrix products
    does. For posteriors close to Gaussian the difference stays at the level of rounding. For rugged posteriors, long chains
    amplify it, and a different batch_size amounts to a different draw of the same estimate.

    Args:
      key: a new-style PRNG key.
      vae, params, settings: see `ais`.
      data: (examples, ...) as stored, or a `DataSlice` of a larger data set.
      to_input: turns a batch of `data` into floats.
      batch_size: examples computed together, each with all of its chains: batch_size * num_chains codes go through the decoder
        at once. Memory does not depend on num_temperatures.
      log_jacobian: nats added to each log_px, usually `data.Prepared.log_jacobian`.

    Returns:
      `Annealed` of per-example values, each (examples,). Compute their means on the host in float64.
    """
    check_start("ais_dataset", vae, settings)

    def one(index: Array, x: Array) -> Annealed:
        estimate = ais(jax.random.fold_in(key, index), vae, params, x, settings)
        return estimate._replace(log_px=estimate.log_px + log_jacobian)

    return map_examples(one, data, to_input, batch_size)


def bdmc_simulated(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    num_examples: int,
    settings: Annealing = DEFAULT,
    *,
    batch_size: int = 100,
    conditions: Float[Array, "examples condition"] | None = None,
) -> Bounds:
    """Simulates examples z ~ p(z), x ~ p(x|z) and computes `bdmc` for each. Jit it at the call site.

    Args:
      key, vae, params, settings, batch_size: see `ais_dataset`.
      num_examples: number of simulated examples, >= 1 (static).
      conditions: the condition of each simulated example, (num_examples, condition_dim), for a conditional model.

    Returns:
      `Bounds` of per-example values, each (num_examples,). Wu et al. (2017) report the mean gap over the examples.
    """
    check_start("bdmc_simulated", vae, settings)

    def one(index: Array, given: Array | Example) -> Bounds:
        key_z, key_x, key_chains = jax.random.split(jax.random.fold_in(key, index), 3)
        z = sample_prior(vae, params, key_z)
        x = vae.likelihood.sample(key_x, decode_given(vae, params, z, condition_of(given)))
        return bdmc(key_chains, vae, params, x if conditions is None else with_event(given, x), z, settings)

    nothing = jnp.zeros(num_examples)
    return map_examples(one, nothing if conditions is None else Example(nothing, conditions), lambda x: x, batch_size)
