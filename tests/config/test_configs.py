from __future__ import annotations

import ast
import dataclasses
import functools
import random
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_segformer.analysis.complexity import count_macs, count_parameters
from paddleseg_segformer.cli import train
from paddleseg_segformer.config import Config, load_config
from paddleseg_segformer.config.building import (
    build_components,
    build_dataset,
    build_loss,
    build_model,
    build_optimizer,
)
from paddleseg_segformer.config.schema import load_yaml
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import BACKBONES
from paddleseg_segformer.optimizers import build_lr_schedule

FOLDER = Path(__file__).resolve().parents[2] / "configs"
RECIPES = FOLDER.parent / "docs" / "recipes.md"
CONFIGS = sorted(FOLDER.glob("*.yml"))
ROOT_VARIABLES = (
    "CITYSCAPES_ROOT", "ADE20K_ROOT", "COCO_STUFF_ROOT", "CAMVID_ROOT", "STREET_SCENES_ROOT",
)  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# What the zoo's table states costs for: (height, width) by part of the name.
COST_SIZES_HW = {
    "768x768_40k": (768, 768),
    "linear_cityscapes_768x768": (768, 768),
    "mask_cityscapes_768x768": (768, 768),
    "cityscapes_1024x1024": (1024, 1024),
    "cityscapes_1024x512": (1024, 2048),
    "cityscapes_768x768": (768, 1536),
    "cityscapes_640x1280": (640, 1280),
    "cityscapes_512x1024": (512, 1024),
    "512x512": (512, 512),
    "640x640": (640, 640),
    "480x360": (360, 480),
    "256x512": (256, 512),
}

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def default_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ROOT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


pytestmark = [pytest.mark.check, pytest.mark.usefixtures("zero_weights")]


@pytest.fixture(scope="module", autouse=True)
def shared_backbones() -> Iterator[None]:
    """Build each backbone once: configs that differ in data and head share it, for time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, factory in BACKBONES.items():
            patch.setitem(BACKBONES, name, functools.cache(factory))
        yield


@functools.cache
def loaded(path: Path) -> Config:
    return load_config(path)


@functools.cache
def model_of(path: Path) -> Any:
    return build_model(loaded(path))


def header(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line[2:] for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]]


def named(kind: str) -> list[Path]:
    return [path for path in CONFIGS if kind in path.stem]


def is_paper_recipe(path: Path) -> bool:
    return any("the paper's" in line for line in header(path))


def test_zoo_is_complete() -> None:
    names = {path.stem for path in CONFIGS}
    for variant in range(6):
        for rest in (
            "cityscapes_1024x1024_160k",
            "cityscapes_1024x512_160k",
            "ade20k_512x512_160k",
            "coco_stuff_512x512_80k",
        ):
            assert f"segformer_b{variant}_{rest}" in names
    for rest in (
        "b0_cityscapes_768x768_160k",
        "b0_cityscapes_640x1280_160k",
        "b0_cityscapes_512x1024_160k",
        "b5_ade20k_640x640_160k",
        "b0_camvid_480x360",
        "b0_street_scenes_256x512",
    ):
        assert f"segformer_{rest}" in names
    for size in ("small", "base"):
        for head in ("linear", "mask"):
            for rest in ("ade20k_512x512_160k", "cityscapes_768x768_80k"):
                assert f"segmenter_vit_{size}_{head}_{rest}" in names
    assert "segmenter_vit_small_mask_camvid_480x360" in names
    ablations = {f"b2_width{width}_ade20k_512x512" for width in (256, 512, 768, 1024, 2048)}
    ablations |= {
        f"{encoder}_ade20k_512x512" for encoder in ("resnet50", "resnet101", "resnext101")
    }
    ablations |= {"b2_last_stage_ade20k_512x512", "b3_ade20k_512x512"}
    ablations |= {f"b0_{kind}_cityscapes_768x768" for kind in ("mix_ffn", "learned_positions")}
    assert {f"segformer_{name}_40k" for name in ablations} == {
        name for name in names if name.endswith("_40k")
    }


@each_config
def test_header_states_a_command_that_works(path: Path) -> None:
    command, *rest = header(path)
    words = shlex.split(command)
    assert words[0] == "python"
    script = words.index("tools/train.py")
    parser = ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(words[script + 1 :])
    assert args.config == f"configs/{path.name}"
    if "paddle.distributed.launch" in command:
        num_gpus = len(words[words.index("--gpus") + 1].split(","))
        assert re.search(rf"\b{num_gpus} GPUs x {loaded(path).batch_size} image", " ".join(rest))
    assert any(line.startswith("Recipe: ") for line in rest)


def check_segformer(path: Path, config: Config) -> None:
    backbone = config.model["backbone"]
    pretrained = backbone.get("pretrained")
    width = re.search(r"_width(\d+)_", path.stem)
    if resnet := re.search(r"_(resne\w?t\d+)_", path.stem):
        assert backbone["type"].lower().partition("_")[0] == resnet[1]
        assert pretrained.endswith(f"/{backbone['type'].lower()}.pdparams")
        expected = 768
    else:
        variant = re.search(r"_b(\d)_", path.stem)
        assert variant and backbone["type"] == f"MixVisionTransformer_B{variant[1]}"
        assert pretrained is None or pretrained.endswith(f"_b{variant[1]}.tar.gz")
        expected = 256 if variant[1] in "01" else 768
    assert config.model["embedding_dim"] == (int(width[1]) if width else expected)


def check_segmenter(path: Path, config: Config) -> None:
    variant = re.match(r"segmenter_vit_(small|base)_(linear|mask)_", path.stem)
    assert variant
    width, heads = {"small": (384, 6), "base": (768, 12)}[variant[1]]
    backbone = config.model["backbone"]
    assert (backbone["type"], backbone["patch_size"], backbone["depth"]) == (
        "VisionTransformer", 16, 12,
    )  # fmt: skip
    assert (backbone["embed_dim"], backbone["num_heads"]) == (width, heads)
    assert backbone["qkv_bias"] and backbone["final_norm"]
    pretrained = backbone.get("pretrained")
    assert pretrained is None or f"/vit_{variant[1]}_patch16_384_augreg" in pretrained
    assert config.model["type"] == f"{variant[2].capitalize()}Segmenter"
    if variant[2] == "mask":
        head = [config.model[f"h_{key}"] for key in ("embed_dim", "depth", "num_heads")]
        assert head == [width, 2, heads]
    crop = next(c["crop_size"] for c in config.train_dataset["transforms"] if "crop_size" in c)
    assert crop == [backbone["img_size"]] * 2  # the position embedding is that of the crops


@each_config
def test_name_states_variant_iterations_and_crop(path: Path) -> None:
    config = loaded(path)
    if path.stem.startswith("segmenter_"):
        check_segmenter(path, config)
    else:
        check_segformer(path, config)
    thousands = re.search(r"_(\d+)k$", path.stem)
    if thousands:
        assert config.iters == 1000 * int(thousands[1])
        width, height = (int(side) for side in re.findall(r"(\d+)x(\d+)", path.stem)[0])
        if "cityscapes" in path.stem and is_paper_recipe(path):
            width, height = height, width  # the paper writes height x width
        crops = [
            item["crop_size"] for item in config.train_dataset["transforms"] if "crop_size" in item
        ]
        assert crops == [[width, height]]


@each_config
def test_model_and_optimizer_build(path: Path) -> None:
    config = loaded(path)
    model = model_of(path)
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    optimizer = build_optimizer(config.optimizer, model, schedule)
    trained = [p for p in model.parameters() if not p.stop_gradient]
    groups = optimizer._param_groups
    assert sum(len(group["params"]) for group in groups) == len(trained)
    loss: Any
    loss, coefficient = build_loss(config.loss)
    assert coefficient == 1.0
    assert loss.avg_non_ignore is not is_paper_recipe(path)


@each_config
def test_transforms_bring_any_image_to_the_crop(path: Path) -> None:
    _check_train_transforms(repr(loaded(path).train_dataset["transforms"]))


@functools.cache
def _check_train_transforms(sections: str) -> None:
    """Run a list of transforms on small and on wide images (a cache: most configs share theirs)."""
    transforms = ast.literal_eval(sections)
    crop_wh = next(item["crop_size"] for item in transforms if "crop_size" in item)
    random.seed(0)
    np.random.seed(0)
    for height, width in ((70, 190), (300, 200)):
        image = np.random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        label = np.random.randint(0, 3, (height, width)).astype(np.uint8)
        data: dict[str, Any] = {
            "img": image,
            "label": label,
            "gt_fields": ["label"],
            "trans_info": [],
        }
        for transform in build_components("transform", transforms, "transforms")[:-1]:
            if not getattr(transform, "keeps_uint8", False):
                data["img"] = data["img"].astype(np.float32)
            data = transform(data)
        assert data["img"].shape == (crop_wh[1], crop_wh[0], 3)
        assert data["label"].shape == (crop_wh[1], crop_wh[0])
        assert set(np.unique(data["label"])) <= {0, 1, 2, 255}


@pytest.mark.parametrize(
    ("name", "image_hw", "expected_hw"),
    [
        ("segformer_b0_ade20k_512x512_160k", (375, 500), (512, 704)),
        ("segformer_b0_ade20k_512x512_160k", (300, 1400), (448, 2048)),
        ("segformer_b5_ade20k_640x640_160k", (375, 500), (640, 864)),
        ("segformer_b0_coco_stuff_512x512_80k", (600, 901), (512, 800)),
        ("segformer_b0_cityscapes_768x768_160k", (1024, 2048), (768, 1536)),
        ("segformer_b0_cityscapes_640x1280_160k", (1024, 2048), (640, 1280)),
        ("segformer_b0_cityscapes_512x1024_160k", (1024, 2048), (512, 1024)),
        ("segformer_b0_cityscapes_1024x1024_160k", (1024, 2048), (1024, 2048)),
        ("segmenter_vit_small_mask_ade20k_512x512_160k", (375, 500), (512, 683)),
        ("segmenter_vit_base_linear_cityscapes_768x768_80k", (1024, 2048), (1024, 2048)),
    ],
)
def test_evaluation_sees_the_published_size(
    name: str, image_hw: tuple[int, int], expected_hw: tuple[int, int]
) -> None:
    val_dataset = load_config(name).val_dataset
    assert val_dataset is not None
    data: dict[str, Any] = {"img": np.zeros((*image_hw, 3), np.uint8)}
    for transform in build_components("transform", val_dataset["transforms"], "transforms")[:-1]:
        data = transform(data)
    assert data["img"].shape[:2] == expected_hw


@each_config
def test_both_data_sets_agree(path: Path) -> None:
    config = loaded(path)
    assert config.val_dataset is not None
    for key in ("type", "dataset_root"):
        assert config.train_dataset[key] == config.val_dataset[key]
    assert (config.train_dataset["mode"], config.val_dataset["mode"]) == ("train", "val")
    last = [section["transforms"][-1] for section in (config.train_dataset, config.val_dataset)]
    assert last[0] == last[1]
    is_imagenet = last[0] == {"type": "Normalize", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    assert is_imagenet if is_paper_recipe(path) else last[0] == {"type": "Normalize"}


@each_config
def test_missing_data_are_named_with_the_remedy(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ROOT_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "moved"))
    config = load_config(path)
    for section in (config.train_dataset, config.val_dataset or {}):
        with pytest.raises(UserError, match=r"moved: no such folder"):
            build_dataset(section)


@each_config
def test_evaluation_settings_are_legal(path: Path) -> None:
    test_config = loaded(path).test_config
    assert test_config.inference_settings().num_views == 1  # until --aug_eval asks for more
    settings = dataclasses.replace(test_config, aug_eval=True).inference_settings()
    assert settings.num_views >= 1
    if is_paper_recipe(path):
        assert settings.num_views in (10, 12, 14)
        assert (settings.average, settings.scale_mode) == ("softmax", "source")
        assert test_config.absent_class == "nan"


@pytest.mark.parametrize("path", named("cityscapes_1024"), ids=lambda path: path.stem)
def test_paddleseg_recipe(path: Path) -> None:
    config = loaded(path)
    assert config.optimizer == {
        "type": "AdamW", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01,
    }  # fmt: skip
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    assert [rate_at(schedule, step) for step in (0, 80000, 159999)] == pytest.approx(
        [6e-5, 3e-5, 6e-5 / 160000]
    )
    assert (config.test_config.average, config.test_config.absent_class) == ("logits", 1)
    settings = config.test_config.inference_settings()
    if "1024x1024" in path.stem:
        assert (settings.crop_size_hw, settings.stride_hw) == ((1024, 1024), (768, 768))
    assert settings.is_slide == ("1024x1024" in path.stem)


@pytest.mark.parametrize("path", named("segmenter_vit"), ids=lambda path: path.stem)
def test_segmenter_recipe(path: Path) -> None:
    config = loaded(path)
    settings = config.test_config.inference_settings()
    side = config.model["backbone"]["img_size"]
    assert settings.is_slide and settings.crop_size_hw == (side, side)
    if "camvid" in path.stem:
        return
    assert config.optimizer == {"type": "Momentum", "momentum": 0.9, "weight_decay": 0.0}
    assert config.model["backbone"]["drop_path_rate"] == 0.1
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    base = 1e-2 if "cityscapes" in path.stem else 1e-3
    for step in (0, config.iters // 2, config.iters):
        expected = (base - 1e-5) * (1 - step / config.iters) ** 0.9 + 1e-5
        assert rate_at(schedule, step) == pytest.approx(expected)
    assert (config.test_config.average, config.test_config.absent_class) == ("logits", 1)
    assert settings.stride_hw == ((512, 512) if side in (512, 768) else None)


def rate_at(schedule: Any, step: int) -> float:
    schedule.step(step)
    return schedule.get_lr()


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if is_paper_recipe(path)], ids=lambda path: path.stem
)
def test_paper_recipe(path: Path) -> None:
    """Rates and parameter groups as the paper's code has them, the head's batch norm included."""
    config = loaded(path)
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    for step in (0, 749, 1500, config.iters - 1):
        rate = 6e-5 * (1 - step / config.iters)
        if step < 1500:
            rate *= 1 - (1 - step / 1500) * (1 - 1e-6)
        assert rate_at(schedule, step) == pytest.approx(rate, rel=1e-9)
    model = model_of(path)
    expected = {}
    for name, parameter in model.named_parameters():
        is_head = not name.startswith("backbone.")
        decay = 0.0 if "norm" in name and not is_head else 0.01
        expected[parameter.name] = (10.0 if is_head else 1.0, decay)
    optimizer = build_optimizer(config.optimizer, model, schedule)
    for group in optimizer._param_groups:
        for parameter in group["params"]:
            found = (group["learning_rate"], group["weight_decay"])
            assert found == expected[parameter.name], parameter.name


def b0_of(path: Path) -> Path:
    return FOLDER / re.sub(r"_b\d_", "_b0_", path.name.replace("_vit_base_", "_vit_small_"))


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if b0_of(path).exists()], ids=lambda path: path.stem
)
def test_variants_differ_in_the_model_only(path: Path) -> None:
    base = b0_of(path)
    ours, theirs = load_yaml(path), load_yaml(base)
    differing = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    assert differing <= ({"model", "batch_size"} if "b5_city" in path.stem else {"model"})


def test_the_pair_of_positional_encodings_differs_in_nothing_else() -> None:
    pair = [
        load_config(f"segformer_b0_{kind}_cityscapes_768x768_40k")
        for kind in ("mix_ffn", "learned_positions")
    ]
    plain, learned = (dataclasses.asdict(config) for config in pair)
    backbone = learned["model"]["backbone"]
    crop = learned["train_dataset"]["transforms"][1]["crop_size"]
    assert crop == [backbone.pop("img_size")] * 2
    assert backbone.pop("positional_encoding") == "learned"
    assert learned == plain and plain["test_config"]["crop_size"] == crop


def test_ablations_cost_what_the_paper_states() -> None:
    """Tables 1b and 1d, in 1e9 multiply-accumulates and millions of parameters."""
    stated = {
        "b2_width256": (25.7, 24.7),
        "b2_width512": (39.8, 25.8),
        "b2_width768": (62.4, 27.5),
        "b2_width1024": (93.6, 29.6),
        "b2_width2048": (304.4, 43.4),
        "b2_last_stage": (22.3, 24.7),
        "b3": (79.0, 47.3),
        "resnet50": (69.2, 29.0),
        "resnet101": (88.7, 47.9),
        "resnext101": (127.5, 86.8),
    }
    for name, (gmacs, millions) in stated.items():
        model = model_of(FOLDER / f"segformer_{name}_ade20k_512x512_40k.yml")
        found = count_macs(model, (512, 512), rewritten=False).total() / 1e9
        # the paper's ResNets cost more, as with a stem of three convolutions
        assert found == pytest.approx(gmacs, rel=0.02 if "resnet" in name else 0.005)
        assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.07)


def test_bases_are_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yml"))
    for base in (FOLDER / "_base_").glob("*.yml"):
        assert re.search(rf"_base_.*\b{base.name}", text), base.name


def test_zoo_table_lists_every_config_with_its_costs() -> None:
    rows = {}
    for line in RECIPES.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(\w+)` \|", line):
            rows[match[1]] = line
    assert set(rows) == {path.stem for path in CONFIGS}
    for path in CONFIGS:
        model = model_of(path)
        size_hw = next(size for part, size in COST_SIZES_HW.items() if part in path.stem)
        published, here = (
            sum(count_macs(model, size_hw, rewritten=rewritten).values()) / 1e9
            for rewritten in (False, True)
        )
        macs = f"{published:.2f} → {here:.2f}" if here < published else f"{here:.2f}"
        cells = f"| {count_parameters(model) / 1e6:.2f} | {macs} |"
        assert cells in rows[path.stem]


def test_scores_in_headers_are_those_of_the_zoo_table() -> None:
    table = RECIPES.read_text(encoding="utf-8")
    num_scores = 0
    for path in CONFIGS:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{path.stem}`"))
        for line in header(path):
            if "published by" in line and line.startswith(("Score", "With")):
                for score in re.findall(r"\b\d\d\.\d+\b", line):
                    assert score in row
                    num_scores += 1
    assert num_scores >= 12 + 9 + 24 + 6 + 8
