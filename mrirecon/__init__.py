"""mrirecon: learn to reconstruct MRI from undersampled k-space."""

import os

__version__ = "0.1.0"

# Threads that wait for each other by spinning starve the data workers, and any neighbour, on a machine with few cores.
# OpenMP reads this when torch is loaded, so it has to stand before every import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
