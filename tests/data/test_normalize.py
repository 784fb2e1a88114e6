from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from paddleseg_segformer.errors import UserError


@pytest.mark.parametrize("constants", [{}, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}])
def test_values_follow_the_formula(constants: dict[str, tuple[float, ...]]) -> None:
    image = np.random.randint(0, 256, (9, 7, 3), dtype=np.uint8)
    expected = (image / 255 - constants.get("mean", 0.5)) / constants.get("std", 0.5)
    result = Normalize(**constants)({"img": image})["img"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_device_and_host_agree_to_the_bit(dtype: type) -> None:
    import paddle

    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    images = np.random.randint(0, 256, (2, 3, 5, 6)).astype(dtype)
    on_device = normalize.on_device(paddle.to_tensor(images)).numpy()
    on_host = np.stack([normalize.apply(image.transpose(1, 2, 0)) for image in images])
    assert on_device.dtype == np.float32
    np.testing.assert_array_equal(on_device, on_host.transpose(0, 3, 1, 2))
    planes = np.stack([normalize.planes(image.transpose(1, 2, 0)) for image in images])
    assert planes.dtype == np.float32 and planes.flags.c_contiguous
    np.testing.assert_array_equal(on_device, planes)


@pytest.mark.parametrize("channels", [1, 3, 10])
def test_one_value_serves_any_number_of_channels(channels: int) -> None:
    image = np.full((2, 3, channels), 255, np.uint8)
    np.testing.assert_array_equal(Normalize().apply(image), np.ones((2, 3, channels), np.float32))
    np.testing.assert_array_equal(Normalize().planes(image), np.ones((channels, 2, 3), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": [0.5, 0, 0.5]}, "greater than 0"),
        ({"mean": [0.1, 0.2]}, "2 values, the image has 3 channels"),
        ({"mean": [0.1, 0.2], "std": [0.1, 0.2, 0.3]}, "mean has 2 values and std has 3"),
        ({"mean": [123.675, 116.28, 103.53], "std": [58.4, 57.1, 57.4]}, "first divided by 255"),
        ({"mean": "half"}, "expected a list of numbers"),
    ],
)
def test_wrong_constants_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Normalize(**arguments).apply(np.zeros((2, 2, 3), np.uint8))
