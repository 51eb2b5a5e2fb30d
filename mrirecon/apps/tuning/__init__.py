"""Hyperparameter search: grammar, search space, trials, storage and summary."""
