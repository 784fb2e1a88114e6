"""What the bytes of a coverage-guided fuzzer go through, and sound files for it to start from.

Each target takes a folder to write into, and returns a function of the bytes: it ends in silence or
in a `UserError` of one line; anything else is a finding. The first byte of some chooses what the
others are, so that one fuzzer walks through all readers of a family.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import seed_files
from run_cases import is_plain

from paddleseg_segformer.annotations.convert import prepare
from paddleseg_segformer.annotations.detect import detect
from paddleseg_segformer.annotations.source import Options
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.schema import CONFIG_FOLDERS
from paddleseg_segformer.data.headers import MAX_PIXELS
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import FILE_NAME, DeployConfig
from paddleseg_segformer.weights.weight_file import open_checkpoint

Run = Callable[[bytes], None]
CHANNELS = (0, 1, 3, 4, 5)  # 0: a label


class Target(NamedTuple):
    """One family of readers.

    Args:
        start: Called with a folder; returns what is done with the bytes.
        seeds: Return name -> sound bytes.
        max_bytes: The fuzzer makes none longer.
    """

    start: Callable[[Path], Run]
    seeds: Callable[[], dict[str, bytes]]
    max_bytes: int


def accept(run: Run, data: bytes) -> bool:
    """Run one case; return whether it was accepted.

    Raises:
        AssertionError: it was refused with several lines that are not a list of mistakes.
    """
    try:
        run(data)
    except UserError as error:
        assert is_plain(str(error)), str(error)
        return False
    return True


def images(folder: Path) -> Run:
    """Read an image of 1, 3, 4 or 5 channels, or a label."""
    os.environ[MAX_PIXELS] = str(1 << 18)

    def run(data: bytes) -> None:
        channels = CHANNELS[data[0] % len(CHANNELS)] if data else 0
        is_array = data[1:7] == b"\x93NUMPY"
        path = folder / ("file.npy" if is_array else "file.png")
        path.write_bytes(data[1:])
        if channels:
            image = read_image(path, channels)
            assert image.ndim == 3 and image.shape[2] == channels and image.size
            assert image.dtype in (np.uint8, np.float32) and np.isfinite(image).all()
        else:
            label = read_label(path)
            assert label.ndim == 2 and label.size and label.dtype in (np.uint8, np.int32)

    return run


def image_seeds() -> dict[str, bytes]:
    """Return every form of `seed_files`, with the byte of its channels."""
    found = {
        name: bytes([CHANNELS.index(channels)]) + content
        for name, (content, channels) in seed_files.images().items()
    }
    labels = {f"label_{name}": b"\0" + content for name, content in seed_files.labels().items()}
    return found | labels


def configs(folder: Path) -> Run:
    """Load a config, and write it back."""

    def run(data: bytes) -> None:
        path = folder / "config.yml"
        path.write_bytes(data)
        config = load_config(path)
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert repr(load_config(path)) == repr(config)

    return run


def config_seeds() -> dict[str, bytes]:
    """Return the packaged configs that stand alone and are short."""
    source = next(base for base in CONFIG_FOLDERS if base.is_dir())
    found = {path.name: path.read_bytes() for path in sorted(source.rglob("*.yml"))}
    return {k: v for k, v in found.items() if b"_base_:" not in v and b"\nmodel:" in v}


def deploys(folder: Path) -> Run:
    """Read a `deploy.yaml`, and build what it describes."""

    def run(data: bytes) -> None:
        (folder / FILE_NAME).write_bytes(data)
        config = DeployConfig.load(folder, check_files=False)
        Preprocess.from_dict(config.preprocess)
        InferenceSettings.from_dict(config.inference)
        assert config.label_set.num_classes == len(config.classes)

    return run


def deploy_seeds() -> dict[str, bytes]:
    """Return a description with one file."""
    text = """format: 3
made_with: {paddleseg_segformer: 1.0.0}
artefacts:
  onnx:
    files: [{name: model.onnx, sha256: "SHA"}]
input: {shape: [-1, 3, -1, -1]}
output: {op: none, stride: 4, num_classes: 2, dtype: float32}
preprocess:
  transforms:
  - {type: Resize, target_size: [64, 32], keep_ratio: false}
  - {type: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
inference: {is_slide: false}
classes: [a, b]
palette: [[0, 0, 0], [255, 0, 0]]
ignore_index: 255
"""
    return {FILE_NAME: text.replace("SHA", "0" * 64).encode()}


SUFFIXES = (".pdparams", ".pth", ".safetensors", "zip")


def weights(folder: Path) -> Run:
    """Open a weight file and read its arrays; pickles are also put into PyTorch's archive."""

    def run(data: bytes) -> None:
        suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else SUFFIXES[0]
        content = data[1:]
        if suffix == "zip":
            content, suffix = _torch_archive(content), ".pth"
        path = folder / f"weights{suffix}"
        path.write_bytes(content)
        checkpoint = open_checkpoint(path, is_known=False)
        for key in checkpoint.state:
            assert isinstance(checkpoint.state[key], np.ndarray)

    return run


def _torch_archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    return buffer.getvalue()


def weight_seeds() -> dict[str, bytes]:
    """Return a file of each container, written without Paddle and torch."""
    state = {
        "decode_head.bias": np.zeros(3, np.float32),
        "decode_head.weight": np.ones((3, 2), np.float32),
    }
    header = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [24, 28]},
    }
    text = json.dumps(header).encode()
    texts = {
        name: b"X" + len(name).to_bytes(4, "little") + name
        for name in (b"storage", b"0", b"cpu", b"weight")
    }
    storage = b"(" + texts[b"storage"] + b"ctorch\nFloatStorage\n" + texts[b"0"] + texts[b"cpu"]
    storage += b"K\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    tensor += b"K\0(K\x02K\x03t(K\x03K\x01t\x89ccollections\nOrderedDict\n)RtR"
    return {
        "protocol2.pdparams": b"\0" + pickle.dumps(state, 2),
        "protocol4.pdparams": b"\0" + pickle.dumps(state, 4),
        "old.pth": b"\x01" + pickle.dumps({"state_dict": {}, "meta": {"epoch": 1}}, 2),
        "plain.safetensors": b"\x02" + len(text).to_bytes(8, "little") + text + bytes(28),
        "torch.pkl": b"\x03\x80\x02}" + texts[b"weight"] + tensor + b"s.",
    }


ANNOTATION_FILES = (
    "annotations.json",  # COCO, or Label Studio
    "frame.json",  # LabelMe
    "annotations.xml",  # CVAT
    "frame.txt",  # YOLO
)


def annotations(folder: Path) -> Run:
    """Convert one image with an annotation file of one of the forms."""
    image = seed_files.images()["plain.png"][0]

    def run(data: bytes) -> None:
        name = ANNOTATION_FILES[data[0] % len(ANNOTATION_FILES)] if data else ANNOTATION_FILES[0]
        data_dir, out = folder / "data", folder / "out"
        for used in (data_dir, out):
            shutil.rmtree(used, ignore_errors=True)
        data_dir.mkdir()
        (data_dir / "frame.png").write_bytes(image)
        (data_dir / "second.png").write_bytes(image)
        if name == "frame.txt":
            (data_dir / "data.yaml").write_text("names: [a, b]\n")
        (data_dir / name).write_bytes(data[1:])
        if name.startswith("frame"):
            second = data[1:].replace(b"frame.png", b"second.png")
            (data_dir / name.replace("frame", "second")).write_bytes(second)
        prepare(
            detect(data_dir, Options(val=0.5, format="yolo" if name == "frame.txt" else "auto")),
            out,
            num_threads=1,
        )

    return run


def annotation_seeds() -> dict[str, bytes]:
    """Return a sound file of each form."""
    polygon = [[2, 2], [30, 2], [30, 20], [2, 20]]
    flat = [value for point in polygon for value in point]
    coco: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 33, "width": 45}
            for i, name in enumerate(("frame", "second"), 1)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [flat], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 7,
                "segmentation": {"size": [33, 45], "counts": [100, 50, 1335]},
                "iscrowd": 1,
            },
        ],
    }
    labelme = {
        "version": "5.0.1",
        "flags": {},
        "shapes": [{"label": "a", "points": polygon, "shape_type": "polygon", "group_id": None}],
        "imagePath": "frame.png",
        "imageData": None,
        "imageHeight": 33,
        "imageWidth": 45,
    }
    percent = [[x * 100 / 45, y * 100 / 33] for x, y in polygon]
    studio = [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/{name}.png"},
            "annotations": [
                {
                    "result": [
                        {
                            "type": "polygonlabels",
                            "original_width": 45,
                            "original_height": 33,
                            "value": {"points": percent, "polygonlabels": ["a"]},
                        }
                    ]
                }
            ],
        }
        for i, name in enumerate(("frame", "second"), 1)
    ]
    points = ";".join(f"{x:.1f},{y:.1f}" for x, y in polygon)
    cvat = f"""<?xml version="1.0"?><annotations><version>1.1</version>
<image id="0" name="frame.png" width="45" height="33">
<polygon label="a" points="{points}" z_order="0"/>
<mask label="b" left="1" top="1" width="4" height="2" rle="2, 3, 3" z_order="1"/></image>
<image id="1" name="second.png" width="45" height="33">
<box label="a" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/></image></annotations>"""
    files = {
        "coco": (0, json.dumps(coco)),
        "labelstudio": (0, json.dumps(studio)),
        "labelme": (1, json.dumps(labelme)),
        "cvat": (2, cvat),
    }
    return {name: bytes([which]) + text.encode() for name, (which, text) in files.items()}


TYPES = ("image/png", "multipart/form-data; boundary=b", "application/octet-stream")
QUERIES = ("", "?format=json", "?format=json&confidence=1&masks=1", "?format=overlay")


def requests(folder: Path) -> Run:
    """Send a body to the service; any answer below 500 and 503 is right, and health stays."""
    from service_bench import Bench  # of tests/serving; imports Paddle

    bench = Bench(max_pixels=1 << 16)

    def run(data: bytes) -> None:
        kind, query = (data + b"\0\0")[:2]
        answer = bench.post(
            data[2:], QUERIES[query % len(QUERIES)], Content_Type=TYPES[kind % len(TYPES)]
        )
        assert answer.status_code < 500, answer.text
        assert bench.get("/health").json() == {"status": "ready"}
        if answer.status_code != 200:
            raise UserError(answer.json().get("error", answer.text))

    return run


def request_seeds() -> dict[str, bytes]:
    """Return bodies with an image alone and in a form."""
    image = seed_files.images()["plain.png"][0]
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return {
        "body": b"\0\0" + image,
        "form": b"\x01\x01" + part + image + b"\r\n--b--\r\n",
        "jpeg": b"\0\x02" + seed_files.images()["progressive.jpg"][0],
    }


TARGETS = {
    "images": Target(images, image_seeds, 8192),
    "configs": Target(configs, config_seeds, 4096),
    "deploy": Target(deploys, deploy_seeds, 2048),
    "weights": Target(weights, weight_seeds, 2048),
    "annotations": Target(annotations, annotation_seeds, 2048),
    "requests": Target(requests, request_seeds, 4096),
}
