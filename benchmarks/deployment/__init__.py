"""The same images through every deployment option, and how far the labels agree."""
