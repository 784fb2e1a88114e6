"""The same images through every way in which a model leaves, and how far the labels agree."""
