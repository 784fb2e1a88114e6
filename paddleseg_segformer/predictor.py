"""`Predictor`: images in, label maps out."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast, overload

import cv2
import numpy as np
from PIL import Image, ImageOps

from paddleseg_segformer.cloud import CloudFile
from paddleseg_segformer.components import img_channels_of, stated_of_dataset
from paddleseg_segformer.data.io import decode_image, read_image, write_label
from paddleseg_segformer.data.labels import (
    IGNORE_INDEX,
    LabelSet,
    generic_label_set,
    make_label_set,
    mark_unknown,
)
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.arrays import Network, takes_numpy
from paddleseg_segformer.inference.given_labels import LabelPipeline
from paddleseg_segformer.inference.overlay import (
    OVERLAY_ALPHA,
    color_label,
    overlay,
    with_legend,
    write_image,
)
from paddleseg_segformer.inference.pipeline import ImageLogits, Pipeline
from paddleseg_segformer.inference.polygons import geojson, regions_of
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.engines import MAX_SIDE_PX, EngineOptions

if TYPE_CHECKING:
    from paddle import nn

    from paddleseg_segformer.config import Config

ImageLike: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


class Prediction:
    """What was predicted for one image; each map is made when it is first asked for.

    Args:
        image: The image (H, W, C), RGB.
        logits: Its logits, made as far as asked for.
        label_set: Names and colours of the classes.
    """

    def __init__(self, image: np.ndarray, logits: ImageLogits, label_set: LabelSet) -> None:
        self.image = image
        self.label_set = label_set
        self._logits = logits

    @property
    def is_computed(self) -> bool:
        """Return whether the network has done its part: the maps can be made in any thread."""
        return self._logits.is_computed

    @cached_property
    def label(self) -> np.ndarray:
        """Return the class ids (H, W): uint8, or int32 for more than 256 classes."""
        return self._logits.labels()

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Return the class probabilities (K, H, W) float32; 4 K H W bytes."""
        return self._logits.probabilities()

    @cached_property
    def confidence(self) -> np.ndarray:
        """Return the probability of the predicted class, (H, W) float32.

        It is calibrated where the settings have `temperatures`.
        """
        return self._logits.confidence()

    def mark_unknown(self, min_confidence: float | Sequence[float] | np.ndarray) -> None:
        """Give pixels of a lower confidence the label set's `ignore_index` in `label`.

        Args:
            min_confidence: 0..1, one for all classes or one for each.

        Raises:
            UserError: that is the id of a class, or not one number for each class.
        """
        limits = np.asarray(min_confidence, np.float32)
        self.label = mark_unknown(self.label, self.confidence, limits, self.label_set)

    @cached_property
    def entropy(self) -> np.ndarray:
        """Return the entropy of the class probabilities in nats, (H, W) float32: 0 is certain."""
        return self._logits.entropy()

    @property
    def colors(self) -> np.ndarray:
        """Return the label map in the classes' colours, (H, W, 3) RGB uint8."""
        return color_label(self.label, self.label_set)

    def overlay(self, alpha: float = OVERLAY_ALPHA) -> np.ndarray:
        """Return the image with the classes' colours over it, (H, W, 3) RGB uint8.

        Args:
            alpha: Opacity of the colours, 0..1.
        """
        return overlay(self.image, self.label, self.label_set, alpha)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as a PNG that holds the class ids and shows their colours."""
        write_label(path, self.label, self.label_set.colors)

    def save_overlay(
        self, path: str | os.PathLike[str], alpha: float = OVERLAY_ALPHA, has_legend: bool = True
    ) -> None:
        """Write the overlay, with a legend of its classes beside it.

        Args:
            path: An image file; its suffix says the format.
            alpha: Opacity of the colours, 0..1.
            has_legend: Whether the legend is there; without it the size is the image's.
        """
        picture = self.overlay(alpha)
        if has_legend:
            picture = with_legend(picture, self.label, self.label_set)
        write_image(path, picture)

    def polygons(self) -> dict[str, Any]:
        """Return the label map as GeoJSON polygons along the edges of the pixels.

        Raises:
            MissingDependency: rasterio is not installed.
        """
        regions = regions_of(self.label, self.label_set.num_classes, self.confidence)
        return geojson(regions, self.label_set)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        title = f"Prediction of {height}x{width} px, {self.label_set.num_classes} classes"
        if "label" not in vars(self):
            return f"<{title}, computed when asked for>"
        ids, counts = np.unique(self.label, return_counts=True)
        names = self.label_set.classes
        largest = sorted(zip(counts.tolist(), ids.tolist(), strict=True), reverse=True)[:5]
        shares = ", ".join(
            f"{names[index] if index < len(names) else 'unknown'} {count / self.label.size:.1%}"
            for count, index in largest
        )
        return f"<{title}: {shares}{', ...' if len(ids) > 5 else ''}>"

    def _repr_png_(self) -> bytes:
        """Return what notebooks show: the overlay with its legend."""
        picture = with_legend(self.overlay(), self.label, self.label_set)
        return bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])


class Predictor:
    """Predicts label maps for images of any size.

    Args:
        network: (N, C, h, w) float32, normalised -> logits (N, K, about h/4, about w/4); see
            `Pipeline`. A layer is put into evaluation mode.
        preprocess: Size rules and normalisation.
        settings: Windows, scales, flips and averaging.
        label_set: Names and colours; by default numbered classes.
        device: Name for `paddle.set_device`, where the network takes Paddle tensors; by default the
            current device.
        img_channels: Channels of images that are read from files.
        config: What the network, preprocessing and classes were built from, for `save_pretrained`.
    """

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        settings: InferenceSettings | None = None,
        label_set: LabelSet | None = None,
        device: str | None = None,
        img_channels: int = 3,
        config: Config | None = None,
    ) -> None:
        if not takes_numpy(network):
            with explained():
                import paddle

            if device:
                paddle.set_device(device)
            if isinstance(network, paddle.nn.Layer):
                network.eval()
        self.pipeline: Pipeline = Pipeline(network, preprocess, settings)
        self.label_set = label_set
        self.img_channels = img_channels
        self.config = config

    @property
    def settings(self) -> InferenceSettings:
        """Return windows, scales, flips and averaging."""
        return self.pipeline.settings

    @settings.setter
    def settings(self, settings: InferenceSettings) -> None:
        self.pipeline.settings = settings

    @property
    def num_callers(self) -> int:
        """Return from how many threads to call it at the same time: 1, unless its engine gains."""
        number: int = getattr(self.pipeline.network, "num_callers", 1)
        return number

    def with_settings(self, settings: InferenceSettings) -> Predictor:
        """Return a predictor of other settings and the same network."""
        predictor = copy.copy(self)
        predictor.pipeline = copy.copy(self.pipeline)
        predictor.settings = settings
        return predictor

    @classmethod
    def from_config(
        cls,
        config: Config | str | os.PathLike[str],
        model_path: str | os.PathLike[str],
        opts: Sequence[str] | None = None,
        device: str | None = None,
        **overrides: Any,
    ) -> Predictor:
        """Build the model of a config and load its weights.

        Args:
            config: A loaded config, the path of a YAML file, or a packaged config's name.
            model_path: Weights, `.pdparams`.
            opts: Overrides such as "model.num_classes=19".
            device: Name for `paddle.set_device`.
            overrides: Fields of `InferenceSettings` that replace those of `test_config`; its
                scales and flips (`aug_eval`) are for evaluation only.

        Raises:
            UserError: the config or the weights are wrong, or an override is unknown.
        """
        import paddle

        from paddleseg_segformer.config import Config, load_config
        from paddleseg_segformer.config.building import build_model
        from paddleseg_segformer.cpu import prepare_cpu
        from paddleseg_segformer.weights import load_weights

        prepare_cpu()
        if device:
            paddle.set_device(device)
        if not isinstance(config, Config):
            config = load_config(config, opts)
        test_config = dataclasses.replace(config.test_config, aug_eval=False)
        settings = test_config.inference_settings().replace(overrides)
        model = build_model(config)
        if model.num_classes == 1:
            raise UserError(
                f"{model_path}: a model of one logit, which has no second class to tell from. Take "
                "it as model.pretrained of a model with num_classes 2 and one_logit: true, and "
                "save that."
            )
        load_weights(model, model_path)
        section = config.val_dataset or config.train_dataset or {}
        return cls(
            model,
            Preprocess.from_config(config),
            settings,
            label_set_of(section, model.num_classes),
            img_channels=img_channels_of(section) or 3,
            config=config,
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        opts: Sequence[str] | None = None,
        device: str | None = None,
        **overrides: Any,
    ) -> Predictor:
        """Build the model of a weight file or folder; preprocess images as its source does.

        Args:
            path: A model folder, a Hugging Face folder, a `.pdparams` with its YAML beside it, or a
                weight file of NVlabs, mmsegmentation or smp.
            opts: Overrides of the config, such as "test_config.is_slide=False".
            device: Name for `paddle.set_device`.
            overrides: As of `from_config`.

        Raises:
            UserError: the weights are wrong, or nothing says how to prepare images for them.
        """
        from paddleseg_segformer.model_folder import config_of

        return cls.from_config(config_of(path, opts), path, device=device, **overrides)

    def save_pretrained(self, path: str | os.PathLike[str], format: str = "paddleseg") -> None:
        """Write the model with its preprocessing and classes, as they were loaded.

        Args:
            path: A folder; for other formats than "hf" and "paddleseg", a weight file.
            format: "paddleseg" for a model folder, "hf" for Hugging Face's, or the name of another
                code base.

        Raises:
            UserError: not a network that was built from a config, or none that the format has.
        """
        from paddleseg_segformer.converting import save_model

        network = self.pipeline.network
        if self.config is None or not _is_layer(network):
            raise UserError(
                "save_pretrained: this predictor was not made by from_config or from_pretrained, "
                "so nothing says how to build its network again."
            )

        save_model(network, self.config, path, format)

    @classmethod
    def from_export(
        cls,
        folder: str | os.PathLike[str],
        device: str | None = None,
        threads: int = 1,
        precision: str = "auto",
        backend: str = "auto",
        self_check: bool = False,
        use_trt: bool = False,
        max_side_px: int = MAX_SIDE_PX,
        has_cache: bool = False,
        streams: int = 1,
        **overrides: Any,
    ) -> Predictor:
        """Load an exported model with the `deploy.yaml` beside it.

        Args:
            folder: What `export` wrote, or PaddleSeg's `tools/export.py`, or PaddleX. Of an export
                with `output_op` argmax there are label maps alone; see `LabelPipeline`.
            device: cpu, gpu or gpu:1; by default Paddle's current device where Paddle runs the
                network, else the CPU.
            threads: CPU threads.
            precision: fp32; also fp16 in Paddle Inference on GPU; in OpenVINO bf16, and int8 and
                int8-bf16 where the export holds INT8; in ONNX Runtime int8 of int8_onnx. auto: what
                `export --speed` chose, else fp32.
            backend: paddle, onnxruntime, openvino, or auto: the fastest that is installed and reads
                what was exported, OpenVINO before ONNX Runtime before Paddle Inference.
            self_check: Compare the engine's labels with those that the export expects for its
                fixture image; see `runtimes.self_check`.
            use_trt: Let TensorRT run the network, in Paddle Inference on GPU.
            max_side_px: Longest side that may go through the network at once.
            has_cache: Keep what OpenVINO compiles in the user's cache folder, for quicker starts.
            streams: Images that OpenVINO or ONNX Runtime computes at the same time, on `threads`
                together, where the predictor is called from several threads (`num_callers`). 0: as
                many as are sensible.
            overrides: Fields of `InferenceSettings` that replace the exported ones.

        Raises:
            UserError: not a complete export, nothing in it that the engine reads, or an override is
                unknown; or the self-check failed.
            MissingDependency: the engine is not installed.
        """
        from paddleseg_segformer.runtimes import self_check as checks
        from paddleseg_segformer.runtimes.deploy_config import DeployConfig
        from paddleseg_segformer.runtimes.engine_network import load_network

        is_argmax = DeployConfig.load(folder, check_files=False).output.op == "argmax"
        options = EngineOptions(
            backend,
            device,
            threads,
            precision,
            "argmax" if is_argmax else "none",
            use_trt,
            max_side_px,
            has_cache,
            streams,
        )
        network = load_network(folder, options)
        if self_check:
            checks.self_check(network, folder)
        deploy = network.deploy
        predictor = cls(
            network,
            Preprocess.from_dict(deploy.preprocess),
            InferenceSettings.from_dict(deploy.inference).replace(overrides),
            deploy.label_set,
            network.device,
            img_channels=deploy.input.num_channels,
        )
        if is_argmax:
            pipeline = LabelPipeline(network, predictor.pipeline.preprocess, predictor.settings)
            pipeline.num_classes = deploy.output.num_classes
            predictor.pipeline = pipeline
        return predictor

    @overload
    def __call__(self, image: ImageLike, bgr: bool = False) -> Prediction: ...

    @overload
    def __call__(self, image: list[ImageLike], bgr: bool = False) -> list[Prediction]: ...

    def __call__(
        self, image: ImageLike | list[ImageLike], bgr: bool = False
    ) -> Prediction | list[Prediction]:
        """Predict one image, or several whose windows go through the network together.

        Args:
            image: A path, an image of Pillow, an array (H, W, C) or (H, W) of 0..255, RGB uint8, or
                a list of these.
                Where the data set has a `value_range`, of the values that its files hold.
            bgr: Arrays are in OpenCV's order blue, green, red.
        """
        images = image if isinstance(image, list) else [image]
        predictions = self.predict_read([self._array(item, bgr) for item in images])
        return predictions if isinstance(image, list) else predictions[0]

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image file as the network is to see it: (H, W, C), RGB, 0..255.

        Raises:
            UserError: it cannot be read; see `data.io.read_image`.
        """
        return read_image(path, self.img_channels, self.pipeline.preprocess.value_range)

    def decode(self, name: Path | CloudFile, content: bytes) -> np.ndarray:
        """Decode a file's content as `read` does; see `data.io.decode_image`."""
        value_range = self.pipeline.preprocess.value_range
        return decode_image(cast(Path, name), content, self.img_channels, value_range)

    def predict_read(self, images: list[np.ndarray]) -> list[Prediction]:
        """Predict images as `read` returns them; their windows go through the network together."""
        predictions = []
        for image, logits in zip(images, self.pipeline.batch(images), strict=True):
            self.label_set = self.label_set or generic_label_set(logits.num_classes)
            predictions.append(Prediction(image, logits, self.label_set))
        return predictions

    def _array(self, image: ImageLike, bgr: bool) -> np.ndarray:
        """Return the image (H, W, C) in RGB."""
        if isinstance(image, (str, os.PathLike)):
            if "://" in str(image):
                raise UserError(f"{image}: URLs are not fetched. Download it, and name the file.")
            return self.read(image)
        if isinstance(image, Image.Image) and image.mode not in ("F", "I"):
            return self._read_pillow(image)
        if isinstance(image, Image.Image):
            image = np.asarray(image)
        is_array = isinstance(image, np.ndarray)
        if not is_array or image.ndim not in (2, 3):
            found = f"shape {image.shape}" if is_array else type(image).__name__
            raise UserError(
                f"image: found {found}, expected a path, an image of Pillow or an array (height, "
                "width, 3)."
            )
        value_range = self.pipeline.preprocess.value_range
        if image.dtype.kind not in "uif" or (image.dtype == np.uint16 and not value_range):
            raise UserError(f"image: found {image.dtype} values, expected uint8 in 0..255.")
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], self.img_channels, axis=2)
        if image.shape[2] != self.img_channels:
            raise UserError(
                f"image: found {image.shape[2]} channels, expected {self.img_channels} "
                "(height, width, channels). Drop alpha with image[:, :, :3]."
            )
        if value_range:
            image = value_range.apply(image, "image")
        elif image.dtype != np.uint8:
            image = image.astype(np.float32)
        return np.ascontiguousarray(image[:, :, ::-1]) if bgr else image

    def _read_pillow(self, image: Image.Image) -> np.ndarray:
        """Return the image as the network is to see it, as if it were read from a file."""
        image = ImageOps.exif_transpose(image)
        file = io.BytesIO()
        kept = image if image.mode in PNG_MODES else image.convert("RGB")
        kept.save(file, "PNG", compress_level=1)
        value_range = self.pipeline.preprocess.value_range
        return decode_image(Path("image.png"), file.getvalue(), self.img_channels, value_range)


def _is_layer(network: Network) -> TypeGuard[nn.Layer]:
    """Tell whether a network is a layer of Paddle; Paddle is not imported for others."""
    if takes_numpy(network):
        return False
    from paddle import nn

    return isinstance(network, nn.Layer)


def label_set_of(section: dict[str, Any] | None, num_classes: int) -> LabelSet:
    """Return the label set of a config's data set section, without its files.

    Where nothing names the classes, or the model has another number of them, they are numbered.

    Raises:
        UserError: not one name or colour for each class.
    """
    section = section or {}
    label_set = stated_of_dataset(section, "label_set")
    if label_set is not None and label_set.num_classes == num_classes:
        return label_set
    names = section.get("classes"), section.get("palette")
    return make_label_set(num_classes, *names, section.get("ignore_index", IGNORE_INDEX))
