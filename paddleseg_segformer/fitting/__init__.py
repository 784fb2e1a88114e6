"""`fit`: from a folder of images and annotations to a trained, reported and exported model."""
