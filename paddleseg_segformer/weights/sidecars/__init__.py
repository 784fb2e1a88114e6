"""Config files that lie beside weights: what they say of preprocessing, classes and norms."""
