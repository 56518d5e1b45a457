"""Figures and sections of a report whose examples are series or vectors."""
