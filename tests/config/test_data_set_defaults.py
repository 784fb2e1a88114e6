"""What a config leaves out is taken from its data set; what contradicts it is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer import register_component
from paddleseg_segformer.config.building import build_dataset, build_loss, build_model
from paddleseg_segformer.config.schema import config_from
from paddleseg_segformer.data import LabelSet, SegmentationDataset
from paddleseg_segformer.errors import UserError

pytestmark = pytest.mark.check

SIDE, CROP = 8, 16  # pixels of the image, and of the window, which has to be padded
PADDING = {
    "RandomPaddingCrop": {"crop_size": [CROP, CROP], "category_max_ratio": 0.75},
    "ScalePadding": {"target_size": [CROP, CROP]},
}


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE // 2, 3), np.uint8)).save(tmp_path / "a.png")
    label = rng.integers(1, 3, (SIDE, SIDE // 2), np.uint8)
    Image.fromarray(label).save(tmp_path / "a_label.png")
    (tmp_path / "train.txt").write_text("a.png a_label.png\n")
    files = {"dataset_root": str(tmp_path), "train_path": str(tmp_path / "train.txt")}
    return {"type": "Dataset", "mode": "train", "num_classes": 3, **files}


@pytest.mark.parametrize("name", PADDING)
@pytest.mark.parametrize("ignore_index", [0, 254, 255, -1, 65535])
def test_padding_is_ignored_by_the_loss(section, ignore_index: int, name: str) -> None:
    transforms = [{"type": "ResizeStepScaling"}, {"type": name, **PADDING[name]}]
    section |= {"ignore_index": ignore_index, "transforms": transforms}
    dataset = build_dataset(section)
    _, label, _ = dataset[0, 1]
    assert label.shape == (CROP, CROP)
    padded = (label != 1) & (label != 2)
    assert padded.mean() > 0.4 and np.unique(label[padded]).tolist() == [ignore_index]

    loss, _ = build_loss(
        {"types": [{"type": "CrossEntropyLoss", "avg_non_ignore": True}], "coef": [1]}, ignore_index
    )
    logits = np.random.default_rng(1).normal(size=(1, 3, CROP, CROP)).astype(np.float32)
    found = loss(paddle.to_tensor(logits), paddle.to_tensor(label[None].astype(np.int64)))
    log_softmax = logits[0] - np.log(np.exp(logits[0]).sum(0))
    expected = [-log_softmax[label[y, x], y, x] for y, x in zip(*np.where(~padded), strict=True)]
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("key", ["ignore_index", "label_padding_value"])
def test_transform_that_ignores_another_id_is_refused(section, key: str) -> None:
    section["ignore_index"] = 254
    section["transforms"] = [{"type": "RandomPaddingCrop", key: 255}]
    expected = rf"dataset.transforms.0: {key} is 255, but the data set's ignore_index is 254. Leave"
    with pytest.raises(UserError, match=expected):
        build_dataset(section)
    section["transforms"][0][key] = 254
    assert build_dataset(section).transforms[0].label_padding_value == 254


@pytest.mark.parametrize("channels", [1, 3])
def test_constants_for_other_channels_are_refused_with_the_data_set(section, channels: int) -> None:
    section |= {"img_channels": channels, "transforms": [{"type": "Normalize", "mean": [0.5, 0.4]}]}
    with pytest.raises(UserError, match=rf"2 values, the image has {channels} channels"):
        build_dataset(section)


@pytest.mark.usefixtures("own_components")
def test_ignored_id_of_a_registered_data_set_is_that_of_its_label_set() -> None:
    @register_component("dataset")
    class Mine(SegmentationDataset):
        label_set = LabelSet("mine", ("a", "b"), ((0, 0, 0), (9, 9, 9)), ignore_index=7)

        def __init__(self, transforms: Any) -> None:
            super().__init__([], transforms, self.label_set, mode="train")

    made = build_dataset({"type": "Mine", "transforms": [{"type": "RandomPaddingCrop"}]})
    assert made.ignore_index == made.transforms[0].ignore_index == 7


def config_of(model: dict[str, Any], **data: Any) -> Any:
    model = {"type": "SegFormer", "embedding_dim": 8, **model}
    model["backbone"] = {"type": "MixVisionTransformer_B0", **model.get("backbone", {})}
    sections = {name: {"type": "Dataset", **values} for name, values in data.items()}
    return config_from({"model": model, **sections}, "x.yml")


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.usefixtures("zero_weights")
def test_channels_and_classes_are_the_data_sets(channels: int) -> None:
    config = config_of({}, train_dataset={"img_channels": channels, "num_classes": 4})
    model = build_model(config)
    assert (model.backbone.in_channels, model.num_classes) == (channels, 4)
    assert model(paddle.zeros([1, channels, 32, 32])).shape[1] == 4
    assert "in_channels" not in config.model["backbone"]  # the config stays as it was written


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            {"backbone": {"in_channels": 3}},
            {"train_dataset": {"img_channels": 5, "num_classes": 2}},
            r"model.backbone.in_channels is 3, but train_dataset \(Dataset\) has 5 channels",
        ),
        (
            {"backbone": {"in_channels": 4}},
            {"val_dataset": {"num_classes": 2}},
            r"model.backbone.in_channels is 4, but val_dataset \(Dataset\) has 3 channels",
        ),
        (
            {},
            {"train_dataset": {"num_classes": 2}, "val_dataset": {"num_classes": 3}},
            r"model.num_classes is 2, but val_dataset \(Dataset\) has 3 classes",
        ),
        (
            {"backbone": {"in_channels": 4}},
            {"val_dataset": {"type": "Cityscapes"}},
            r"in_channels is 4, but val_dataset \(Cityscapes\) has 3 channels",
        ),
    ],
)
def test_contradiction_is_refused_before_a_network_is_built(
    model, data, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle.nn.Layer, "__init__", None)
    with pytest.raises(UserError, match=message):
        build_model(config_of(model, **data))
