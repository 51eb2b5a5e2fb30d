"""The search for the settings that score best: its words, its space, its trials and what is kept of them."""
