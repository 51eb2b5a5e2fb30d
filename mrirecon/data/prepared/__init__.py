"""The prepared store: volumes in hybrid space, written once and read many times."""
