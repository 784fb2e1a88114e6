from __future__ import annotations

import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.static_graph import full_input_shape, save_static_graph


def test_input_shape_is_free_but_for_the_channels(small_model) -> None:
    model = small_model()
    assert full_input_shape(model, None) == [-1, 3, -1, -1]
    assert full_input_shape(model, [1, -1, 64, -1]) == [1, 3, 64, -1]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([3, 64, 64], "expected four numbers N C H W"),
        ([1, 4, 64, 64], "found 4 channels, but the model takes 3"),
        ([0, 3, 64, 64], "batch of 0"),
        ([1, 3, 28, 64], "found 28x64 px, expected 29 px or more"),
    ],
)
def test_wrong_input_shapes_are_refused(small_model, shape, message) -> None:
    with pytest.raises(UserError, match=message):
        full_input_shape(small_model(), shape)


def test_unknown_output_op_is_refused(small_model, tmp_path) -> None:
    with pytest.raises(UserError, match="found 'max', expected none, argmax, softmax"):
        save_static_graph(small_model(), tmp_path, "max")
