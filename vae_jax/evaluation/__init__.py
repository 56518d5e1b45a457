"""What a trained model is worth: exact dataset means of the ELBO, estimates of log p(x) with their errors."""

from vae_jax.evaluation.annealed import Annealed as Annealed
from vae_jax.evaluation.annealed import Annealing as Annealing
from vae_jax.evaluation.annealed import Bounds as Bounds
from vae_jax.evaluation.annealed import ais as ais
from vae_jax.evaluation.annealed import ais_dataset as ais_dataset
from vae_jax.evaluation.annealed import bdmc as bdmc
from vae_jax.evaluation.annealed import bdmc_simulated as bdmc_simulated
from vae_jax.evaluation.annealed import temperatures as temperatures
from vae_jax.evaluation.gaps import Gaps as Gaps
from vae_jax.evaluation.gaps import fit_posterior as fit_posterior
from vae_jax.evaluation.gaps import gaps as gaps
from vae_jax.evaluation.gaps import gaps_dataset as gaps_dataset
from vae_jax.evaluation.importance import LogPx as LogPx
from vae_jax.evaluation.importance import LogPxMeans as LogPxMeans
from vae_jax.evaluation.importance import importance_log_px as importance_log_px
from vae_jax.evaluation.importance import log_px_from_weights as log_px_from_weights
from vae_jax.evaluation.importance import log_px_means as log_px_means
from vae_jax.evaluation.importance import pareto_k as pareto_k
from vae_jax.evaluation.means import Evaluation as Evaluation
from vae_jax.evaluation.means import Means as Means
from vae_jax.evaluation.means import bits_per_dim as bits_per_dim
from vae_jax.evaluation.means import encode_dataset as encode_dataset
from vae_jax.evaluation.means import evaluate as evaluate
from vae_jax.evaluation.means import map_examples as map_examples
from vae_jax.evaluation.means import means as means
