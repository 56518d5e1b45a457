"""The command line: the command `vae-jax` with one module for each subcommand, and the helpers that they share."""
