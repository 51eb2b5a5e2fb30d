"""Applications that run many trainings or measurements: studies, hyperparameter searches, benchmarks."""
