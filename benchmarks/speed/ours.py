"""Our model: dygraph, and its export in Paddle Inference, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import paddle
import yaml
from paddle import Tensor

from benchmarks.speed import tail
from benchmarks.speed.cases import MEAN, MERGED, STD, Case
from benchmarks.speed.files import Files, build_model, normalized
from benchmarks.speed.subject import Pictures, Subject, labels_of_logits, to_array
from paddleseg_segformer.cli import infer, predict
from paddleseg_segformer.cli.prediction_worker import Worker
from paddleseg_segformer.cpu import prepare_cpu, return_largest_blocks
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.inference.image_sources import find_images
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

# queries merged by stage in training
TRAINED_MERGE = {"ours-merged2": (2, 2, 1, 1), "ours-merged3": (2, 2, 2, 1)}
BACKENDS = {
    "ours-inference": "paddle",
    "ours-onnxruntime": "onnxruntime",
    "ours-openvino": "openvino",
}


def build(case: Case, files: Files) -> Subject:
    """Return what to time."""
    setting = case.setting
    if setting.task == "tail":
        return tail.build(case, files)
    images = files.images(setting.image_hw, setting.batch)
    if setting.task == "train":
        return _training(files, images, case.engine)
    if setting.task == "files":
        return _files_pass(case, files, Pictures(case, files))
    network = _network(case, files)
    if setting.task == "network":
        return _network_pass(network, images)
    settings = InferenceSettings()
    if setting.task == "slide":
        settings = InferenceSettings(
            is_slide=True, crop_size_hw=setting.size_hw, stride_hw=setting.stride_hw
        )
    pipeline = Pipeline(network, Preprocess(normalize=Normalize(MEAN, STD)), settings)
    return Subject(lambda: [item.labels() for item in pipeline.batch(images)], np.stack)


def _network(case: Case, files: Files) -> Callable[[Tensor], Tensor]:
    if case.engine == "ours":
        prepare_cpu()  # as the command lines do
        return build_model(files)
    from paddleseg_segformer.runtimes.engine_network import load_network
    from paddleseg_segformer.runtimes.engines import EngineOptions

    threads = case.setting.threads
    backend = BACKENDS[case.engine]
    precision = MERGED.get(case.precision, case.precision)
    network = load_network(files.path(case.file), EngineOptions(backend, "cpu", threads, precision))
    return network


def _network_pass(network: Callable[[Tensor], Tensor], images: np.ndarray) -> Subject:
    x = paddle.to_tensor(normalized(images))

    def run() -> Tensor:
        with paddle.no_grad():
            return network(x)

    image_hw = images.shape[1], images.shape[2]
    return Subject(run, lambda out: labels_of_logits(out.numpy(), image_hw), to_array)


def _files_pass(case: Case, files: Files, pictures: Pictures) -> Subject:
    """Return what `predict` and `infer` do with a folder, without overlays."""
    common = ["--image_path", pictures.folder, "--save_dir", pictures.results, "--outputs", "label"]
    if case.engine == "ours":
        config = pictures.folder.parent / "config.yml"
        config.write_text(yaml.safe_dump(_config(files)))
        model = ["--config", config, "--model_path", files.path(case.file), "--device", "cpu"]
        job: ModuleType = predict
    else:
        backend = ["--backend", BACKENDS[case.engine], "--precision", case.precision]
        threads = ["--cpu_threads", case.setting.threads, "--streams", 0]
        model, job = ["--config", files.path(case.file), *backend, *threads], infer
    parser = ArgumentParser()
    job.add_arguments(parser)
    worker = Worker(parser.parse_args([str(part) for part in (*model, *common)]))
    images = find_images(str(pictures.folder))

    def run() -> None:
        failures = [error for _, error in worker(images) if error]
        assert not failures, failures

    return Subject(run, pictures.labels)


def _config(files: Files) -> dict[str, Any]:
    """Return a config of the run's model."""
    backbone = {"type": f"MixVisionTransformer_{files.variant}"}
    width = build_model(files).linear_pred.weight.shape[1]
    model = {"type": "SegFormer", "num_classes": files.num_classes, "embedding_dim": width}
    normalize = {"type": "Normalize", "mean": list(MEAN), "std": list(STD)}
    return {
        "model": {**model, "backbone": backbone},
        "val_dataset": {
            "type": "Dataset",
            "num_classes": files.num_classes,
            "transforms": [normalize],
        },
    }


def _training(files: Files, images: np.ndarray, engine: str) -> Subject:
    """Return one step as the trainer does it, with the recipe's optimizer."""
    from paddleseg_segformer.config.building import build_optimizer
    from paddleseg_segformer.losses import CrossEntropyLoss, loss_of_network

    model = build_model(files)
    model.backbone.use_recompute = engine == "ours-recompute"
    for stage, ratio in enumerate(TRAINED_MERGE.get(engine, ()), start=1):
        for block in getattr(model.backbone, f"block{stage}"):
            block.attn.merge = ratio
    prepare_cpu(model)
    x, label = training_batch(images, files.num_classes)
    before = eval_logits(model, x)
    optimizer = build_optimizer({"type": "AdamW", "weight_decay": 0.01}, model, 6e-5)
    loss_of = CrossEntropyLoss()
    model.train()

    def run() -> Tensor:
        loss = loss_of_network(loss_of, model(x), label)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        return before

    run()
    return_largest_blocks(model)
    image_hw = images.shape[1], images.shape[2]
    return Subject(run, lambda out: labels_of_logits(out, image_hw), lambda out: out)


def training_batch(images: np.ndarray, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return normalised images, and labels in blocks of 8 x 8 px, a tenth of them ignored."""
    count, height, width, _ = images.shape
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, num_classes, (count, -(-height // 8), -(-width // 8)))
    blocks[rng.random(blocks.shape) < 0.1] = 255
    label = blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return paddle.to_tensor(normalized(images)), paddle.to_tensor(label.astype(np.int64))


def eval_logits(model: paddle.nn.Layer, x: Tensor) -> np.ndarray:
    """Return a model's logits before training, in evaluation mode."""
    model.eval()
    with paddle.no_grad():
        out = model(x)
    return (out[0] if isinstance(out, (list, tuple)) else out).numpy()
