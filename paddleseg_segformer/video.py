"""Films: frames in, overlays and label maps out, in memory that does not grow with their length.

Frames keep their times, so that frame rates are exact and variable ones stay as they are.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.headers import check_pixels, max_pixels
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, one_line
from paddleseg_segformer.files import atomic_path
from paddleseg_segformer.inference.given_labels import LabelPipeline
from paddleseg_segformer.inference.image_sources import in_streams
from paddleseg_segformer.inference.overlay import OVERLAY_ALPHA
from paddleseg_segformer.inference.temporal import TemporalAverage

if TYPE_CHECKING:
    from paddleseg_segformer.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

OVERLAY, SIDE_BY_SIDE, LABEL = "overlay", "side_by_side", "label"
SUFFIXES = {OVERLAY: ".mp4", SIDE_BY_SIDE: ".mp4", LABEL: ".mkv"}  # of the films written
CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's names
LIVE_TIMEOUT_S = 10.0
HDR_TRANSFERS = (16, 18)  # PQ and HLG, as ITU-T H.273 counts
DEFAULT_RATE = Fraction(25)  # frames/s, where a film has no times at all
FORMATS_WITH_LENGTH = ("matroska", "mov", "flv", "asf")  # whose headers say how long films are
MISSING_S = 1.0  # more is missing from a film that was cut off


@dataclass(frozen=True)
class FilmOptions:
    """How a film is read and written.

    Args:
        every: Predict and write every so many-th frame.
        max_frames: Predict so many at most.
        smoothing: Share of earlier frames in the logits; see `TemporalAverage`.
        keeps_audio: Copy the sound into overlays, as it is encoded.
        is_live: The source is a URL or a camera (its path, or on other systems its name).
    """

    every: int = 1
    max_frames: int | None = None
    smoothing: float = 0.0
    keeps_audio: bool = False
    is_live: bool = False

    @property
    def is_serial(self) -> bool:
        """Tell whether a frame has to wait for the one before."""
        return bool(self.smoothing) or self.is_live

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"--every: found {self.every}, expected 1 or more.")
        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(f"--max_frames: found {self.max_frames}, expected 1 or more.")
        if self.keeps_audio and self.is_live:
            raise UserError("--keep_audio: the sound of live sources is not kept. Leave it out.")
        TemporalAverage(self.smoothing)  # which checks it


def predict_video(
    predictor: Predictor,
    source: str | os.PathLike[str],
    destinations: Mapping[str, str | os.PathLike[str]],
    options: FilmOptions | None = None,
    alpha: float = OVERLAY_ALPHA,
) -> tuple[int, float]:
    """Predict the frames of a film and write films of the same times.

    Args:
        predictor: Of images of three channels and 8 bits.
        source: A film that PyAV (FFmpeg) reads. It is turned as its metadata say; of more than 8
            bits the upper ones are seen, and alpha is dropped.
        destinations: Paths by what they get: 'overlay' (.mp4, H.264), 'side_by_side' (the same,
            frame and overlay) and 'label' (.mkv, FFV1: lossless grey whose values are class ids, of
            16 bits where there are more than 256 classes; its times are rounded to 1 ms).
        options: By default all frames, without sound.
        alpha: Opacity of the overlay's colours.

    Returns:
        Number of frames, and frames per second of reading, predicting and writing together.

    Raises:
        UserError: the film cannot be read, has no frames, or changes its size; or the model is for
            images of other values than 8 bits. Nothing is written then. A damaged film is written
            as far as it can be read, then this is raised.
    """
    options = options or FilmOptions()
    value_range = predictor.pipeline.preprocess.value_range
    if value_range and not value_range.keeps_uint8:
        raise UserError(
            f"{source}: the frames of a video have 8 bits, the model's value_range is "
            f"{value_range.declared}. Predict images as files, with all their bits."
        )
    if predictor.img_channels != 3:
        raise UserError(
            f"{source}: the frames of a video have 3 channels, the model's images "
            f"{predictor.img_channels}. Predict images as files."
        )
    if options.smoothing and isinstance(predictor.pipeline, LabelPipeline):
        raise UserError(
            "smoothing needs logits, but the model was exported with --output_op argmax. Leave it "
            "out, or export the model with --output_op none."
        )
    average = TemporalAverage(options.smoothing)
    threads = 1 if options.is_serial else predictor.num_callers

    def pictured(frame: _Frame) -> tuple[_Frame, dict[str, np.ndarray]]:
        """Return a frame and what the films show of it."""
        if frame.image is None:
            return frame, {}
        if options.smoothing:
            average.next_frame()
        [prediction] = predictor.predict_read([frame.image])
        return frame, {kind: _picture(kind, prediction, alpha) for kind in destinations}

    start, num_frames = time.perf_counter(), 0
    with ExitStack() as stack, explained():
        film = stack.enter_context(_opened(source, options))
        paths = {kind: stack.enter_context(atomic_path(to)) for kind, to in destinations.items()}
        if options.smoothing:
            predictor.pipeline.smooth = average
            stack.callback(setattr, predictor.pipeline, "smooth", None)
        writers: dict[str, _Writer] = {}
        stack.callback(lambda: [writer.container.close() for writer in writers.values()])
        bar = tqdm(total=film.total(options), unit="frame", disable=None)
        with bar, suppress(*(KeyboardInterrupt,) if options.is_live else ()):
            for frame, pictures in in_streams(pictured, film.frames(options), threads):
                for kind, picture in pictures.items():
                    if kind not in writers:
                        writers[kind] = _Writer(paths[kind], kind, picture, film, options)
                    writers[kind].write(picture, frame.ticks)
                if frame.image is not None:
                    num_frames += 1
                    bar.update()
                for writer in writers.values():
                    writer.copy(frame.sound)
        for writer in writers.values():
            writer.finish()
        if not num_frames:
            raise UserError(f"{source}: no frame could be read.")
    if film.damage:
        raise UserError(
            f"{source}: damaged ({film.damage}). What could be read, {num_frames} frames, is "
            "written. Get the whole file, or repair it."
        )
    return num_frames, num_frames / (time.perf_counter() - start)


def _picture(kind: str, prediction: Prediction, alpha: float) -> np.ndarray:
    """Return what a film of a kind shows: RGB (H, W, 3), or class ids (H, W)."""
    if kind == LABEL:
        return prediction.label
    overlay = prediction.overlay(alpha)
    return overlay if kind == OVERLAY else np.hstack([prediction.image, overlay])


@contextmanager
def _opened(source: str | os.PathLike[str], options: FilmOptions) -> Iterator[_Film]:
    """Open a film; a file's content cannot name other sources than files."""
    import av

    bounds = {"max_pixels": str(max_pixels())}
    if options.is_live:
        is_url = "://" in str(source)
        form = None if is_url else CAMERAS.get(sys.platform)
        name, timeout = str(source), (LIVE_TIMEOUT_S, LIVE_TIMEOUT_S)
    elif Path(source).is_file():
        form, name, timeout = None, f"file:{os.path.abspath(source)}", None
        bounds["protocol_whitelist"] = "file"
    else:
        raise UserError(
            f"{source}: no such file, or not one. URLs and cameras are opened with --live alone."
        )
    try:
        container = av.open(name, format=form, options=bounds, timeout=timeout)
    except (av.FFmpegError, ValueError) as error:
        raise UserError(
            f"{source}: cannot be read as a video ({_reason(error)}). Check that it is whole, and "
            "one that FFmpeg reads."
        ) from None
    with container:
        yield _Film(str(source), container)


class _Frame(NamedTuple):
    """A frame of a film: pixels (H, W, 3) RGB, or None for the sound after the last one."""

    ticks: int  # its time in units of the film's `time_base`
    image: np.ndarray | None
    sound: list[tuple[int, Any]]  # packets since the frame before, with their streams' numbers


class _Film:
    """A film that is read once, from its beginning.

    Args:
        source: Its name, for messages.
        container: PyAV's.

    Raises:
        UserError: it has no video, or one that cannot be decoded.
    """

    def __init__(self, source: str, container: Any) -> None:
        import av

        self.source = source
        self.container = container
        video = container.streams.best("video")
        if video is None or video.disposition & av.stream.Disposition.attached_pic:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise UserError(f"{source}: holds no video, but {kinds}. Name a film.")
        if video.codec_context is None:
            raise UserError(f"{source}: its video's codec is not known to FFmpeg. Convert it.")
        video.thread_type = "AUTO"
        check_pixels(source, video.codec_context.height, video.codec_context.width)
        if getattr(video.codec_context, "color_trc", 0) in HDR_TRANSFERS:
            logger.warning("%s: HDR, of which colours look pale to a model for usual ones", source)
        self.video = video
        self.sound = {item.index: item for item in container.streams.audio if item.codec_context}
        self.time_base: Fraction = video.time_base
        self.rate: Fraction = video.average_rate or video.guessed_rate or DEFAULT_RATE
        start = container.start_time
        self.start = None if start is None else Fraction(start, 10**6)  # in s
        self.pixel_aspect: Fraction | None = video.sample_aspect_ratio  # as frames are given
        self.damage = ""  # what is wrong, in words, once all is read

    def total(self, options: FilmOptions) -> int | None:
        """Return how many frames are to be predicted, if the film's header says it."""
        if not self.video.frames:
            return options.max_frames
        return min(-(-self.video.frames // options.every), options.max_frames or sys.maxsize)

    def frames(self, options: FilmOptions) -> Iterator[_Frame]:
        """Yield the frames that are to be predicted, upright.

        Raises:
            UserError: a frame of another size.
        """
        number, last, size_hw = -1, -1, None
        sound: list[tuple[int, Any]] = []
        for packet, frames in self._decoded():
            if options.keeps_audio and packet.stream.index in self.sound and packet.size:
                sound.append((packet.stream.index, self._from_start(packet)))
            for frame in frames:
                number += 1
                if number % options.every:
                    continue
                if size_hw and size_hw != (frame.height, frame.width):
                    raise UserError(
                        f"{self.source}: frame {number + 1} is {frame.height}x{frame.width} px "
                        f"(height x width), the first is {size_hw[0]}x{size_hw[1]}. Cut the film "
                        "where its size changes."
                    )
                turns = frame.rotation // 90
                if not size_hw and turns % 2 and self.pixel_aspect:
                    self.pixel_aspect = 1 / self.pixel_aspect
                size_hw = frame.height, frame.width
                if frame.pts is None:
                    ticks = round(number / self.rate / self.time_base)
                else:
                    ticks = self._from_start(frame).pts
                last = max(ticks, last + 1)  # in damaged films times may repeat
                image = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield _Frame(last, np.ascontiguousarray(image), sound)
                sound = []
                if number // options.every + 1 == options.max_frames:
                    return
        yield _Frame(last, None, sound)

    def _decoded(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield each packet and the frames that it completes; note what is damaged."""
        import av

        num_packets, num_bad, end = 0, 0, Fraction(0)
        for packet in self._packets():
            frames = []
            if packet.stream.index == self.video.index:
                num_packets += packet.size > 0
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    num_bad += 1
                num_bad += any(frame.is_corrupt for frame in frames)
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            yield packet, frames
        form, duration = self.container.format.name, self.container.duration
        stop = (self.start or 0) + Fraction(duration or 0, 10**6)
        if any(name in form for name in FORMATS_WITH_LENGTH) and stop - end > MISSING_S:
            self.damage = self.damage or f"it ends after {float(end):.1f} of {float(stop):.1f} s"
        if form == "avi" and num_packets < 0.98 * self.video.frames - 1:
            self.damage = self.damage or f"{num_packets} of {self.video.frames} frames are there"
        if num_bad:
            self.damage = self.damage or f"{num_bad} frames are not whole"

    def _packets(self) -> Iterator[Any]:
        import av

        try:
            yield from self.container.demux()
        except av.FFmpegError as error:
            self.damage = _reason(error)

    def _from_start(self, item: Any) -> Any:
        """Let the times of a frame or packet count from the film's start."""
        if self.start is None:
            self.start = item.pts * item.time_base
        offset = round(self.start / item.time_base)
        for name in ("pts", "dts"):
            if getattr(item, name, None) is not None:
                setattr(item, name, getattr(item, name) - offset)
        return item


class _Writer:
    """A film that is being written.

    Args:
        path: Of the file; its suffix says the container.
        kind: What is shown; see `predict_video`.
        picture: The first one: RGB (H, W, 3), or class ids (H, W).
        film: Whose times and sound it has.

    Raises:
        UserError: the container does not hold such sound.
    """

    def __init__(
        self, path: Path, kind: str, picture: np.ndarray, film: _Film, options: FilmOptions
    ) -> None:
        import av

        height, width = picture.shape[:2]
        if kind == LABEL:
            self.form = "gray" if picture.dtype == np.uint8 else "gray16le"
            codec, pixels, settings = "ffv1", self.form, {}
        else:  # halved colours need even sides
            self.form, codec = "rgb24", "libx264"
            pixels = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            settings = {"crf": "18", "preset": "veryfast"}
        self.container = av.open(str(path), "w")
        rate = (film.rate / options.every).limit_denominator(10**6)
        self.stream = self.container.add_stream(codec, rate=rate, options=settings)
        self.stream.height, self.stream.width, self.stream.pix_fmt = height, width, pixels
        self.time_base = film.time_base
        self.stream.time_base = self.stream.codec_context.time_base = film.time_base
        if film.pixel_aspect:
            self.stream.codec_context.sample_aspect_ratio = film.pixel_aspect
        self.sound: dict[int, Any] = {}
        if not options.keeps_audio or kind == LABEL:
            return
        try:
            for index, stream in film.sound.items():
                self.sound[index] = self.container.add_stream_from_template(stream)
            self.container.start_encoding()
        except ValueError:
            self.container.close()
            names = ", ".join(stream.codec_context.name for stream in film.sound.values())
            raise UserError(
                f"{film.source}: its sound ({names}) does not fit into {path.suffix}. Leave out "
                "--keep_audio, or convert the sound to AAC first."
            ) from None

    def write(self, picture: np.ndarray, ticks: int) -> None:
        """Write the next picture at its time."""
        import av

        if self.form == "gray16le":
            picture = picture.astype(np.uint16)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=self.form)
        frame.pts, frame.time_base = ticks, self.time_base
        self.container.mux(self.stream.encode(frame))

    def copy(self, sound: list[tuple[int, Any]]) -> None:
        """Write packets of sound as they are, where this film has sound."""
        for index, packet in sound if self.sound else ():
            packet.stream = self.sound[index]
            self.container.mux(packet)

    def finish(self) -> None:
        """Write what is still held back, and the end."""
        self.container.mux(self.stream.encode(None))
        self.container.close()


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error).rstrip(".")
