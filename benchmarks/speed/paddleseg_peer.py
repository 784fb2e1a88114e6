"""PaddleSeg's own model with its own inference code, and its exported graph in other engines."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from benchmarks.speed.cases import MEAN, STD, Case, Setting
from benchmarks.speed.files import Files, normalized
from benchmarks.speed.ours import eval_logits, training_batch
from benchmarks.speed.sessions import (
    Session,
    onnxruntime_session,
    openvino_session,
    paddle_inference_session,
)
from benchmarks.speed.subject import Pictures, Subject, labels_of_logits, to_array


def build(case: Case, files: Files) -> Subject:
    """Return what to time."""
    setting = case.setting
    images = files.images(setting.image_hw, setting.batch)
    if setting.task == "train":
        return _training(files, images)
    if case.engine == "paddleseg":
        model = _model(files)
        if setting.task == "files":
            return _files_pass(model, files, Pictures(case, files))
        if setting.task == "network":
            return _dygraph_pass(model, images)
        return _inference(model, images, setting)
    session = _session(case, files)
    if setting.task == "network":
        x = normalized(images)
        image_hw = setting.image_hw
        return Subject(lambda: session(x), lambda out: labels_of_logits(out, image_hw), np.asarray)
    if setting.task == "slide":
        return _inference(lambda x: [paddle.to_tensor(session(x.numpy()))], images, setting)
    transforms = _transforms()
    return Subject(
        lambda: [session(transforms({"img": image})["img"][None])[0] for image in bgr(images)],
        np.stack,
    )


def bgr(images: np.ndarray) -> np.ndarray:
    """Return images in the channel order that its transforms take: they turn it to RGB."""
    return np.ascontiguousarray(images[..., ::-1])


def save_graph(files: Files, folder: Path, is_labels: bool) -> None:
    """Save its model with any height and width."""
    network = _Graph(_model(files), is_labels)
    spec = paddle.static.InputSpec([None, 3, None, None], "float32", name="x")
    static = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    paddle.jit.save(static, str(folder / "model"))


class _Graph(paddle.nn.Layer):
    """Its model as one output."""

    def __init__(self, model: paddle.nn.Layer, is_labels: bool) -> None:
        super().__init__()
        self.model = model
        self.is_labels = is_labels

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)[0]
        return paddle.argmax(logits, axis=1, dtype="int32") if self.is_labels else logits


def _model(files: Files) -> paddle.nn.Layer:
    """Return its model with the run's weights.

    `register()` may have put our backbones into its registry; its module still holds its own.
    """
    state = paddle.load(str(files.path("weights")))
    backbones = import_module("paddleseg.models.backbones.mix_transformer")
    segformer = import_module("paddleseg.models.segformer")
    model = segformer.SegFormer(
        num_classes=files.num_classes,
        backbone=getattr(backbones, f"MixVisionTransformer_{files.variant}")(),
        embedding_dim=state["linear_pred.weight"].shape[1],
    )
    missing, unexpected = model.set_state_dict(state)
    assert not missing and not unexpected, (missing, unexpected)
    model.eval()
    return model


def _session(case: Case, files: Files) -> Session:
    setting = case.setting
    path = files.path(case.file)
    if case.engine == "paddleseg-inference":
        return paddle_inference_session(path, setting.threads)
    if case.engine == "paddleseg-onnxruntime":
        return onnxruntime_session(path, setting.threads)
    batch = setting.batch if setting.task == "network" else 1
    shape = (batch, 3, *setting.size_hw)
    return openvino_session(path, setting.threads, case.precision, shape)


def _dygraph_pass(model: paddle.nn.Layer, images: np.ndarray) -> Subject:
    x = paddle.to_tensor(normalized(images))

    def run() -> Tensor:
        with paddle.no_grad():
            return model(x)[0]

    image_hw = images.shape[1], images.shape[2]
    return Subject(run, lambda out: labels_of_logits(out.numpy(), image_hw), to_array)


def _transforms() -> Callable[[dict[str, Any]], dict[str, Any]]:
    transforms = import_module("paddleseg.transforms.transforms")
    return transforms.Compose([transforms.Normalize(mean=list(MEAN), std=list(STD))])


def _inference(network: Callable[[Tensor], Any], images: np.ndarray, setting: Setting) -> Subject:
    """Return its own prediction of one image after the other: 2.8.0 takes no batch."""
    infer = import_module("paddleseg.core.infer")
    transforms = _transforms()
    arguments: dict[str, Any] = {}
    if setting.task == "slide":
        crop, stride = setting.size_hw[::-1], setting.stride_hw[::-1]  # (width, height)
        arguments = {"is_slide": True, "crop_size": crop, "stride": stride}

    def run() -> list[np.ndarray]:
        found = []
        for image in bgr(images):
            data = transforms({"img": image})
            x = paddle.to_tensor(data["img"][None])
            with paddle.no_grad():
                label, _ = infer.inference(network, x, data["trans_info"], **arguments)
            found.append(label.numpy()[0, 0])
        return found

    return Subject(run, np.stack)


def _files_pass(model: paddle.nn.Layer, files: Files, pictures: Pictures) -> Subject:
    """Return its own prediction of a list of files; it loads the weights each time.

    Its overlays go to a folder of their own.
    """
    predict = import_module("paddleseg.core.predict").predict
    weights, paths = str(files.path("weights")), [str(path) for path in pictures.paths]
    transforms = _transforms()
    root = pictures.folder.parent / "paddleseg"

    def run() -> None:
        predict(model, weights, transforms, paths, str(pictures.folder), str(root))

    def labels(result: None) -> np.ndarray:
        for path in (root / "pseudo_color_prediction").iterdir():
            path.replace(pictures.results / path.name)
        return pictures.labels(result)

    return Subject(run, labels)


def _training(files: Files, images: np.ndarray) -> Subject:
    model = _model(files)
    x, label = training_batch(images, files.num_classes)
    before = eval_logits(model, x)
    optimizer = paddle.optimizer.AdamW(6e-5, parameters=model.parameters(), weight_decay=0.01)
    loss_of = _cross_entropy()
    model.train()

    def run() -> np.ndarray:
        loss = loss_of(model(x)[0], label)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return before

    image_hw = images.shape[1], images.shape[2]
    return Subject(run, lambda out: labels_of_logits(out, image_hw), lambda out: out)


def _cross_entropy() -> Any:
    """Return its loss; 2.8.0's multiplies float32 by int64 labels, which Paddle 3 refuses."""
    module = import_module("paddleseg.models.losses.cross_entropy_loss")

    class CrossEntropyLoss(module.CrossEntropyLoss):  # type: ignore[name-defined]
        def _post_process_loss(self, logit: Any, label: Any, weights: Any, loss: Any) -> Any:
            return super()._post_process_loss(logit, label.astype("float32"), weights, loss)

    return CrossEntropyLoss()
