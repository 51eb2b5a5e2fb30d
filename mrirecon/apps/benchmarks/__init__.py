"""What `scripts/benchmark.py` measures: both sides asserted to agree first, then timed in turns within one run."""
