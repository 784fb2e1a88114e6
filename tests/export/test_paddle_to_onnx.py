"""Operators of Paddle's graph as ONNX, each against Paddle: those of our models, and usual ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn
from small_models import IS_PADDLE_2

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import paddle_to_onnx
from paddleseg_segformer.export.paddle_to_onnx import convert

pytestmark = pytest.mark.skipif(IS_PADDLE_2, reason="ONNX is made with Paddle 3")

ANY = [None, 4, None, None]
FIXED = [2, 4, 12, 10]


class Calling(nn.Layer):
    """A layer that calls a function."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Layer) -> None:
        super().__init__()
        self.function, self.layers = function, nn.LayerList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def side(x: Tensor, axis: int) -> Tensor:
    return paddle.shape(x)[axis]


def save(network: nn.Layer, folder: Path, shape: list[int | None]) -> list[Path]:
    network.eval()
    spec = paddle.static.InputSpec(shape, "float32", name="x")
    static = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    paddle.jit.save(static, str(folder / "net"))
    return [folder / "net.json", folder / "net.pdiparams"]


def check(
    network: nn.Layer, folder: Path, shape: list[int | None], is_standard: bool = False
) -> onnx.ModelProto:
    """Compare Paddle and ONNX Runtime; return the ONNX model."""
    paddle.seed(1)
    for name, tensor in network.state_dict().items():
        offset = 0.5 if name.endswith("_variance") else 0
        tensor.set_value(offset + paddle.rand(tensor.shape))
    files = save(network, folder, shape)
    model = convert(files, "y", is_standard)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    sizes = [FIXED] if shape == FIXED else [[2, 4, 12, 10], [1, 4, 7, 13]]
    for size in sizes:
        x = paddle.randn(size)
        expected = paddle.jit.load(str(folder / "net"))(x).numpy()
        [found] = session.run(None, {"x": x.numpy()})
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        # sums of up to 200 terms, and functions that engines approximate: 16 roundings
        tolerance = 16 * np.finfo(np.float32).eps * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=tolerance)
    return model


LAYERS: dict[str, Callable[[], nn.Layer]] = {
    "conv": lambda: nn.Conv2D(4, 6, 3, stride=2, padding=[1, 2], dilation=2),
    "grouped conv": lambda: nn.Conv2D(4, 6, 3, padding=[1, 0, 2, 1], groups=2),
    "conv, same": lambda: nn.Conv2D(4, 6, 4, stride=2, padding="SAME", bias_attr=False),
    "conv, valid": lambda: nn.Conv2D(4, 6, 3, padding="VALID"),
    "depthwise": lambda: nn.Conv2D(4, 4, 3, groups=4),
    "transposed conv": lambda: nn.Conv2DTranspose(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed depthwise": lambda: nn.Conv2DTranspose(4, 4, 2, stride=2, groups=4),
    "conv1d": lambda: Calling(lambda x, conv: conv(x.flatten(2)), nn.Conv1D(4, 6, 3)),
    "linear": lambda: Calling(lambda x, fc: fc(x.transpose([0, 2, 3, 1])), nn.Linear(4, 5)),
    "conv and batch norm": lambda: nn.Sequential(nn.Conv2D(4, 6, 1), nn.BatchNorm2D(6)),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2D(4),
    "layer norm": lambda: Calling(
        lambda x, norm: norm(x.flatten(2).transpose([0, 2, 1])), nn.LayerNorm(4, epsilon=1e-3)
    ),
    "max pooling": lambda: nn.MaxPool2D(3, 2, 1),
    "mean pooling": lambda: nn.AvgPool2D(3, 2, 1),
    "mean pooling, padding counts": lambda: nn.AvgPool2D(3, 2, 1, exclusive=False),
    "mean pooling, last window cut": lambda: nn.AvgPool2D(3, 2, 1, ceil_mode=True),
    "global mean": lambda: nn.AdaptiveAvgPool2D(1),
    "global maximum": lambda: nn.AdaptiveMaxPool2D(1),
    "prelu": lambda: nn.PReLU(4),
    "prelu, one slope": lambda: nn.PReLU(),
    "dropout": lambda: nn.Dropout(0.3),
    "dropout, scaled": lambda: nn.Dropout(0.3, mode="downscale_in_infer"),
    "reflection": lambda: nn.Pad2D([1, 2, 3, 4], mode="reflect"),
    "replication": lambda: nn.Pad2D([1, 2, 3, 4], mode="replicate"),
    "zeros": lambda: nn.Pad2D([1, 0, 3, 4], value=2.0),
    "twice, bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "twice, nearest": lambda: nn.Upsample(scale_factor=2),
    "bicubic": lambda: nn.Upsample(size=[17, 9], mode="bicubic"),
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "squeeze and excitation": lambda: Calling(
        lambda x, conv: x * F.hardsigmoid(conv(x.mean([2, 3], keepdim=True))), nn.Conv2D(4, 4, 1)
    ),
}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        function.__name__: function
        for function in (
            *(F.relu, F.relu6, F.gelu, F.silu, F.swish, F.sigmoid, F.hardswish, F.hardsigmoid),
            *(F.leaky_relu, F.elu, F.softplus, F.mish, F.tanh, F.hardtanh, F.softsign),
            *(F.softmax, F.log_softmax),
            *(paddle.abs, paddle.exp, paddle.sin, paddle.cos, paddle.floor, paddle.ceil),
            *(paddle.erf, paddle.square, paddle.sign),
        )
    },
    "gelu by tanh": lambda x: F.gelu(x, approximate=True),
    "softplus, beta": lambda x: F.softplus(x, beta=2),
    "roots": lambda x: paddle.sqrt(x.abs()) + paddle.rsqrt(x.abs() + 1) + paddle.log(x.abs() + 1),
    "arithmetic": lambda x: (1 - x) / (x * x + 2.0) + x**2 - paddle.pow(x.abs(), 1.5) + 3 * x,
    "limits": lambda x: paddle.maximum(x.clip(-0.5, 0.9), -x) + paddle.minimum(x, x * 0.5),
    "floor division": lambda x: x // 0.3,
    "means": lambda x: x.mean([2, 3], keepdim=True) + x.mean() + x.sum(1, keepdim=True) / 4,
    "extremes": lambda x: x.max(-1) + x.min([3]) + x.amax(3),
    "variance": lambda x: x.var(1),
    "argmax": lambda x: paddle.argmax(x, axis=1, dtype="int32"),
    "argmin": lambda x: x.argmin(2, keepdim=True),
    "unit vectors": lambda x: F.normalize(x, axis=1),
    "comparisons": lambda x: paddle.where(
        paddle.logical_and(x > 0, x <= 1), x, (x != 2).astype("float32")
    ),
    "parts": lambda x: paddle.split(x, [1, -1], axis=1)[1] + paddle.chunk(x, 4, axis=1)[2],
    "unbound": lambda x: paddle.stack(paddle.unbind(x, 1)[1:], 1),
    "slices": lambda x: x[:, :-1, 1:, 2] + x[:, -1, 1:].mean(-1, keepdim=True)[:, None, :, 0],
    "steps": lambda x: x[:, :, ::2, 1::3],
    "squeezed": lambda x: x[:, :1].squeeze(1).unsqueeze([1, -1]),
    "rolled": lambda x: paddle.roll(x, [1, -2], [2, 3]),
    "flipped": lambda x: paddle.flip(x, [3]),
    "tiled": lambda x: paddle.tile(x, [1, 2, 1, 3]),
    "gathered": lambda x: paddle.index_select(x, paddle.to_tensor([2, 0]), 1),
    "expanded": lambda x: x[:, :1].expand_as(x) + x[:, 1:2].expand([-1, 4, -1, -1]),
    "constants": lambda x: (
        x * paddle.to_tensor([1.0, 2.0, 3.0, 4.0]).reshape([1, 4, 1, 1])
        + paddle.zeros_like(x)
        + paddle.arange(0, 4, dtype="float32").reshape([4, 1, 1])
    ),
    "products": lambda x: (
        paddle.bmm(x.flatten(2), x.flatten(2).transpose([0, 2, 1]))
        + paddle.matmul(x.flatten(2), x.flatten(2), transpose_y=True)
    ),
    "to_half": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True),
    "channels shuffled": lambda x: (
        x.reshape([0, 2, 2, side(x, 2), side(x, 3)])
        .transpose([0, 2, 1, 3, 4])
        .reshape([0, 4, side(x, 2), side(x, 3)])
    ),
    "computed size": lambda x: F.interpolate(
        x, size=[side(x, 2) * 2, -(-side(x, 3) // 3) + 1], mode="nearest"
    ),
    "numbers from sizes": lambda x: x / (side(x, 2) * side(x, 3) - 1) + side(x, 2) * 0.5,
    "batch in the channels": lambda x: x.reshape([1, side(x, 0) * 4, side(x, 2), side(x, 3)]),
    "range": lambda x: x + paddle.arange(side(x, 3)).astype("float32"),
    "full": lambda x: paddle.concat([x, paddle.full([side(x, 0), 4, 1, side(x, 3)], 2.0)], 2),
}


def attention(x: Tensor, qkv: nn.Layer) -> Tensor:
    """Return attention as layers of this kind spell it, 1 / sqrt(D) aside."""
    tokens = qkv(x.flatten(2).transpose([0, 2, 1]))  # (N, L, 3 * 8)
    q, k, v = paddle.split(tokens, 3, axis=-1)
    q, k, v = (each.reshape([0, 0, 2, 4]).transpose([0, 2, 1, 3]) for each in (q, k, v))
    weights = F.softmax(paddle.matmul(q, k, transpose_y=True))  # (N, 2, L, L)
    return paddle.matmul(weights, v).transpose([0, 2, 1, 3]).flatten(2)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_gives_what_paddle_gives(name, tmp_path) -> None:
    check(LAYERS[name](), tmp_path, ANY)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_gives_what_paddle_gives(name, tmp_path) -> None:
    check(Calling(FUNCTIONS[name]), tmp_path, ANY)


@pytest.mark.parametrize("is_standard", [False, True])
def test_attention_of_a_layer_is_one_operator(is_standard, tmp_path) -> None:
    network = Calling(attention, nn.Linear(4, 24))
    model = check(network, tmp_path, ANY, is_standard)
    kinds = [node.op_type for node in model.graph.node]
    assert ("MultiHeadAttention" in kinds) == (not is_standard)
    assert ("Softmax" in kinds) == is_standard
    # from the parts to the operator, and from there out, nothing is rearranged
    assert is_standard or kinds[-4:] == ["MatMul", "Add", "Split", "MultiHeadAttention"]


def test_bias_is_part_of_its_convolution_and_equal_nodes_are_one(tmp_path) -> None:
    network = Calling(lambda x, conv: F.relu(conv(x)) + F.relu(conv(x)), nn.Conv2D(4, 6, 3))
    model = check(network, tmp_path, ANY)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "Add"]
    assert len(model.graph.initializer) == 2
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)


def test_sizes_that_are_known_leave_no_trace(tmp_path) -> None:
    def resized(x: Tensor) -> Tensor:
        hw = [-(-side(x, 2) // 8) * 8, side(x, 3) + 6]
        return F.interpolate(x, size=hw, mode="bilinear").flatten(2).unsqueeze(1)

    model = check(Calling(resized), tmp_path, FIXED)
    assert [node.op_type for node in model.graph.node] == ["Resize", "Reshape", "Unsqueeze"]


def test_pooling_to_a_grid_takes_maps_of_known_sides(tmp_path) -> None:
    check(nn.AdaptiveAvgPool2D((3, 5)), tmp_path, FIXED)
    with pytest.raises(UserError, match="operator pool2d to 3x5 of a map whose sides are unknown"):
        convert(save(nn.AdaptiveAvgPool2D((3, 5)), tmp_path, ANY), "y")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Sequential(nn.Conv2D(4, 4, 1), Calling(lambda x: paddle.cumsum(x, 1))),
            "^Paddle's operator cumsum in /Calling/ cannot be written as ONNX. Use a layer of the "
            "usual ones in its place, or leave ONNX and OpenVINO out of --format.$",
        ),
        (Calling(lambda x: F.normalize(x, p=3)), "operator p_norm of order 3"),
        (
            Calling(lambda x: F.max_pool2d(x, 2, 3, ceil_mode=True)),
            "operator pool2d with ceil_mode and windows that may lie outside the map",
        ),
        (
            Calling(lambda x: F.avg_pool2d(x, 2, data_format="NHWC")),
            "operator pool2d with data format NHWC",
        ),
    ],
)
def test_what_cannot_be_written_is_one_line(network, message, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        convert(save(network, tmp_path, ANY), "y")


def test_weights_of_another_graph_are_refused(tmp_path) -> None:
    graph, weights = save(nn.Conv2D(4, 6, 3), tmp_path, ANY)
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"net.pdiparams: found \d+ bytes, expected \d+ for"):
        convert([graph, weights], "y")


def test_more_weights_than_a_file_holds_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paddle_to_onnx, "LARGEST", 4 * 6 * 9 * 4 - 1)
    with pytest.raises(UserError, match="the weights take .* GiB, an ONNX file holds 2"):
        convert(save(nn.Conv2D(4, 6, 3), tmp_path, ANY), "y")
