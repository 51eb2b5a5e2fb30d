"""Untrusted HDF5 files, read with bounded memory and without following links."""
