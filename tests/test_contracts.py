from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_segformer import UserError, contracts, register_component
from paddleseg_segformer.config.building import (
    build_component,
    build_components,
    build_dataset,
    build_loss,
    build_model,
)
from paddleseg_segformer.config.schema import config_from
from paddleseg_segformer.contracts import Backbone, PyramidBackbone, SegmentationModel, check
from paddleseg_segformer.data import DATASETS, LabelSet, SegmentationDataset
from paddleseg_segformer.models import BACKBONES, MODELS, SegFormer
from paddleseg_segformer.training.hooks import Checkpoints, GracefulStop, Progress
from paddleseg_segformer.training.trainer import Hook

pytestmark = pytest.mark.usefixtures("own_components")

TINY = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}


def test_own_components_keep_their_contracts_without_additions() -> None:
    backbone = BACKBONES["MixVisionTransformer"](**TINY)
    model = SegFormer(3, backbone, embedding_dim=8)
    vit = BACKBONES["VisionTransformer"](embed_dim=32, depth=1, num_heads=2)
    linear = MODELS["LinearSegmenter"](3, vit)
    for component, contract in (
        (backbone, PyramidBackbone),
        (vit, Backbone),
        (model, SegmentationModel),
        (linear, SegmentationModel),
    ):
        check(component, contract, "x")
        assert contracts.input_of(component).in_channels == 3
    for hook in (GracefulStop, Progress, Checkpoints):
        check(hook, contracts.RunHook, "x")
    assert set(DATASETS) and contracts.pad_multiple_of(linear) == linear.pad_multiple


def test_missing_members_are_named_and_those_with_a_value_are_added() -> None:
    with pytest.raises(UserError, match=r"^x: lacks in_channels, expected .*contracts.Backbone"):
        check(SimpleNamespace(), Backbone, "x")
    with pytest.raises(UserError, match="^x: lacks in_channels, feat_channels, __call__"):
        check(SimpleNamespace(), PyramidBackbone, "x")
    backbone = SimpleNamespace(in_channels=4)
    check(backbone, Backbone, "x")
    assert (backbone.min_input_px, backbone.min_portable_px) == (1, 0)
    assert contracts.pad_multiple_of(lambda x: x) == 1


class Bare:
    """Lacks all."""

    def __init__(self, transforms: object = None, ignore_index: int = 255) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("model", "num_classes, logits_stride, __call__"),
        ("backbone", "in_channels"),
        ("dataset", "samples, .*label_set.*read.* Derive it from paddleseg_segformer.data"),
        ("transform", "__call__"),
        ("loss", "__call__"),
        ("optimizer", r"__call__.* called with \(model, learning_rate\)"),
        ("hook", "before_train, after_step, after_train, close.* Derive it from"),
    ],
)
def test_every_kind_is_checked_when_it_is_built(kind: str, missing: str) -> None:
    register_component(kind, "Bare", Bare)
    with pytest.raises(UserError, match=rf"^here \(Bare\): lacks {missing}"):
        build_component(kind, {"type": "Bare"}, "here")


def test_backbone_under_segformer_gives_four_maps() -> None:
    class Three(nn.Layer):
        in_channels, feat_channels = 3, (1, 2, 3)

    with pytest.raises(UserError, match=r"backbone Three: gives 3 maps .*expected one that"):
        SegFormer(3, Three())
    with pytest.raises(UserError, match="backbone Linear: lacks in_channels, feat_channels"):
        SegFormer(3, nn.Linear(2, 2))


def test_backbone_under_segmenter_gives_tokens() -> None:
    class Patches(nn.Layer):
        in_channels, embed_dim, patch_size = 3, 8, 4

        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv2D(3, 8, 4, stride=4)

        def encode(self, x: paddle.Tensor) -> tuple[paddle.Tensor, list[int]]:
            patches = self.proj(x)
            tokens = patches.flatten(2).transpose([0, 2, 1])
            return paddle.concat([tokens[:, :1], tokens], axis=1), patches.shape[2:]

    model = MODELS["LinearSegmenter"](5, Patches())
    check(model, SegmentationModel, "x")
    assert (model.logits_stride, model.pad_multiple) == (4, 1)
    assert model(paddle.rand([1, 3, 8, 12])).shape == [1, 5, 2, 3]
    with pytest.raises(UserError, match="expected a VisionTransformer.* but it: lacks in_channels"):
        MODELS["LinearSegmenter"](5, nn.Linear(2, 2))


def test_loss_takes_the_label_that_does_not_count() -> None:
    register_component("loss", "Deaf", lambda: None)
    with pytest.raises(UserError, match="loss.types.0: Deaf takes no `ignore_index`"):
        build_loss({"types": [{"type": "Deaf"}], "coef": [1]})


def test_model_of_ones_own_is_built_by_a_config() -> None:
    @register_component("model")
    class Conv(nn.Conv2D):
        logits_stride = 2

        def __init__(self, num_classes: int, in_channels: int = 3) -> None:
            super().__init__(in_channels, num_classes, 3, stride=2, padding=1)
            self.num_classes, self.in_channels = num_classes, in_channels

    model = build_model(config_from({"model": {"type": "Conv", "num_classes": 4}}, "x"))
    assert model.pad_multiple == 1
    assert model(paddle.zeros([1, 3, 9, 8])).shape == [1, 4, 5, 4]


def test_class_count_is_compared_with_a_users_label_set() -> None:
    @register_component("dataset")
    class Two(SegmentationDataset):
        label_set = LabelSet("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)))

        def __init__(self, transforms: list) -> None:
            super().__init__([("a", "b")], transforms, self.label_set, mode="train")

    backbone = {"type": "MixVisionTransformer", **{k: list(v) for k, v in TINY.items()}}
    model = {"type": "SegFormer", "num_classes": 3, "backbone": backbone}
    with pytest.raises(UserError, match=r"num_classes is 3, but train_dataset \(Two\) has 2"):
        build_model(config_from({"model": model, "train_dataset": {"type": "Two"}}, "x"))
    assert build_dataset({"type": "Two"}).img_channels == 3


def test_hooks_of_a_config_are_built_and_checked() -> None:
    @register_component("hook")
    class Counts(Hook):
        def __init__(self, start: int = 0) -> None:
            self.count = start

    (hook,) = build_components("hook", [{"type": "Counts", "start": 3}], "hooks")
    assert hook.count == 3
    with pytest.raises(UserError, match="hooks.0: Counts has no key 'strat'. Did you mean 'start'"):
        build_components("hook", [{"type": "Counts", "strat": 3}], "hooks")
    with pytest.raises(UserError, match="x.yml: hooks.1: no `type`"):
        config_from({"model": {"type": "a"}, "hooks": [{"type": "Counts"}, {}]}, "x.yml")
    assert np.isfinite(hook.count)
