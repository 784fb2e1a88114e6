"""Hugging Face transformers' model in PyTorch, and its ONNX file in other engines."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.speed.cases import MEAN, STD, Case
from benchmarks.speed.files import Files, normalized
from benchmarks.speed.sessions import onnxruntime_session, openvino_session
from benchmarks.speed.subject import Pictures, Subject, labels_of_logits, to_array
from paddleseg_segformer.files import atomic_path


def build(case: Case, files: Files) -> Subject:
    """Return what to time."""
    torch = import_module("torch")
    torch.set_num_threads(case.setting.threads)
    torch.set_grad_enabled(False)
    images = files.images(case.setting.image_hw, case.setting.batch)
    if case.setting.task == "files":
        return _files_pass(files, Pictures(case, files))
    network = _network(case, files)
    image_hw = case.setting.image_hw
    if case.setting.task == "network":
        x = torch.from_numpy(normalized(images))
        return Subject(
            lambda: network(x), lambda out: labels_of_logits(out.numpy(), image_hw), to_array
        )
    processor = _processor()
    outputs = import_module("transformers.modeling_outputs").SemanticSegmenterOutput

    def run() -> list[Any]:
        x = processor(list(images), return_tensors="pt")["pixel_values"]
        found = outputs(logits=network(x))
        return processor.post_process_semantic_segmentation(found, [image_hw] * len(images))

    return Subject(run, lambda labels: np.stack([label.numpy() for label in labels]))


def _processor() -> Any:
    return import_module("transformers").SegformerImageProcessor(
        do_resize=False, image_mean=list(MEAN), image_std=list(STD)
    )


def _files_pass(files: Files, pictures: Pictures) -> Subject:
    """Return its pipeline over the files, whose mask of each class goes into one label map."""
    pipeline = import_module("transformers").pipeline(
        "image-segmentation", model=_model(files), image_processor=_processor(), device="cpu"
    )
    ids = pipeline.model.config.label2id

    def run() -> None:
        for path in pictures.paths:
            segments = pipeline(str(path))
            label = np.zeros(np.asarray(segments[0]["mask"]).shape, np.uint8)
            for segment in segments:
                label[np.asarray(segment["mask"]) > 0] = ids[segment["label"]]
            Image.fromarray(label).save(pictures.results / path.name)

    return Subject(run, pictures.labels)


def _network(case: Case, files: Files) -> Any:
    """Return a function from a torch tensor to the logits as a torch tensor."""
    torch = import_module("torch")
    if case.engine in ("transformers", "transformers-compile"):
        model = _model(files)
        if case.engine == "transformers-compile":
            model = torch.compile(model)
        return lambda x: model(pixel_values=x).logits
    path, setting = files.path(case.file), case.setting
    if case.engine == "transformers-onnxruntime":
        session = onnxruntime_session(path, setting.threads)
    else:
        shape = (setting.batch, 3, *setting.image_hw)
        session = openvino_session(path, setting.threads, case.precision, shape)
    return lambda x: torch.from_numpy(session(x.numpy()))


def _model(files: Files) -> Any:
    """Return its model with the run's weights.

    Its LayerNorms all have 1e-5; the published weights, and ours, want 1e-6 in some of them, which
    costs the same time and makes the results comparable.
    """
    torch, transformers = import_module("torch"), import_module("transformers")
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(
        str(files.path("transformers"))
    )
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.LayerNorm) and not _is_embedding_norm(name):
            layer.eps = 1e-6
    return model.eval()


def _is_embedding_norm(name: str) -> bool:
    """Return whether a LayerNorm follows a patch embedding or the reduction of the keys."""
    return "patch_embed" in name or ".attention." in name


def save_onnx(files: Files, path: Path, opset: int) -> None:
    """Write its model as ONNX with any batch, height and width."""
    torch = import_module("torch")

    model = _model(files)
    axes = {"x": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch", 2: "h", 3: "w"}}
    with atomic_path(path) as temporary, torch.no_grad():
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, 512, 512),),
            str(temporary),
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
