"""Asynchronous successive halving: members that are worse than others at the same epoch end, and new ones take their place."""
