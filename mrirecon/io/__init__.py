"""Reads scan and image files into numpy: one file per format, the table of formats, and what every reader gives."""
