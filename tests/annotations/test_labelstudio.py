from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations.labelstudio import decode_brush

# of the mask below, as label_studio_sdk 2.1.2 writes it (`converter.brush.mask2rle`)
WRITTEN = [0, 0, 0, 160, 57, 27, 254, 39, 0, 191, 255, 124, 2, 63, 248, 192, 39, 255, 190, 1, 127,
           255, 19, 128, 0]  # fmt: skip


def test_run_lengths_of_label_studio_are_read() -> None:
    mask = np.zeros((5, 8), np.uint8)
    mask[1:4, 2:6] = 255
    mask[2, 3] = 0
    expected = np.repeat(mask[:, :, None], 4, axis=2).ravel()
    np.testing.assert_array_equal(decode_brush(WRITTEN, 160, "x"), expected)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (WRITTEN[:-4], "cut off"),
        (WRITTEN[:3], "cut off"),
        ([*WRITTEN[:3], 164, *WRITTEN[4:]], "a brush of 164 words of 8 bits, expected 160"),
        ([300], "no bytes"),
        (["a"], "no bytes"),
    ],
)
def test_damaged_run_lengths_are_refused(codes: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode_brush(codes, 160, "x")
