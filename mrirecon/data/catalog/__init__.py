"""Indexes data folders, checks their files, and selects volumes."""
