"""Sampling masks: drawn, read from files, and what a scan acquired."""
