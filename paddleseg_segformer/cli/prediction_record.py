"""What a run of `predict` notes beside its results: what they are of, and which images failed."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_segformer import cloud
from paddleseg_segformer.cli.prediction_files import RESULTS, ResultFiles
from paddleseg_segformer.data.lists import walk_files
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import sha256, write_text
from paddleseg_segformer.inference.image_sources import ImageFile

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config

logger = logging.getLogger(__name__)

RECORD, FAILED = "predictions.json", "failed.csv"
# flags that change where the work is done, or that `identity` replaces by contents
OTHER_FLAGS = {
    "image_path", "file_list", "save_dir", "resume", "actors", "ray_address", "device",
    "batch_size", "window_batch", "cpu_threads", "memory_budget_mib", "max_side_px", "benchmark",
    "streams",
    "self_check", "config", "opts", "model_path", "export_dir", "imports", "job",
}  # fmt: skip


def identity(args: Namespace, config: Config | None) -> dict[str, str]:
    """Return what the results of a run depend on beside the images: model, config and flags."""
    source = Path(args.export_dir or args.model_path)
    facts = {"model": _checksum(source) if source.exists() else str(source)}
    if config:
        text = json.dumps(dataclasses.asdict(config), default=str, sort_keys=True)
        facts["config"] = hashlib.sha256(text.encode()).hexdigest()
    flags = {f"--{name}": str(value) for name, value in vars(args).items()}
    return facts | {name: flags[name] for name in sorted(flags) if name[2:] not in OTHER_FLAGS}


def _checksum(path: Path) -> str:
    """Return a checksum of a file, or of the files in a folder."""
    if path.is_file():
        return sha256(path)
    files = (file for file in walk_files(path) if file.is_file())
    lines = (f"{file.relative_to(path).as_posix()} {sha256(file)}" for file in files)
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


class RunRecord:
    """The notes of a run, in the folder of its results.

    Args:
        files: Writes the results.
        facts: See `identity`.
        images: All images of the run, in all processes.
        rank: Of this process.
        world_size: Number of processes that share the images.
    """

    def __init__(
        self,
        files: ResultFiles,
        facts: dict[str, str],
        images: Sequence[ImageFile],
        rank: int,
        world_size: int,
    ) -> None:
        digest = hashlib.sha256()
        for image in images:
            digest.update(os.fsencode(f"{image.name}\n{image.source}\n"))
        self.facts = {"images": f"{len(images)}, checksum {digest.hexdigest()[:16]}", **facts}
        self.files = files
        name = f"failed.rank{rank}.csv" if world_size > 1 else FAILED
        self.path, self.failed_path = f"{files.folder}/{RECORD}", f"{files.folder}/{name}"

    def begin(self, images: Sequence[ImageFile], is_resumed: bool) -> Sequence[ImageFile]:
        """Note the run; return those of the images that an earlier run has not done.

        An image is done if all its files are there, younger than the run's first note and no older
        than the image.

        Raises:
            UserError: the earlier run was of other images, of another model, or with other flags.
        """
        times = self._times() if is_resumed else {}
        _remove(self.failed_path)
        if RECORD not in times:
            if times:
                raise UserError(
                    f"{self.files.folder}: --resume: holds results, but not {RECORD}, which says "
                    "what they are of. Choose another folder, or leave --resume out to start anew."
                )
            write_text(self.path, json.dumps(self.facts, indent=1, ensure_ascii=True))
            return images
        self._check_equal()
        left = []
        for image in images:
            written = [times.get(name, 0.0) for name in self.files.names_of(image).values()]
            oldest = min(written, default=0.0)
            is_local = not cloud.is_url(image.path)
            if oldest <= times[RECORD] or (is_local and _modified(image.path) > oldest):
                left.append(image)
        return left

    def end(
        self, failures: Sequence[tuple[ImageFile, str]], num_images: int, num_tried: int
    ) -> None:
        """Tell how many images were done, and list those that failed.

        Raises:
            UserError: some have failed.
        """
        done_before = num_images - num_tried
        before = f", {done_before} were there" if done_before else ""
        num_done = num_tried - len(failures)
        logger.info("%d images written to %s%s", num_done, self.files.folder, before)
        if not failures:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("image", "reason"), *((image.path, why) for image, why in failures)])
        write_text(self.failed_path, text.getvalue().encode("utf-8", "backslashreplace").decode())
        raise UserError(
            f"{len(failures)} of {num_images} images could not be predicted; see above, or "
            f"{self.failed_path}."
        )

    def _times(self) -> dict[str, float]:
        """Return when each file of an earlier run was written, by its name below the folder."""
        folder = self.files.folder
        if cloud.is_url(folder):
            found = cloud.find_files(folder)
            return {url.removeprefix(f"{folder}/"): time for url, time in found.items()}
        times = {
            file.relative_to(folder).as_posix(): _modified(file)
            for name in RESULTS
            if os.path.isdir(f"{folder}/{name}")
            for file in walk_files(Path(folder, name))
        }
        # the note is looked for last: another process writes it before any result
        return times | ({RECORD: _modified(self.path)} if os.path.isfile(self.path) else {})

    def _check_equal(self) -> None:
        is_url = cloud.is_url(self.path)
        try:
            content = cloud.read_bytes(self.path) if is_url else Path(self.path).read_bytes()
            earlier = dict(json.loads(content))
        except ValueError:
            raise UserError(f"{self.path}: damaged. Leave --resume out to start anew.") from None
        for name in {**earlier, **self.facts}:
            was, now = earlier.get(name), self.facts.get(name)
            if was != now:
                raise UserError(
                    f"{self.files.folder}: --resume: {name} was {was}, is {now}. Give what the "
                    "earlier run had, or leave --resume out to start anew."
                )


def _modified(path: object) -> float:
    try:
        return os.stat(str(path)).st_mtime
    except OSError:  # such as an image that is missing, which prediction tells
        return 0.0


def _remove(path: str) -> None:
    if cloud.is_url(path):
        cloud.remove(path)
    else:
        Path(path).unlink(missing_ok=True)
