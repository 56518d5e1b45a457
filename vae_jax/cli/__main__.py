"""Runs `vae-jax` as `python -m vae_jax.cli`."""

from vae_jax.cli.main import main

if __name__ == "__main__":
    main()
