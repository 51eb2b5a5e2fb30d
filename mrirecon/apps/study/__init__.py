"""Studies: grids of trainings, with their results as tables, figures and text."""
