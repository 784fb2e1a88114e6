"""Binary models of one logit, as the two-class models that they equal.

One logit z means the probability sigmoid(z) of class 1, which is the softmax of the two logits
(0, z). So the first class's row of the classifier is 0 and stays 0: losses, metrics, exports and
files see a model of two classes, and give what one logit gives, exactly.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError


@paddle.no_grad()
def subtract_first_logit(classifier: nn.Layer) -> None:
    """Subtract the first class's logit from all: it becomes 0, and probabilities stay the same."""
    for parameter in (classifier.weight, classifier.bias):
        axis = _class_axis(classifier, parameter)
        parameter.set_value(parameter - parameter.split(2, axis)[0])


def keep_first_logit_zero(classifier: nn.Layer, num_classes: int) -> None:
    """Make the first class's logit 0, and keep gradients from changing it.

    Args:
        classifier: a linear, or a convolution of kernel 1.
        num_classes: K, of its outputs.

    Raises:
        UserError: not two classes.
    """
    if num_classes != 2:
        raise UserError(
            f"one_logit: found {num_classes} classes, expected 2: one logit tells class 1 from "
            "class 0. Set num_classes to 2, or leave one_logit out."
        )
    for parameter in (classifier.weight, classifier.bias):
        shape = [1] * parameter.ndim
        shape[_class_axis(classifier, parameter)] = 2
        mask = paddle.to_tensor(np.array([0.0, 1.0], np.float32).reshape(shape))
        parameter.register_hook(lambda gradient, mask=mask: gradient * mask.astype(gradient.dtype))
    subtract_first_logit(classifier)


def from_one_row(classifier: nn.Layer, array: np.ndarray) -> np.ndarray | None:
    """Return weights or bias of one logit as those of two classes; None where they are not."""
    for parameter in (classifier.weight, classifier.bias):
        axis = _class_axis(classifier, parameter)
        expected = list(parameter.shape)
        expected[axis] = 1
        if expected == list(array.shape):
            return np.concatenate([np.zeros_like(array), array], axis)
    return None


def _class_axis(classifier: nn.Layer, parameter: Tensor) -> int:
    return 1 if isinstance(classifier, nn.Linear) and parameter.ndim == 2 else 0
