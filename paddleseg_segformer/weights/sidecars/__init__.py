"""The source of weights, read from configs beside them and metadata in them."""
