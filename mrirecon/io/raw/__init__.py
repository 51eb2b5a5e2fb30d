"""K-space formats, a file each."""
