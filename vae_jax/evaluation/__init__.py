"""What a trained model is worth: exact dataset means of the ELBO, estimates of log p(x) with their errors."""

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
