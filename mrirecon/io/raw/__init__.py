"""Readers and writers of k-space formats, one file each."""
