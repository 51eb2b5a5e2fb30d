"""Which files of a data folder can be used, and which take part."""
