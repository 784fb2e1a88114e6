"""PaddleSeg's manager is asked for what a config names, with what a user added to it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from PIL import Image

from paddleseg_segformer import UserError
from paddleseg_segformer.components import KINDS, find, is_own, resolve
from paddleseg_segformer.config.building import (
    build_dataset,
    build_loss,
    build_model,
    build_optimizer,
)
from paddleseg_segformer.config.schema import config_from
from paddleseg_segformer.data import SegmentationDataset
from paddleseg_segformer.export import export_model
from paddleseg_segformer.models import SegFormer

manager = pytest.importorskip("paddleseg.cvlibs", reason="PaddleSeg is not installed").manager
TheirDataset = pytest.importorskip("paddleseg.datasets").Dataset


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch):
    """Return a function that adds a component to a table of PaddleSeg's manager for one test."""

    def add(table: str, component: type) -> None:
        entries = getattr(manager, table).components_dict
        monkeypatch.setitem(entries, component.__name__, component)

    return add


def model_of(**section: object) -> nn.Layer:
    paddle.seed(0)
    return build_model(config_from({"model": section}, "x.yml"))


class Outputs(nn.Layer):
    """A model of PaddleSeg's contract with `num_outputs` maps in training, one in evaluation."""

    def __init__(self, num_classes, num_outputs=1, in_channels=3, pretrained=None):
        super().__init__()
        assert pretrained is None, "weights are loaded by this package"
        self.conv = nn.Conv2D(in_channels, num_classes, 3, stride=2, padding=1)
        self.num_outputs = num_outputs

    def forward(self, x):
        logits = F.interpolate(self.conv(x), paddle.shape(x)[2:], mode="bilinear")
        return [logits] * (self.num_outputs if self.training else 1)


def test_model_gives_its_first_map_and_keeps_its_weights_names(added) -> None:
    added("MODELS", Outputs)
    model = model_of(type="Outputs", num_classes=5, in_channels=4, pretrained="nowhere.pdparams")
    x = paddle.rand([1, 4, 9, 12])
    theirs = Outputs(5, in_channels=4)
    theirs.set_state_dict(model.state_dict())
    assert list(model.state_dict()) == ["conv.weight", "conv.bias"]
    np.testing.assert_array_equal(model(x).numpy(), theirs(x)[0].numpy())
    assert (model.num_classes, model.logits_stride, model.in_channels) == (5, 1, 4)


def test_model_of_several_outputs_evaluates_and_refuses_to_train(added) -> None:
    added("MODELS", Outputs)
    model = model_of(type="Outputs", num_classes=5, num_outputs=2)
    model.eval()
    assert model(paddle.rand([1, 3, 8, 8])).shape == [1, 5, 8, 8]
    model.train()
    with pytest.raises(UserError, match="Outputs: gives 2 maps of logits in training"):
        model(paddle.rand([1, 3, 8, 8]))


def test_model_with_its_own_loss_refuses_to_train(added) -> None:
    class OwnLoss(Outputs):
        def loss_computation(self, *arguments):
            raise NotImplementedError

    added("MODELS", OwnLoss)
    with pytest.raises(UserError, match="OwnLoss: computes a loss of its own"):
        model_of(type="OwnLoss", num_classes=5)(paddle.rand([1, 3, 8, 8]))


def test_model_is_exported(added, tmp_path: Path) -> None:
    added("MODELS", Outputs)
    deploy = export_model(model_of(type="Outputs", num_classes=5), tmp_path / "out")
    assert deploy.output.stride == 1 and deploy.input.num_channels == 3
    assert deploy.artefacts["paddle"].verified[0].label_agreement == 1


def test_backbone_of_theirs_stands_under_our_head() -> None:
    backbone = {"type": "ResNet18_vd", "output_stride": 32}
    model = model_of(type="SegFormer", num_classes=3, embedding_dim=8, backbone=backbone)
    model.eval()
    assert type(model) is SegFormer and model.backbone.in_channels == 3
    assert model(paddle.rand([1, 3, 64, 96])).shape == [1, 3, 16, 24]


def test_backbone_of_one_map_is_refused_under_segformer() -> None:
    with pytest.raises(UserError, match="backbone HRNet: gives 1 maps"):
        model_of(type="SegFormer", num_classes=3, backbone={"type": "HRNet_W18_Small_V1"})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 255, (16, 12, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "a_label.png"), rng.integers(0, 4, (16, 12), np.uint8))
    (tmp_path / "list.txt").write_text("a.png a_label.png\n")
    return tmp_path


class Listed(TheirDataset):
    NUM_CLASSES = 4

    def __init__(self, transforms, dataset_root, mode="train", edge=False):
        paths = dict.fromkeys(("train_path", "val_path"), f"{dataset_root}/list.txt")
        super().__init__(mode, dataset_root, transforms, 4, edge=edge, **paths)


def test_data_set_gives_the_samples_that_paddleseg_makes(added, files: Path) -> None:
    added("DATASETS", Listed)
    dataset = build_dataset({"type": "Listed", "dataset_root": str(files)})
    image, label = Listed([], str(files))[0]["img"], Listed([], str(files))[0]["label"]
    sample = dataset.read(0)
    assert type(dataset) is SegmentationDataset and dataset.num_classes == 4
    np.testing.assert_array_equal(sample.image, image.transpose(1, 2, 0))
    np.testing.assert_array_equal(sample.label, label)
    assert find("dataset", "Listed").label_set.num_classes == 4


LISTS = {  # list file and separator
    **dict.fromkeys(("DRIVE", "STARE", "HRF", "CHASEDB1", "OpticDiscSeg"), ("train_list.txt", " ")),
    "PPHumanSeg14K": ("train.txt", " "),
    "MiniDeepGlobeRoadExtraction": ("train.txt", "|"),
}
FOLDERS = {  # folder, list of names and folder of labels
    "PascalVOC": ("VOC2012", "train.txt", "SegmentationClass"),
    "PascalContext": ("", "train_context.txt", "Context"),
}
OWN_SAMPLES = ("EG1800", "SUPERVISELY", "PSSLDataset")


@pytest.mark.parametrize("name", [*LISTS, *FOLDERS])
def test_paddlesegs_data_sets_give_its_samples(name: str, tmp_path: Path) -> None:
    image, label = Path("a.jpg"), Path("a.png")
    if name in LISTS:
        list_name, separator = LISTS[name]
        (tmp_path / list_name).write_text(f"{image}{separator}{label}\n")
    else:
        folder, list_name, labels = FOLDERS[name]
        image, label = Path(folder, "JPEGImages/a.jpg"), Path(folder, labels, "a.png")
        names = Path(folder, "ImageSets/Segmentation", list_name)
        for path in (image, label, names):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / names).write_text("a\n")
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / image), rng.integers(0, 255, (16, 12, 3), np.uint8))
    stored = Image.fromarray(rng.integers(0, 2, (16, 12), np.uint8))
    stored.putpalette([0, 0, 0, 128, 0, 0])  # as VOC's are
    stored.save(tmp_path / label)
    theirs = manager.DATASETS[name](transforms=[], dataset_root=str(tmp_path))[0]
    dataset = build_dataset({"type": name, "dataset_root": str(tmp_path)})
    sample = dataset.read(0)
    np.testing.assert_array_equal(sample.image, theirs["img"].transpose(1, 2, 0))
    np.testing.assert_array_equal(sample.label, theirs["label"])
    assert dataset.num_classes == manager.DATASETS[name].NUM_CLASSES


@pytest.mark.parametrize("name", OWN_SAMPLES)
def test_paddlesegs_data_sets_of_other_samples_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: this data set of PaddleSeg's makes its samples"):
        build_dataset({"type": name, "dataset_root": "nowhere", "transforms": []})


def test_every_data_set_of_paddlesegs_is_among_them() -> None:
    ours = {name for name in manager.DATASETS.components_dict if is_own("dataset", name)}
    assert {*LISTS, *FOLDERS, *OWN_SAMPLES} == set(manager.DATASETS.components_dict) - ours


def test_edge_is_named_once_and_ignored(added, files: Path, caplog) -> None:
    added("DATASETS", Listed)
    build_dataset({"type": "Listed", "dataset_root": str(files), "edge": True})
    assert caplog.text.count("edge is without effect") == 1


def test_loss_that_fails_on_this_paddle_says_so_in_one_line() -> None:
    loss, _ = build_loss({"types": [{"type": "RelaxBoundaryLoss"}], "coef": [1]})
    logits, label = paddle.rand([1, 4, 16, 16]), paddle.zeros([1, 16, 16], "int64")
    with pytest.raises(UserError, match=r"RelaxBoundaryLoss: PaddleSeg's code fails.*promotion"):
        loss(logits, label)


def test_optimizer_that_fails_at_its_first_step_is_refused_before() -> None:
    theirs = manager.OPTIMIZERS["AdamWDL"](layerwise_decay=0.8)
    layer = nn.Linear(2, 2)
    layer(paddle.rand([1, 2])).sum().backward()
    with pytest.raises(TypeError):
        theirs(layer, 0.1).step()
    with pytest.raises(UserError, match="AdamWDL: PaddleSeg's code fails at the first step"):
        build_optimizer({"type": "AdamWDL", "layerwise_decay": 0.8}, layer, 0.1)


@pytest.mark.parametrize("kind", [kind for kind, item in KINDS.items() if item.paddleseg])
def test_known_names_are_listed_once(kind) -> None:
    with pytest.raises(UserError) as caught:
        resolve(kind, "0")
    names = str(caught.value).partition("Known: ")[2].rstrip(".").split(", ")
    assert names[0] and len(set(names)) == len(names)


def test_loss_of_theirs_gives_its_value() -> None:
    loss, _ = build_loss({"types": [{"type": "LovaszSoftmaxLoss"}], "coef": [1]})
    logits, label = paddle.rand([1, 4, 16, 16]), paddle.randint(0, 4, [1, 16, 16])
    expected = manager.LOSSES["LovaszSoftmaxLoss"](ignore_index=255)(logits, label)
    assert float(loss(logits, label)) == float(expected)


def test_data_set_that_makes_samples_itself_is_refused(added, files: Path) -> None:
    class Shifted(Listed):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "label": 0}

    added("DATASETS", Shifted)
    with pytest.raises(UserError, match="Shifted: this data set of PaddleSeg's makes its samples"):
        build_dataset({"type": "Shifted", "dataset_root": str(files)})


def test_unknown_names_are_looked_for_among_theirs_too() -> None:
    backbone = {"type": "SwinTransformer_tiny_patch4_window7"}
    with pytest.raises(UserError, match=r"Did you mean 'SwinTransformer_tiny_patch4_window7_224'"):
        model_of(type="SegFormer", num_classes=3, backbone=backbone)
