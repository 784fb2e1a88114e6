"""The pipeline against full-size maps, one window at a time, in float64 accumulators."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference import pipeline as pipeline_module
from paddleseg_segformer.inference.arrays import PaddleArrays
from paddleseg_segformer.inference.pipeline import Pipeline, predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

NUM_CLASSES = 7
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


class PaddedNetwork(nn.Layer):
    """Logits (N, K, ceil(h/16), ceil(w/16)) that stand for the input padded to multiples of 16."""

    pad_multiple = 16

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(3)
        self.conv = nn.Conv2D(3, 16, 16, stride=16, padding=[0, 15, 0, 15])
        self.pred = nn.Conv2D(16, NUM_CLASSES, 3, padding=1)
        self.eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return 4 * self.pred(paddle.sin(4 * self.conv(x)))


class TinyNetwork(nn.Layer):
    """Logits (N, K, ceil(h/4), ceil(w/4)) that depend on position, so flips and windows matter."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(3)
        self.conv = nn.Conv2D(3, 16, 7, stride=4, padding=3)
        self.pred = nn.Conv2D(16, NUM_CLASSES, 3, padding=1)
        self.eval()
        self.batches: list[list[int]] = []

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.batches.append(x.shape)
        return 4 * self.pred(F.gelu(self.conv(x)))


@pytest.fixture(scope="module")
def network() -> TinyNetwork:
    return TinyNetwork()


def smooth_image(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height * width).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def resize(maps: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize (C, H, W) bilinearly, one pixel at a time in float64."""
    for axis, num_out in ((1, size_hw[0]), (2, size_hw[1])):
        num_in = maps.shape[axis]
        source = np.maximum((np.arange(num_out) + 0.5) * num_in / num_out - 0.5, 0)
        low = np.minimum(np.floor(source).astype(int), num_in - 1)
        high = np.minimum(low + 1, num_in - 1)
        shape = [1, 1, 1]
        shape[axis] = num_out
        fraction = (source - low).reshape(shape)
        maps = maps.take(low, axis) * (1 - fraction) + maps.take(high, axis) * fraction
    return maps


def run(network: nn.Layer, x: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return network(paddle.to_tensor(x[None].astype(np.float32)))[0].numpy().astype(np.float64)


def window_logits(network: nn.Layer, x: np.ndarray) -> np.ndarray:
    """Return the logits of a window at its own size."""
    height, width = x.shape[1:]
    multiple = getattr(network, "pad_multiple", 1)
    padded_hw = tuple(-(-side // multiple) * multiple for side in (height, width))
    return resize(run(network, x), padded_hw)[:, :height, :width]


BLENDS = {
    "average": np.ones,
    "cosine": lambda side: 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(side) + 0.5) / side),
    "gaussian": lambda side: np.exp(-(((np.arange(side) + 0.5 - side / 2) / (side / 8)) ** 2) / 2),
}


def view_logits(network: nn.Layer, x: np.ndarray, settings: InferenceSettings) -> np.ndarray:
    """Return the logits of one view at its own size."""
    height, width = x.shape[1:]
    if not settings.is_slide:
        return window_logits(network, x)
    (crop_h, crop_w), (stride_h, stride_w) = settings.crop_size_hw, settings.stride_hw
    rows = max(height - crop_h + stride_h - 1, 0) // stride_h + 1
    columns = max(width - crop_w + stride_w - 1, 0) // stride_w + 1
    total, count = np.zeros((NUM_CLASSES, height, width)), np.zeros((height, width))
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride_h + crop_h, height)
            right = min(column * stride_w + crop_w, width)
            top, left = max(bottom - crop_h, 0), max(right - crop_w, 0)
            window = x[:, top:bottom, left:right]
            weight = np.multiply.outer(*(BLENDS[settings.blend](n) for n in window.shape[1:]))
            total[:, top:bottom, left:right] += weight * window_logits(network, window)
            count[top:bottom, left:right] += weight
    return total / count


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(0))
    return exp / exp.sum(0)


def reference(
    network: TinyNetwork, image: np.ndarray, preprocess: Preprocess, settings: InferenceSettings
) -> np.ndarray:
    """Return the averaged logits (or probabilities) at the original size, (K, H, W) float64."""
    size_hw = image.shape[:2]
    total, num_views = 0.0, 0
    for scale in settings.scales:
        is_source = settings.scale_mode == "source"
        x = image
        for rule in preprocess.size_rules:
            x = rule.apply(x, scale if is_source else 1.0)
        pads = any(rule.pads for rule in preprocess.size_rules)
        x = preprocess.normalize.apply(x).transpose(2, 0, 1).astype(np.float64)
        input_hw = x.shape[1:]
        if not is_source:
            x = resize(x, tuple(int(side * scale + 0.5) for side in input_hw))
        for flip_h in (False, True)[: 1 + settings.flip_horizontal]:
            for flip_v in (False, True)[: 1 + settings.flip_vertical]:
                flips = (slice(None), slice(None, None, -1 if flip_v else 1))
                flips += (slice(None, None, -1 if flip_h else 1),)
                view = x[flips]
                if settings.is_one_step:
                    logits = resize(run(network, view)[flips], size_hw)
                else:
                    logits = resize(view_logits(network, view, settings)[flips], input_hw)
                    logits = logits[:, : size_hw[0], : size_hw[1]] if pads else logits
                    logits = resize(logits, size_hw)
                total = total + (softmax(logits) if settings.average == "softmax" else logits)
                num_views += 1
    return total / num_views


def assert_equal(network, image, preprocess, settings) -> None:
    expected = reference(network, image, preprocess, settings)
    logits = Pipeline(network, preprocess, settings)(image)
    label = logits.labels()
    assert label.dtype == np.uint8
    assert label.shape == image.shape[:2]
    differs = label != expected.argmax(0)
    top_two = np.sort(expected, axis=0)[-2:]
    assert np.all((top_two[1] - top_two[0])[differs] < 1e-4)  # rounding of a tie
    assert differs.mean() < 1e-3
    assert len(np.unique(label)) > 2  # the network is not trivial
    probabilities = expected if settings.average == "softmax" else softmax(expected)
    np.testing.assert_allclose(logits.probabilities(), probabilities, atol=1e-5)


SLIDE = {"is_slide": True, "crop_size_hw": (64, 48), "stride_hw": (40, 48)}
SCALES = {"scales": (0.75, 1.0, 1.3)}
FLIPS = {"flip_horizontal": True, "flip_vertical": True}


@pytest.mark.parametrize("average", ["logits", "softmax"])
@pytest.mark.parametrize("scales", [{}, SCALES], ids=["single", "multi"])
@pytest.mark.parametrize("flip_vertical", [False, True], ids=["", "flip_v"])
@pytest.mark.parametrize("flip_horizontal", [False, True], ids=["", "flip_h"])
@pytest.mark.parametrize("window", [{}, SLIDE], ids=["whole", "slide"])
def test_every_combination_equals_full_size_maps(
    network, window, flip_horizontal, flip_vertical, scales, average
) -> None:
    settings = InferenceSettings(
        flip_horizontal=flip_horizontal,
        flip_vertical=flip_vertical,
        average=average,
        **window,
        **scales,
    )
    preprocess = Preprocess.from_transforms([NORMALIZE])
    assert_equal(network, smooth_image(101, 131), preprocess, settings)


@pytest.mark.parametrize("flips", [{}, FLIPS], ids=["", "flips"])
@pytest.mark.parametrize("blend", ["cosine", "gaussian"])
def test_blending_equals_full_size_maps(network, blend, flips) -> None:
    settings = InferenceSettings(blend=blend, **SLIDE, **flips)
    preprocess = Preprocess.from_transforms([NORMALIZE])
    assert_equal(network, smooth_image(101, 131), preprocess, settings)


def test_without_blending_windows_keep_their_own_pixels(network) -> None:
    settings = InferenceSettings(blend="none", is_slide=True, crop_size_hw=(64, 64))
    settings = settings.replace({"stride_hw": (48, 48)})
    preprocess = Preprocess.from_transforms([NORMALIZE])
    image = smooth_image(64, 160)
    label = Pipeline(network, preprocess, settings)(image).labels()
    windows = {(0, 56): 0, (56, 104): 48, (104, 160): 96}  # columns of a label: start of its window
    for (left, right), start in windows.items():
        window = np.ascontiguousarray(image[:, start : start + 64])
        whole = Pipeline(network, preprocess)(window).labels()
        np.testing.assert_array_equal(label[:, left:right], whole[:, left - start : right - start])


@pytest.mark.parametrize("blend", ["none", "average", "cosine", "gaussian"])
@pytest.mark.parametrize("rows", [256, 512])
@pytest.mark.parametrize("window_batch", [1, 3])
def test_strips_give_the_labels_of_the_whole_to_the_bit(network, blend, rows, window_batch) -> None:
    settings = InferenceSettings(blend=blend, window_batch=window_batch, flip_vertical=True)
    settings = settings.replace({"is_slide": True, "crop_size_hw": [96, 64], "stride_hw": [70, 48]})
    image = smooth_image(1100, 150)
    pipeline = Pipeline(network, Preprocess.from_transforms([NORMALIZE]), settings)
    whole, in_strips = pipeline(image), pipeline(image)
    labels, confidences = [], []
    for top in range(0, 1100, rows):
        strip = (top, min(top + rows, 1100))
        in_strips.compute_rows(*strip)
        labels.append(in_strips.labels(strip))
        confidences.append(in_strips.confidence(strip))
        in_strips.forget_above(strip[1])
        assert in_strips.num_held <= 2 * 3 * (-(-(rows + 96) // 70) + 1)
    np.testing.assert_array_equal(np.concatenate(labels), whole.labels())
    np.testing.assert_array_equal(np.concatenate(confidences), whole.confidence())
    assert in_strips.num_computed == in_strips.num_windows


@pytest.mark.check
@pytest.mark.parametrize("scale_mode", ["transformed", "source"])
@pytest.mark.parametrize("window", [{}, SLIDE], ids=["whole", "slide"])
@pytest.mark.parametrize(
    "rules",
    [
        [{"type": "Resize", "target_size": [97, 75]}],
        [{"type": "ResizeByShort", "short_size": 64}],
        [{"type": "ResizeKeepRatio", "scale": [400, 64]}, {"type": "ResizeToMultiple"}],
        [{"type": "AlignedResize", "scale": [400, 64]}],
        [{"type": "Padding", "target_size": [140, 120]}],
    ],
    ids=lambda rules: "+".join(rule["type"] for rule in rules),
)
def test_size_rules_are_undone(network, rules, window, scale_mode) -> None:
    scales = (1.0, 1.3) if rules[0]["type"] == "Padding" else (0.75, 1.0, 1.3)
    settings = InferenceSettings(scales=scales, scale_mode=scale_mode, **window, **FLIPS)
    if scale_mode == "source" and rules[-1]["type"] == "ResizeToMultiple":
        rules = rules[:1]  # both rules would scale
    preprocess = Preprocess.from_transforms([*rules, NORMALIZE])
    assert_equal(network, smooth_image(101, 131), preprocess, settings)


@pytest.mark.check
@pytest.mark.parametrize("size_hw", [(29, 29), (30, 201), (64, 48), (65, 49), (128, 96), (57, 33)])
def test_slide_on_any_size(network, size_hw) -> None:
    settings = InferenceSettings(flip_horizontal=True, **SLIDE)
    assert_equal(network, smooth_image(*size_hw), Preprocess.from_transforms([NORMALIZE]), settings)


@pytest.mark.parametrize("window", [{}, SLIDE], ids=["whole", "slide"])
@pytest.mark.parametrize("size_hw", [(101, 131), (96, 128), (30, 90)])
def test_padding_inside_the_network_is_cropped_off(window, size_hw) -> None:
    rules = [{"type": "ResizeByShort", "short_size": 90}] if size_hw[0] == 101 else []
    settings = InferenceSettings(scales=(0.75, 1.0), **window, **FLIPS)
    preprocess = Preprocess.from_transforms([*rules, NORMALIZE])
    assert_equal(PaddedNetwork(), smooth_image(*size_hw), preprocess, settings)


def test_padding_inside_the_network_excludes_one_step() -> None:
    pipeline = Pipeline(PaddedNetwork(), Preprocess(), InferenceSettings(is_one_step=True))
    with pytest.raises(UserError, match="this network pads its input"):
        pipeline(smooth_image(64, 64))


def test_one_step_resize(network) -> None:
    rules = [{"type": "Resize", "target_size": [96, 96]}, NORMALIZE]
    settings = InferenceSettings(is_one_step=True, flip_horizontal=True, scales=(1.0, 1.25))
    preprocess = Preprocess.from_transforms(rules)
    image = smooth_image(150, 131)
    assert_equal(network, image, preprocess, settings)
    two_steps = predict_label(network, image, preprocess, InferenceSettings())
    one_step = predict_label(network, image, preprocess, InferenceSettings(is_one_step=True))
    assert (two_steps != one_step).any()


def test_one_step_resize_refuses_padding(network) -> None:
    preprocess = Preprocess.from_transforms([{"type": "Padding", "target_size": [160, 160]}])
    with pytest.raises(UserError, match="is_one_step"):
        Pipeline(network, preprocess, InferenceSettings(is_one_step=True))(smooth_image(97, 131))


def test_cityscapes_windows(network) -> None:
    settings = InferenceSettings(
        is_slide=True, crop_size_hw=(64, 64), stride_hw=(48, 48), window_batch=4
    )
    network.batches.clear()
    Pipeline(network, Preprocess(), settings)(smooth_image(64, 128)).labels()
    assert network.batches == [[3, 3, 64, 64]]


def test_windows_go_through_in_batches_of_equal_size(network) -> None:
    settings = InferenceSettings(**SLIDE, **FLIPS, window_batch=3, scales=(0.5, 1.0))
    network.batches.clear()
    Pipeline(network, Preprocess(), settings)(smooth_image(64, 90)).labels()
    sizes = [tuple(batch[2:]) for batch in network.batches]
    assert sum(batch[0] for batch in network.batches if batch[2:] == [64, 48]) == 2 * 4
    assert sum(batch[0] for batch in network.batches if batch[2:] == [32, 45]) == 1 * 4
    assert len(sizes) == 3 + 2


def test_images_of_a_batch_share_network_calls(network) -> None:
    images = [smooth_image(64, 64), smooth_image(64, 65), smooth_image(64, 64)]
    preprocess = Preprocess.from_transforms([NORMALIZE])
    pipeline = Pipeline(network, preprocess, InferenceSettings(window_batch=4))
    network.batches.clear()
    batched = [logits.labels() for logits in pipeline.batch(images)]
    assert sorted(batch[0] for batch in network.batches) == [1, 2]
    for image, label in zip(images, batched, strict=True):
        np.testing.assert_array_equal(label, pipeline(image).labels())


def test_computed_images_need_the_network_no_more(network) -> None:
    """So that their maps can be made in another thread than it runs in."""
    preprocess = Preprocess.from_transforms([NORMALIZE])
    [whole] = Pipeline(OfArrays(network), preprocess).batch([smooth_image(300, 60)])
    [slide] = Pipeline(OfArrays(network), preprocess, InferenceSettings(**SLIDE)).batch(
        [smooth_image(300, 60)]
    )
    assert whole.is_computed and not slide.is_computed
    label = slide.labels()
    assert slide.is_computed
    network.batches.clear()
    np.testing.assert_array_equal(slide.labels(), label)
    assert whole.labels().shape == (300, 60)
    assert not network.batches


def test_dropped_windows_are_computed_again(network, monkeypatch) -> None:
    monkeypatch.setattr(pipeline_module, "CACHE_MIB", 0)
    preprocess = Preprocess.from_transforms([NORMALIZE])
    settings = InferenceSettings(**SLIDE, **FLIPS)
    logits = Pipeline(network, preprocess, settings)(smooth_image(300, 60))
    held = []
    for _ in logits._tiles((64, 64)):
        held.append(len(logits._pieces))
    assert max(held) < 4 * 2 * len(logits.views[0].axes[0].windows)
    assert not logits._pieces
    assert_equal(network, smooth_image(300, 60), preprocess, settings)


def test_windows_are_kept_for_later_maps(network) -> None:
    preprocess = Preprocess.from_transforms([NORMALIZE])
    logits = Pipeline(network, preprocess, InferenceSettings(**SLIDE))(smooth_image(100, 100))
    label = logits.labels()
    network.batches.clear()
    probabilities = logits.probabilities()
    assert not network.batches
    np.testing.assert_allclose(logits.confidence(), probabilities.max(0), atol=1e-6)
    entropy = -(probabilities * np.log(probabilities)).sum(0)
    np.testing.assert_allclose(logits.entropy(), entropy, atol=1e-5)
    np.testing.assert_array_equal(label, probabilities.argmax(0))


@pytest.mark.check
@pytest.mark.parametrize("arrays", ["host", "device"])
@pytest.mark.parametrize("average", ["logits", "softmax"])
@pytest.mark.parametrize("temperatures", [(2.5,), (0.5, 1.0, 2.0, 3.0, 0.7, 1.3, 1.9)])
def test_temperatures_change_probabilities_and_no_label(
    network, temperatures, average, arrays, monkeypatch
) -> None:
    if arrays == "device":
        for choice in ("arrays_for", "arrays_on"):
            monkeypatch.setattr(pipeline_module, choice, lambda _: PaddleArrays)
    preprocess = Preprocess.from_transforms([NORMALIZE])
    settings = InferenceSettings(**SLIDE, **FLIPS, average=average)
    image = smooth_image(70, 90)
    plain = Pipeline(network, preprocess, settings)(image)
    calibrated = settings.replace({"temperatures": temperatures})
    logits = Pipeline(network, preprocess, calibrated)(image)
    np.testing.assert_array_equal(logits.labels(), plain.labels())
    probabilities = plain.probabilities()
    divisors = np.resize(temperatures, NUM_CLASSES)[probabilities.argmax(0)]
    powers = probabilities ** (1 / divisors)
    np.testing.assert_allclose(logits.probabilities(), powers / powers.sum(0), atol=1e-5)
    np.testing.assert_allclose(logits.confidence(), (powers / powers.sum(0)).max(0), atol=1e-5)
    rows, columns = np.array([0, 69, 33, 64, 5]), np.array([0, 89, 64, 1, 60])
    expected = np.log(probabilities[:, rows, columns].T)
    np.testing.assert_allclose(logits.log_probabilities(rows, columns), expected, atol=1e-4)


def test_temperatures_of_another_number_of_classes_are_refused(network) -> None:
    settings = InferenceSettings(temperatures=(1.0, 2.0))
    pipeline = Pipeline(network, Preprocess.from_transforms([NORMALIZE]), settings)
    with pytest.raises(UserError, match="temperatures: found 2, expected 1, or one for each of"):
        pipeline(smooth_image(64, 64)).labels()


@pytest.mark.check
def test_ties_go_to_the_lowest_id() -> None:
    def network(x: paddle.Tensor) -> paddle.Tensor:
        return paddle.zeros([x.shape[0], 300, x.shape[2] // 4, x.shape[3] // 4])

    label = Pipeline(network, Preprocess())(smooth_image(64, 64)).labels()
    assert label.dtype == np.int32
    assert (label == 0).all()


@pytest.mark.parametrize("average", ["logits", "softmax"])
def test_operations_on_the_device_equal_those_on_the_host(network, monkeypatch, average) -> None:
    preprocess = Preprocess.from_transforms([NORMALIZE])
    settings = InferenceSettings(**SLIDE, **FLIPS, **SCALES, average=average)
    host = Pipeline(network, preprocess, settings)(smooth_image(101, 131))
    windows = [host.read(key) for key in host.first_missing()]
    for choice in ("arrays_for", "arrays_on"):
        monkeypatch.setattr(pipeline_module, choice, lambda _: PaddleArrays)
    for key, window in zip(host.first_missing(), windows, strict=True):
        np.testing.assert_array_equal(host.read(key).numpy(), window)
    device = Pipeline(network, preprocess, settings)(smooth_image(101, 131))
    np.testing.assert_array_equal(host.labels(), device.labels())
    np.testing.assert_allclose(host.probabilities(), device.probabilities(), atol=1e-6)
    np.testing.assert_allclose(host.entropy(), device.entropy(), atol=1e-5)


class OfArrays:
    """A layer as a network outside Paddle: arrays in, arrays out."""

    takes_numpy = True

    def __init__(self, layer: nn.Layer) -> None:
        self.layer = layer
        self.pad_multiple = getattr(layer, "pad_multiple", 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        assert type(x) is np.ndarray and x.dtype == np.float32
        with paddle.no_grad():
            return self.layer(paddle.to_tensor(x)).numpy()


@pytest.mark.parametrize("transforms", [[NORMALIZE], []], ids=["normalized", "0..255"])
@pytest.mark.parametrize("average", ["logits", "softmax"])
@pytest.mark.parametrize("window", [{}, SLIDE], ids=["whole", "slide"])
def test_networks_of_arrays_give_what_those_of_tensors_give(
    network, window, average, transforms
) -> None:
    settings = InferenceSettings(**window, **FLIPS, **SCALES, average=average, window_batch=2)
    preprocess = Preprocess.from_transforms(transforms)
    found, expected = (
        Pipeline(each, preprocess, settings)(smooth_image(101, 131))
        for each in (OfArrays(network), network)
    )
    np.testing.assert_array_equal(found.labels(), expected.labels())
    np.testing.assert_array_equal(found.probabilities(), expected.probabilities())


@pytest.mark.check
@pytest.mark.parametrize("takes_numpy", [False, True])
def test_broken_weights_are_reported(takes_numpy) -> None:
    class Broken:
        def __call__(self, x: paddle.Tensor | np.ndarray) -> paddle.Tensor | np.ndarray:
            full = np.full if takes_numpy else paddle.full
            return full([x.shape[0], 3, 16, 16], float("nan"))

    Broken.takes_numpy = takes_numpy
    with pytest.raises(UserError, match="not finite"):
        Pipeline(Broken(), Preprocess())(smooth_image(64, 64)).labels()


def test_empty_image_is_refused(network) -> None:
    with pytest.raises(UserError, match=r"shape \(0, 5, 3\)"):
        Pipeline(network, Preprocess())(np.zeros((0, 5, 3), np.uint8))
