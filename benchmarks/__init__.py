"""Measurements of this package and its peers; not installed with it."""
