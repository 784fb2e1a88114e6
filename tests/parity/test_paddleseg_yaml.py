"""All YAML files of PaddleSeg for SegFormer and Segmenter run here, unchanged but for `pretrained`.

Those of its development branch and of release 2.8, which are the same: the values and the bases as
they have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_loss, build_model, build_optimizer
from paddleseg_segformer.optimizers import build_lr_schedule

pytestmark = pytest.mark.slow

HOST = "https://bj.bcebos.com/paddleseg/dygraph"
VIT_FILE = HOST + "/pretrained_models/vit_{}_patch16_384_augreg.tar.gz"
LOSS = {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]}
DATA = {"cityscapes": ("Cityscapes", "data/cityscapes", 19)}
DATA["ade20k"] = ("ADE20K", "data/ADEChallengeData2016/", 150)


def augmentation(width: int, height: int) -> list[dict[str, Any]]:
    ranges = dict.fromkeys(("brightness_range", "contrast_range", "saturation_range"), 0.4)
    steps = {"min_scale_factor": 0.5, "max_scale_factor": 2.0, "scale_step_size": 0.25}
    return [
        {"type": "ResizeStepScaling", **steps},
        {"type": "RandomPaddingCrop", "crop_size": [width, height]},
        {"type": "RandomHorizontalFlip"},
        {"type": "RandomDistort", **ranges},
        {"type": "Normalize"},
    ]


def base(data: str, crop: tuple[int, int], **top: Any) -> dict[str, Any]:
    kind, root, _ = DATA[data]
    both = {"type": kind, "dataset_root": root}
    return {
        "train_dataset": {**both, "transforms": augmentation(*crop), "mode": "train"},
        "val_dataset": {**both, "transforms": [{"type": "Normalize"}], "mode": "val"},
        "optimizer": {
            "type": "SGD" if data == "ade20k" else "sgd", "momentum": 0.9, "weight_decay": 4.0e-5,
        },
        "lr_scheduler": {
            "type": "PolynomialDecay", "learning_rate": 0.01, "end_lr": 0, "power": 0.9,
        },
        "loss": LOSS,
        **top,
    }  # fmt: skip


def segformer(size: int, side: int) -> dict[str, Any]:
    name = f"mix_vision_transformer_b{size}"
    config = {
        "_base_": f"../_base_/cityscapes{'_1024x1024' if side == 1024 else ''}.yml",
        "batch_size": 2 if side == 1024 and size < 5 else 1,
        "iters": 160000,
        "model": {
            "type": "SegFormer",
            "backbone": {
                "type": f"MixVisionTransformer_B{size}",
                "pretrained": f"{HOST}/backbone/{name}.tar.gz",
            },
            "embedding_dim": 256 if size < 2 else 768,
            "num_classes": 19,
        },
        "optimizer": {
            "_inherited_": False, "type": "AdamW", "beta1": 0.9, "beta2": 0.999,
            "weight_decay": 0.01,
        },
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.00006, "power": 1},
        "loss": LOSS,
    }  # fmt: skip
    if side == 1024:
        config["test_config"] = {"is_slide": True, "crop_size": [1024] * 2, "stride": [768] * 2}
    return config


def masks(width: int, heads: int) -> dict[str, Any]:
    return {
        "type": "MaskSegmenter", "h_embed_dim": width, "h_depth": 2, "h_num_heads": heads,
        "h_mlp_ratio": 4, "h_drop_rate": 0.0, "h_drop_path_rate": 0.1,
    }  # fmt: skip


VIT = {
    "type": "VisionTransformer", "img_size": 512, "patch_size": 16, "embed_dim": 768, "depth": 12,
    "num_heads": 12, "mlp_ratio": 4, "qkv_bias": True, "drop_rate": 0.0, "drop_path_rate": 0.1,
    "final_norm": True, "pretrained": VIT_FILE.format("base"),
}  # fmt: skip
RESIZED = [{"type": "Resize", "target_size": [512, 512]}, {"type": "Normalize"}]
SEGMENTER = "configs/segmenter/segmenter_vit_{}_ade20k_512x512_160k.yml"
BASES = {
    "configs/_base_/cityscapes.yml": base("cityscapes", (1024, 512), batch_size=2, iters=80000),
    "configs/_base_/cityscapes_1024x1024.yml": {
        "_base_": "./cityscapes.yml",
        "train_dataset": {"transforms": augmentation(1024, 1024)},
        "val_dataset": {"transforms": [{"type": "Normalize"}]},
    },
    "configs/_base_/ade20k.yml": base("ade20k", (512, 512), batch_size=4, iters=80000),
    "test_tipc/configs/_base_/cityscapes_1024x1024.yml": base(
        "cityscapes", (1024, 1024), export={"transforms": RESIZED}
    ),
}
FILES = {
    **{
        f"configs/segformer/segformer_b{size}_cityscapes_1024x{side}_160k.yml": segformer(
            size, side
        )
        for size in range(6)
        for side in (1024, 512)
    },
    "test_tipc/configs/segformer_b0/segformer_b0_cityscapes_1024x1024_160k.yml": segformer(0, 1024),
    SEGMENTER.format("base_linear"): {
        "_base_": "../_base_/ade20k.yml",
        "batch_size": 2,
        "iters": 160000,
        "model": {"type": "LinearSegmenter", "backbone": VIT},
        "val_dataset": {
            "transforms": [{"type": "ResizeByShort", "short_size": 512}, {"type": "Normalize"}]
        },
        "optimizer": {"weight_decay": 0.0},
        "lr_scheduler": {"learning_rate": 0.001, "end_lr": 1.0e-05},
        "test_config": {"is_slide": True, "crop_size": [512, 512], "stride": [512, 512]},
    },
    SEGMENTER.format("base_mask"): {
        "_base_": f"./{Path(SEGMENTER.format('base_linear')).name}",
        "model": masks(768, 12),
    },
    SEGMENTER.format("small_linear"): {
        "_base_": f"./{Path(SEGMENTER.format('base_linear')).name}",
        "model": {
            "type": "LinearSegmenter",
            "backbone": {
                **VIT,
                "embed_dim": 384,
                "num_heads": 6,
                "pretrained": VIT_FILE.format("small"),
            },
        },
    },
    SEGMENTER.format("small_mask"): {
        "_base_": f"./{Path(SEGMENTER.format('small_linear')).name}",
        "model": masks(384, 6),
    },
}


@pytest.fixture
def paddleseg_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which has PaddleSeg's files and four images of each data set."""
    for name, content in {**BASES, **FILES}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
    rng = np.random.default_rng(0)
    for index in range(4):
        image = cv2.resize(rng.integers(0, 255, (8, 12, 3), np.uint8), (96, 64))
        label = np.kron(rng.integers(1, 19, (8, 12)), np.ones((8, 8))).astype(np.uint8)
        city = f"x/x_{index:06d}_000019"
        short, long = (("train", "training"), ("val", "validation"))[index % 2]
        files = {
            f"cityscapes/leftImg8bit/{short}/{city}_leftImg8bit.png": image,
            f"cityscapes/gtFine/{short}/{city}_gtFine_labelTrainIds.png": label,
            f"ADEChallengeData2016/images/{long}/{index}.jpg": image,
            f"ADEChallengeData2016/annotations/{long}/{index}.png": label,
        }
        for name, pixels in files.items():
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(tmp_path / "data" / name), pixels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_file_is_read_and_all_of_it_is_built(name, paddleseg_folder, zero_weights) -> None:
    config = load_config(name)
    model = build_model(config)
    assert model.num_classes == (150 if "ade20k" in name else 19)
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    assert schedule() == (0.001 if "ade20k" in name else 6e-5)
    optimizer = build_optimizer(config.optimizer, model, schedule)
    assert type(optimizer).__name__ == ("Momentum" if "ade20k" in name else "AdamW")
    assert build_loss(config.loss)[1] == 1


@pytest.mark.parametrize("name", [name for name in FILES if "b0" in name or "small" in name])
def test_file_trains_evaluates_predicts_and_exports(name, paddleseg_folder) -> None:
    opts = ["--opts", "model.backbone.pretrained=None"]
    crops = ["train_dataset.transforms.1.crop_size=[64,64]"]
    model = ["--config", name, "--model_path", "out/iter_1/model.pdparams"]
    training = ["--config", name, "--iters", "1", "--save_interval", "1", "--save_dir", "out"]
    assert main(["train", *training, "--batch_size", "2", *opts, *crops]) == 0
    assert main(["val", *model, "--json", "val.json", *opts]) == 0
    images = "data/cityscapes/leftImg8bit/val"
    assert main(["predict", *model, "--image_path", images, "--save_dir", "seen", *opts]) == 0
    assert main(["export", *model, "--save_dir", "export", *opts]) == 0
    assert Path("val.json").is_file() and Path("export/deploy.yaml").is_file()
    assert len([*Path("seen/pseudo_color_prediction").rglob("*.png")]) == 2
