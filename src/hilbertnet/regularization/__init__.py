"""Penalties, constraints and robust losses on any torch model, and their text form."""
