"""Measurements of `scripts/benchmark.py`: results are first asserted to agree, then timed alternately in one run."""
