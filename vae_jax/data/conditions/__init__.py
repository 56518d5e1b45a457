"""Conditions of log p(x|c): the setting, where its columns come from, and the numbers that networks take.

`setting` reads the text of the setting, `sources` and `arguments` find the columns, `columns` numbers the categories and
computes the moments, and `prepared` adds conditions to prepared data. This file imports nothing, because readers import
`setting`, which must not import jax.
"""
