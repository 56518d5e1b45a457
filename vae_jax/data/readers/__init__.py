"""Readers of data files, one module for each family of formats."""
