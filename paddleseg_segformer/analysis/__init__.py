"""Analysis of models: their cost, and their attention."""
