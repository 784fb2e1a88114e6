"""Models recognised by their weights: which one, of what sizes, and which weights it has.

Weights are asked for by canonical name, so this holds for every format.
"""

from paddleseg_segformer.weights.architectures.segformer import SEGFORMERS
from paddleseg_segformer.weights.architectures.segmenter import SEGMENTERS
from paddleseg_segformer.weights.architectures.sizes import Architecture, Shapes

ARCHITECTURES = (*SEGFORMERS, *SEGMENTERS)  # the first whose marks are there


def architecture_of(shapes: Shapes) -> Architecture | None:
    """Return the kind of model that has these weights, or None if it is none that is known."""
    for item in ARCHITECTURES:
        if all(shapes(key) is not None for key in item.marks):
            return item
    return None
