"""Scores of a reconstruction: per slice on the device (`functional`), per volume over all ranks (`volume`)."""
