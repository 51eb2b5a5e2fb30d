"""Reconstruction models: `model(measurement) -> Prediction`, see `mrirecon.physics.sample`."""
