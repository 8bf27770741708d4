"""Variational autoencoders in torch: data, models, likelihoods, training and measuring."""
