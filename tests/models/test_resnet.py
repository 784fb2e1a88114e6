"""ResNet encoders against `paddle.vision`, and the head on the last stage alone."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.vision.models.resnet import BottleneckBlock
from paddle.vision.models.resnet import ResNet as VisionResNet
from small_models import small_mit, small_segformer, spread

from paddleseg_segformer.analysis.complexity import count_macs
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.models import BACKBONES, ResNet, SegFormer, SegFormerLastStage
from paddleseg_segformer.models.folding import fold
from paddleseg_segformer.models.stages import is_part_of, stages_of
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.weights import load_pretrained, load_weights, save_weights


@pytest.fixture(scope="module")
def resnet() -> ResNet:
    paddle.seed(0)
    backbone = BACKBONES["ResNet50"]()
    backbone.eval()
    return backbone


@pytest.mark.parametrize("size", [(64, 96), (45, 67)])
def test_maps_are_those_inside_paddle_visions_network(resnet, size):
    whole = VisionResNet(BottleneckBlock, 50)
    whole.set_state_dict({**whole.state_dict(), **resnet.state_dict()})
    whole.eval()
    maps = []
    for stage in range(1, 5):
        layer = getattr(whole, f"layer{stage}")
        layer.register_forward_post_hook(lambda _layer, _inputs, output: maps.append(output))
    x = paddle.randn([1, 3, *size])
    whole(x)
    for index, (found, expected) in enumerate(zip(resnet(x), maps, strict=True)):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
        stride = 4 * 2**index
        assert found.shape[1:] == [256 * 2**index, *(-(-side // stride) for side in size)]


def test_imagenet_weights_of_paddle_vision_are_read_without_their_classifier(tmp_path):
    paddle.seed(1)
    published = VisionResNet(BottleneckBlock, 50)
    paddle.save(published.state_dict(), str(tmp_path / "resnet50.pdparams"))
    backbone = ResNet()
    report = load_pretrained(backbone, str(tmp_path / "resnet50.pdparams"))
    assert sorted(report.left_out) == ["fc.bias", "fc.weight"]
    theirs = published.state_dict()
    for name, tensor in backbone.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), theirs[name].numpy())


def test_multiply_accumulates_equal_those_of_every_convolution(resnet):
    counted = []

    def count(layer, _inputs, output):
        counted.append(layer.weight.size * output.shape[2] * output.shape[3])

    for backbone in (resnet, ResNet(depth=50, width=4, groups=64)):
        hooks = [
            layer.register_forward_post_hook(count)
            for layer in backbone.sublayers()
            if isinstance(layer, nn.Conv2D)
        ]
        for size in ((64, 96), (45, 67)):
            counted.clear()
            backbone(paddle.zeros([1, 3, *size]))
            assert count_macs(backbone, size).total() == sum(counted)
        for hook in hooks:
            hook.remove()


def test_every_parameter_is_in_a_stage_and_gets_a_gradient(resnet):
    model = SegFormer(3, resnet, 8)
    names = [name for stage in stages_of(model, "test") for depth in stage for name in depth]
    trained = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    of_backbone = [name for name in trained if name.startswith("backbone.")]
    assert all(is_part_of(name, names) for name in of_backbone)
    model.train()
    model(paddle.randn([2, 3, 64, 64])).square().mean().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in trained.values())
    model.clear_gradients()
    model.eval()


@pytest.mark.slow
def test_an_export_gives_the_models_logits(resnet, tmp_path):
    model = SegFormer(3, resnet, 8)
    model.eval()
    formats = ("paddle", "onnx", "openvino")
    export_model(model, tmp_path / "out", formats=formats)
    x = paddle.randn([1, 3, 45, 67])
    with paddle.no_grad():
        expected = model(x).numpy()
    for backend in ("paddle", "onnxruntime", "openvino"):
        options = EngineOptions(device="cpu", backend=backend)
        network = load_network(tmp_path / "out", options)
        bound = 1e-4 * expected.std()
        np.testing.assert_allclose(np.asarray(network(x.numpy())), expected, atol=bound)


def test_other_depths_are_refused_and_other_channels_taken():
    with pytest.raises(UserError, match="depth: found 18, expected 50, 101, 152"):
        ResNet(depth=18)
    assert ResNet(in_channels=5).conv1.weight.shape == [64, 5, 7, 7]


def test_last_stage_equals_the_formula_and_its_costs():
    paddle.seed(0)
    model = spread(SegFormerLastStage(5, small_mit(), 16))
    x = paddle.randn([1, 3, 64, 96])
    last = model.backbone(x)[3].numpy()[0].reshape(32, -1)  # (C, h * w)
    linear, norm = model.linear_c4.proj, model.linear_fuse[0]
    values = linear.weight.numpy().T @ last + linear.bias.numpy()[:, None]
    gain = norm.weight.numpy() / np.sqrt(norm._variance.numpy() + norm._epsilon)
    values = (values - norm._mean.numpy()[:, None]) * gain[:, None] + norm.bias.numpy()[:, None]
    upsampled = F.interpolate(
        paddle.to_tensor(values.reshape(1, 16, 2, 3), "float32"), [16, 24], mode="bilinear"
    )
    weight = model.linear_pred.weight.numpy()[:, :, 0, 0]
    expected = weight @ np.maximum(upsampled.numpy()[0].reshape(16, -1), 0)
    expected = (expected + model.linear_pred.bias.numpy()[:, None]).reshape(1, 5, 16, 24)
    np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(fold(model)(x).numpy(), expected, atol=1e-4)
    macs = count_macs(model, (64, 96))
    encoder = count_macs(model.backbone, (64, 96)).total()
    assert macs.total() == encoder + 2 * 3 * 32 * 16 + 16 * 24 * 16 * 5


def test_last_stage_is_saved_loaded_and_told_from_the_whole_head(tmp_path):
    model = spread(SegFormerLastStage(5, small_mit(), 16))
    save_weights(model, tmp_path / "model.pdparams")
    again = SegFormerLastStage(5, small_mit(), 16)
    load_weights(again, tmp_path / "model.pdparams")
    again.eval()
    x = paddle.randn([1, 3, 64, 64])
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    with pytest.raises(UserError, match="missing: linear_c1.proj.weight"):
        load_weights(small_segformer(5), tmp_path / "model.pdparams")
