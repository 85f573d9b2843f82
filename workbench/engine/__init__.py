"""Runs plans: one thread owns the model, the pool and every sequence."""
