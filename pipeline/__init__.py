"""Experiment-tracking hyperparameter search for variational autoencoders."""

__version__ = "0.1.0"
