"""The sizes of a network, read off the shapes of its weights."""
