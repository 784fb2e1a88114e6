"""What damaged files go through: a case ends in silence or in a `UserError`, else is a finding.

Each target takes a folder to write into and returns the function that runs one case.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import seed_files
from mutations import mutate_bytes, mutate_text, mutate_tree

from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import (
    MAX_MODEL_NUMBER,
    build_component,
    build_components,
    build_loss,
    build_model,
    build_optimizer,
)
from paddleseg_segformer.config.schema import CONFIG_FOLDERS, load_yaml
from paddleseg_segformer.converting import prepare, write
from paddleseg_segformer.data.datasets import SegmentationDataset
from paddleseg_segformer.data.headers import MAX_PIXELS
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.optimizers import build_lr_schedule
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.weights import load_weights, open_checkpoint, save_weights
from paddleseg_segformer.yaml_files import dump_yaml

Case = Callable[[random.Random], None]
MAX_BUILT = 300  # layers or channels
CROP_HW = (16, 24)
PREDICTED_SHARE = 0.1
TINY_MODEL = {
    "type": "SegFormer",
    "num_classes": seed_files.NUM_CLASSES,
    "embedding_dim": 8,
    "backbone": {
        "type": "MixVisionTransformer_B0",
        "embed_dims": [4, 8, 10, 16],
        "depths": [1, 1, 1, 1],
    },
}
TRANSFORMS = [
    {"type": "ResizeStepScaling", "min_scale_factor": 0.5, "max_scale_factor": 2.0},
    {"type": "RandomPaddingCrop", "crop_size": [CROP_HW[1], CROP_HW[0]]},
    {"type": "RandomHorizontalFlip"},
    {"type": "RandomDistort"},
    {"type": "Normalize"},
]


def images(folder: Path) -> Case:
    """Damage an image, its label or both; read them, transform them, predict some."""
    os.environ[MAX_PIXELS] = str(1 << 20)
    image_seeds, label_seeds = seed_files.images(), seed_files.labels()
    others = [content for content, _ in image_seeds.values()] + list(label_seeds.values())
    transforms = build_components("transform", TRANSFORMS, "transforms")
    model = build_component("model", TINY_MODEL, "model")
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    predictor = Predictor(model, preprocess)
    label_set = generic_label_set(seed_files.NUM_CLASSES)

    def case(rng: random.Random) -> None:
        (name, (image, channels)), (label_name, label) = (
            rng.choice(list(seeds.items())) for seeds in (image_seeds, label_seeds)
        )
        damaged = rng.choice(("image", "image", "label", "both"))
        if damaged != "label":
            image = mutate_bytes(rng, image, others)
        if damaged != "image":
            label = mutate_bytes(rng, label, others)
        image_path, label_path = folder / f"image_{name}", folder / f"label_{label_name}"
        image_path.write_bytes(image)
        label_path.write_bytes(label)
        if damaged != "image":
            check_label(read_label(label_path))
        check_image(read_image(image_path, channels), channels)
        paths = [(str(image_path), str(label_path))]
        used = transforms if channels == 3 else transforms[:3]
        dataset = SegmentationDataset(paths, used, label_set, mode="train", img_channels=channels)
        if channels == 3 and rng.random() < PREDICTED_SHARE:
            prediction = predictor(str(image_path))
            assert prediction.label.shape == prediction.image.shape[:2]
        check_sample(*dataset[(0, rng.randrange(2**32))][:2], channels)

    return case


def check_image(image: np.ndarray, channels: int) -> None:
    """Check the promise of `read_image`."""
    assert image.ndim == 3 and image.shape[2] == channels and image.size
    assert image.dtype in (np.uint8, np.float32)
    assert image.shape[0] * image.shape[1] <= 1 << 20


def check_label(label: np.ndarray) -> None:
    """Check the promise of `read_label`."""
    assert label.ndim == 2 and label.size and label.dtype in (np.uint8, np.int32)


def check_sample(image: np.ndarray, label: np.ndarray, channels: int) -> None:
    """Check what training gets."""
    assert image.shape == (channels, *CROP_HW) and label.shape == CROP_HW
    assert set(np.unique(label)) <= {*range(seed_files.NUM_CLASSES), 255}


def configs(folder: Path) -> Case:
    """Damage a packaged config, as text or as a tree; load it, write it, build its parts."""
    source = next(base for base in CONFIG_FOLDERS if base.is_dir())
    shutil.copytree(source, folder, dirs_exist_ok=True)
    packaged = sorted(folder.glob("*.yml"))
    texts = [path.read_text() for path in packaged]
    trees = [load_yaml(path) for path in packaged]

    def case(rng: random.Random) -> None:
        path = folder / "config.yml"
        kind, text, tree = rng.random(), rng.choice(texts), rng.choice(trees)
        if kind < 0.1:
            content = mutate_bytes(rng, text.encode(), [rng.choice(texts).encode()])
        elif kind < 0.4:
            content = mutate_text(rng, text).encode()
        else:
            if rng.random() < 0.7:
                tree = {**tree, "model": TINY_MODEL | {"num_classes": tree["model"]["num_classes"]}}
            content = dump_yaml(mutate_tree(rng, tree)).encode()
        path.write_bytes(content)
        config = load_config(path)
        path.write_text(config.to_yaml())
        assert repr(load_config(path)) == repr(config)
        build_parts(config)

    return case


def build_parts(config) -> None:
    """Build what needs no files: transforms, loss, schedule; model and optimizer where small."""
    for section in (config.train_dataset, config.val_dataset):
        transforms = (section or {}).get("transforms")
        if isinstance(transforms, list):
            build_components("transform", transforms, "transforms")
    build_loss(config.loss)
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    config.test_config.inference_settings()
    is_tiny = config.model.get("embedding_dim") == TINY_MODEL["embedding_dim"]
    if is_tiny and not has_large_numbers(config.model):
        model = build_model(dataclasses.replace(config, val_dataset=None))
        optimizer = build_optimizer(config.optimizer, model, schedule)
        assert optimizer.get_lr() >= 0
        logits = model(paddle.zeros([1, 3, 32, 32]))
        assert logits.shape == [1, model.num_classes, 8, 8]


def has_large_numbers(value: Any) -> bool:
    """Tell whether a model would be sound but slow to build."""
    if isinstance(value, (dict, list)):
        return any(map(has_large_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (int, float)) and MAX_BUILT < abs(value) <= MAX_MODEL_NUMBER


# what each code base would write: its name -> a name whose suffix chooses the container
WEIGHT_FILES = {
    "nvlabs": "nvlabs.pth",
    "smp": "smp.safetensors",
    "paddleseg": "paddleseg.safetensors",
    "hf": "folder",
}


def weights(folder: Path) -> Case:
    """Damage a weight file, or a file of a folder; load it into the model that wrote it."""
    import torch  # for a few seconds: the other targets do without

    model = build_component("model", TINY_MODEL, "model")
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    save_weights(model, folder / "paddle.pdparams")
    for format_name, name in WEIGHT_FILES.items():
        write(prepare(folder / "paddle.pdparams", format_name), folder / name)
    torch.save(  # the container of PyTorch before 1.6
        torch.load(folder / "nvlabs.pth"), folder / "old.pth", _use_new_zipfile_serialization=False
    )
    seeds = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    def case(rng: random.Random) -> None:
        path = rng.choice(list(seeds))
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_text(json.dumps(mutate_tree(rng, json.loads(seeds[path]))))
        else:
            path.write_bytes(mutate_bytes(rng, seeds[path], list(seeds.values())))
        source = path.parent if path.parent != folder else path
        try:
            checkpoint = open_checkpoint(source)
            for key in checkpoint.state:
                assert isinstance(checkpoint.state[key], np.ndarray)
            load_weights(model, source)
        finally:
            path.write_bytes(seeds[path])
        assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == shapes
        build_component("model", dict(checkpoint.model), "model")

    return case


TARGETS: dict[str, Callable[[Path], Case]] = {
    "images": images,
    "yaml": configs,
    "weights": weights,
}
