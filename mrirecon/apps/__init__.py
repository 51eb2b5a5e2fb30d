"""Programs made of many trainings or measurements: studies, searches, benchmarks."""
