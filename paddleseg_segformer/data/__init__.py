"""Data: label sets, data sets, transforms, loading and auditing."""
