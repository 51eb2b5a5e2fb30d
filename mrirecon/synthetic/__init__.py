"""Synthetic data: head phantom, coils, random fields, simulation from images, and data sets written from them."""
