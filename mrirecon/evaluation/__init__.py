"""Scoring a model on a data set, pictures of its worst slices, choosing a regularisation weight."""
