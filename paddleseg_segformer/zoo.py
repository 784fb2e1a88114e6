"""Published weights by name: what each holds, where it is, under which licence.

`list_models()` returns them all. A name stands for a path wherever weights are named. Sizes are
those of the parameters in float32. None of the publishers states checksums of these files, so
downloads are verified by their length alone: they are unverified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddleseg_segformer.errors import UserError

HOME = "PADDLESEG_SEGFORMER_HOME"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pdparams")
SEGFORMER_LICENCE = "NVIDIA Source Code License for SegFormer (non-commercial)"
AUGREG_LICENCE = "Apache-2.0"
PADDLESEG = "https://bj.bcebos.com/paddleseg/dygraph"
HUB = "https://huggingface.co"
ENCODER_MB = {"b0": 13, "b1": 53, "b2": 97, "b3": 176, "b4": 243, "b5": 326}
MODEL_MB = {"b0": 15, "b1": 55, "b2": 110, "b3": 189, "b4": 256, "b5": 339}


@dataclass(frozen=True)
class PublishedModel:
    """Weights that somebody published.

    Args:
        name: as configs and commands take it.
        aliases: other names of the same.
        url: of the file, or of the folder on the hub that holds `files`.
        trained_on: the data set.
        is_backbone: an encoder alone, to start from.
        megabytes: of the parameters in float32, about.
        licence: as the publisher states it; see `page` before use.
        page: where the publisher describes it.
        files: names on the hub, the weights last; none for a single file.
        sha256: of the weights; "" where the publisher does not state it.
    """

    name: str
    url: str
    trained_on: str
    is_backbone: bool
    megabytes: int
    licence: str
    page: str
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    sha256: str = ""


def _hub(
    name: str, alias: str, trained_on: str, megabytes: int, is_backbone: bool = False
) -> PublishedModel:
    return PublishedModel(
        name,
        f"{HUB}/{name}/resolve/main",
        trained_on,
        is_backbone,
        megabytes,
        SEGFORMER_LICENCE,
        f"{HUB}/{name}",
        (alias,) if alias else (),
        ("config.json", "preprocessor_config.json", "pytorch_model.bin"),
    )


def _all() -> Iterator[PublishedModel]:
    for size, megabytes in ENCODER_MB.items():
        archive = f"{PADDLESEG}/backbone/mix_vision_transformer_{size}.tar.gz"
        page = "https://github.com/PaddlePaddle/PaddleSeg/tree/develop/configs/segformer"
        yield PublishedModel(
            f"mit_{size}", archive, "ImageNet-1k", True, megabytes, SEGFORMER_LICENCE, page
        )
        yield _hub(f"nvidia/mit-{size}", "", "ImageNet-1k", megabytes, is_backbone=True)
    for size, megabytes in MODEL_MB.items():
        side = 640 if size == "b5" else 512
        ade = f"nvidia/segformer-{size}-finetuned-ade-{side}-{side}"
        yield _hub(ade, f"segformer_{size}_ade20k", "ADE20K", megabytes)
        cityscapes = f"nvidia/segformer-{size}-finetuned-cityscapes-1024-1024"
        yield _hub(cityscapes, f"segformer_{size}_cityscapes", "Cityscapes", megabytes)
    for size, megabytes in (("small", 88), ("base", 344)):
        name = f"vit_{size}_patch16_384_augreg"
        page = "https://github.com/PaddlePaddle/PaddleSeg/tree/develop/configs/segmenter"
        yield PublishedModel(
            name,
            f"{PADDLESEG}/pretrained_models/{name}.tar.gz",
            "ImageNet-21k and ImageNet-1k",
            True,
            megabytes,
            AUGREG_LICENCE,
            page,
        )


ZOO = {model.name: model for model in _all()}


def list_models() -> list[PublishedModel]:
    """Return the published weights that are known by name."""
    return list(ZOO.values())


def find_model(name: str | os.PathLike[str]) -> PublishedModel | None:
    """Return the published model of a name or alias; None where the name is something else's."""
    found = ZOO.get(str(name))
    return found or next((model for model in ZOO.values() if str(name) in model.aliases), None)


def cache_folder() -> Path:
    """Return the folder of downloads, under `$PADDLESEG_SEGFORMER_HOME` or `~/.cache`.

    Raises:
        UserError: the variable is not set, and this user has no home.
    """
    if folder := _folder_of(HOME, "paddleseg_segformer"):
        return folder / "weights"
    raise UserError(f"this user has no home folder, as place of downloads. Set {HOME} to a folder.")


def _folder_of(variable: str, name: str) -> Path | None:
    if folder := os.environ.get(variable):
        return Path(folder)
    with suppress(RuntimeError):  # as in a container that does not know the user it runs as
        return Path.home() / ".cache" / name
    return None


def local_copy(model: PublishedModel) -> Path | None:
    """Return the file or folder of a published model on this machine: our cache's, or the hub's."""
    name, folders = model.name.replace("/", "--"), []
    with suppress(UserError):
        folders = [cache_folder() / name]
    if not model.files:
        ends = ("*.pdparams", "*.tar.gz")
        files = (path for end in ends for folder in folders for path in sorted(folder.glob(end)))
        return next(files, None)
    if hub := _folder_of("HF_HOME", "huggingface"):
        snapshots = (hub / "hub" / f"models--{name}" / "snapshots").glob("*")
        folders += sorted(snapshots, key=lambda path: path.stat().st_mtime)[::-1]
    return next((x for x in folders if any((x / name).is_file() for name in WEIGHTS)), None)
