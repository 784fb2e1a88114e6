"""Training steps equal those of PaddleSeg's own loop: its YAML, weights, batches -> equal weights.

Both sides are built from one YAML file: theirs by `SegBuilder`, and trained by `core.train`; ours
by `build_training`, and trained by `Trainer` on the batches that their loader drew. Dropout and
stochastic depth are off. In double precision: in single precision Adam turns rounding errors into
steps where the gradient is 0, as that of a bias in front of a normalisation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from paddleseg_segformer.config.building import TrainingParts, build_training
from paddleseg_segformer.config.schema import load_config
from paddleseg_segformer.data.loader import Batch
from paddleseg_segformer.training.trainer import Trainer

cvlibs = pytest.importorskip("paddleseg.cvlibs", reason="PaddleSeg is not installed")
core_train = pytest.importorskip("paddleseg.core.train")
for package in ("datasets", "models", "optimizers", "transforms"):
    pytest.importorskip(f"paddleseg.{package}")

pytestmark = pytest.mark.slow

STEPS = (1, 10, 50)
NUM_IMAGES, BATCH_SIZE, NUM_CLASSES = 6, 2, 7
ADAMW = {"type": "AdamW", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01}
SGD = {"type": "SGD", "momentum": 0.9, "weight_decay": 0.0001}
VIT = {
    "type": "VisionTransformer", "img_size": 64, "patch_size": 16, "embed_dim": 96, "depth": 4,
    "num_heads": 3, "mlp_ratio": 4, "qkv_bias": True, "drop_path_rate": 0.1, "final_norm": True,
}  # fmt: skip
MASKS = {"h_embed_dim": 96, "h_depth": 2, "h_num_heads": 3, "h_drop_path_rate": 0.1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    **{
        f"SegFormer-{size}": (
            {
                "type": "SegFormer",
                "backbone": {"type": f"MixVisionTransformer_{size}"},
                "embedding_dim": width,
            },
            ADAMW,
            {"type": "PolynomialDecay", "learning_rate": 0.00006, "end_lr": 0, "power": 1},
        )
        for size, width in (("B0", 256), ("B2", 768))
    },
    "LinearSegmenter": (
        {"type": "LinearSegmenter", "backbone": VIT},
        SGD,
        {"type": "PolynomialDecay", "learning_rate": 0.001, "end_lr": 0.00001, "power": 0.9},
    ),
    "MaskSegmenter": (
        {"type": "MaskSegmenter", "backbone": VIT, **MASKS},
        SGD,
        {
            "type": "PolynomialDecay", "learning_rate": 0.001, "end_lr": 0.00001, "power": 0.9,
            "warmup_iters": 5, "warmup_start_lr": 0.00001,
        },
    ),
}  # fmt: skip


@pytest.fixture
def yaml_path(case: str, tmp_path: Path) -> Path:
    """Return a YAML file of PaddleSeg's, with a data set of its type `Dataset` beside it."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(NUM_IMAGES):
        image = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (64, 64))
        label = np.kron(rng.integers(0, NUM_CLASSES, (8, 8)), np.ones((8, 8))).astype(np.uint8)
        label[:5, :9] = 255
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
        cv2.imwrite(str(tmp_path / f"{index}_label.png"), label)
        lines.append(f"{index}.png {index}_label.png\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    model, optimizer, lr_scheduler = CASES[case]
    config = {
        "batch_size": BATCH_SIZE,
        "iters": STEPS[-1],
        "train_dataset": {
            "type": "Dataset",
            "dataset_root": str(tmp_path),
            "train_path": str(tmp_path / "train.txt"),
            "num_classes": NUM_CLASSES,
            "transforms": [{"type": "Normalize"}],
            "mode": "train",
        },
        "optimizer": optimizer,
        "lr_scheduler": lr_scheduler,
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
        "model": {**model, "num_classes": NUM_CLASSES},
    }
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def prepare(model: nn.Layer) -> None:
    """Switch off what is random, and compute in double precision."""
    for layer in model.sublayers():
        if isinstance(layer, (nn.Dropout, nn.Dropout2D)):
            layer.p = 0.0
        elif type(layer).__name__ == "DropPath":
            layer.rate = layer.drop_prob = 0.0  # here and in PaddleSeg
    model.to(dtype="float64")


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Let optimizers keep the rates in double precision too."""
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def watch(optimizer: Any, model: nn.Layer) -> dict[int, dict[str, np.ndarray]]:
    """Return a dictionary that gets the weights after each of `STEPS`."""
    weights: dict[int, dict[str, np.ndarray]] = {}
    step, count = optimizer.step, 0

    def watched() -> None:
        nonlocal count
        step()
        count += 1
        if count in STEPS:
            weights[count] = {name: item.numpy() for name, item in model.state_dict().items()}

    optimizer.step = watched
    return weights


class Recorded(paddle.io.Dataset):
    """PaddleSeg's data set in double precision, which notes the order of its samples."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.order: list[int] = []

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.order.append(index)
        sample = self.dataset[index]
        return {"img": sample["img"].astype("float64"), "label": sample["label"]}

    def __len__(self) -> int:
        return len(self.dataset)


def batches_of(parts: TrainingParts, order: list[int]) -> Generator[Batch, None, None]:
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        images, labels, _ = zip(*(parts.dataset[index, 0] for index in indices), strict=True)
        yield Batch(np.stack(images), np.stack(labels), np.array(indices), 0)


@pytest.mark.parametrize("case", CASES)
def test_training_gives_the_weights_of_paddlesegs_loop(
    yaml_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = pytest.importorskip("paddleseg.models.backbones.vision_transformer")
    # PaddleSeg's encoder looks for the file `None` where none is to be loaded
    init_weight = vit.VisionTransformer.init_weight
    monkeypatch.setattr(
        vit.VisionTransformer, "init_weight", lambda self: self.pretrained and init_weight(self)
    )
    builder = cvlibs.SegBuilder(cvlibs.Config(str(yaml_path)))
    theirs = builder.model
    prepare(theirs)
    paddle.seed(1)
    with paddle.no_grad():
        for item in theirs.parameters():  # no zeros and ones of an initialisation
            item.set_value(item + 0.02 * paddle.randn(item.shape, item.dtype))
    initial = {name: item.numpy() for name, item in theirs.state_dict().items()}
    expected = watch(builder.optimizer, theirs)
    data = Recorded(builder.train_dataset)

    # what fails in PaddleSeg 2.8.0 on Paddle 3: its loss multiplies float32 by int64 ones (repaired
    # in its later versions), and `paddle.flops` at the end with NumPy 2.4
    ones_like = paddle.ones_like
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paddle, "ones_like", lambda x, **_: ones_like(x, dtype="float32"))
        patch.setattr(paddle, "flops", lambda *args, **kwargs: 0)
        core_train.train(
            theirs,
            data,
            optimizer=builder.optimizer,
            save_dir=str(tmp_path / "theirs"),
            iters=STEPS[-1],
            batch_size=BATCH_SIZE,
            losses=builder.loss,
            save_interval=10**6,
            log_iters=10**6,
        )

    parts = build_training(load_config(yaml_path))
    prepare(parts.model)
    missing, unexpected = parts.model.set_state_dict(initial)
    assert not missing and not unexpected
    optimizer = parts.optimizer_of(parts.model)
    found = watch(optimizer, parts.model)
    normalize = parts.dataset.normalize
    assert normalize
    trainer = Trainer(
        parts.model,
        optimizer,
        parts.schedule,
        parts.loss,
        lambda start: batches_of(parts, data.order),
        lambda images: normalize.on_device(images).astype("float64"),
        STEPS[-1],
    )
    trainer.train()

    for step in STEPS:
        far, path = 0.0, 0.0
        for name, weight in expected[step].items():
            np.testing.assert_allclose(found[step][name], weight, atol=4e-6, err_msg=name)
            far += ((found[step][name] - weight) ** 2).sum()
            path += ((weight - initial[name]) ** 2).sum()
        assert far**0.5 <= 1e-5 * path**0.5, step
