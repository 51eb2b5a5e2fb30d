"""Studies: grids of trainings, what came out of them in tables, figures and words."""
