"""Files of scans, in numpy: what any file becomes (scan), one file per format, and the table of formats."""
