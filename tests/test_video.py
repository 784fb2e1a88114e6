"""Films that are written by hand or by FFmpeg's encoders, read back by OpenCV and by PyAV."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_segformer import Predictor
from paddleseg_segformer.data.headers import MAX_PIXELS
from paddleseg_segformer.data.labels import make_label_set
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.video import CAMERAS, FilmOptions, predict_video

av = pytest.importorskip("av")

NTSC = Fraction(30000, 1001)


class BrightestChannel:
    """The logits of three classes are the image's channels; as sharp as the image."""

    takes_numpy = True

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x)


@pytest.fixture
def predictor() -> Predictor:
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    return Predictor(
        BrightestChannel(), Preprocess(), label_set=make_label_set(3, ["r", "g", "b"], palette)
    )


def stripes(number: int, size_hw=(32, 48)) -> np.ndarray:
    """Return an image of three vertical stripes; which class is first changes with `number`."""
    height, width = size_hw
    classes = (np.arange(width) * 3 // width + number) % 3
    return np.eye(3, dtype=np.uint8)[np.tile(classes, (height, 1))] * np.uint8(230) + np.uint8(10)


def write_film(
    path: Path,
    images,
    codec: str = "libx264",
    pixels: str = "yuv444p",
    rate: Fraction = NTSC,
    times=None,
    sound: str | None = None,
) -> Path:
    """Write images (H, W, 3) RGB, `times` in 1/30000 s, with a tone beside them."""
    images = list(images)
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pixels
        base = Fraction(1, 30000) if times else 1 / rate
        stream.time_base = stream.codec_context.time_base = base
        tone = film.add_stream(sound, rate=48000) if sound else None
        num_values = 0
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else number), base
            film.mux(stream.encode(frame))
            while tone and num_values < 48000 * (number + 1) / rate:
                values = np.sin(np.arange(num_values, num_values + 1024) / 20).astype(np.float32)
                part = av.AudioFrame.from_ndarray(values[None], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 48000, num_values, Fraction(1, 48000)
                film.mux(tone.encode(part))
                num_values += 1024
        for track in (stream, tone) if tone else (stream,):
            film.mux(track.encode(None))
    return path


def read_labels(path: Path) -> np.ndarray:
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray() for frame in film.decode(video=0)])


def times_of(path: Path, kind: str = "video") -> list[Fraction]:
    """Return the times in s of a film's packets, in the order they are shown."""
    with av.open(str(path)) as film:
        packets = film.demux(film.streams.best(kind))
        return sorted(packet.pts * packet.time_base for packet in packets if packet.size)


@pytest.mark.parametrize("rate", [NTSC, Fraction(25), Fraction(24000, 1001), Fraction(1, 2)])
def test_frame_rate_is_exact(predictor, tmp_path, rate) -> None:
    source = write_film(tmp_path / "in.mp4", map(stripes, range(7)), rate=rate)
    out = {"overlay": tmp_path / "o.mp4", "side_by_side": tmp_path / "s.mp4"}
    num_frames, speed = predict_video(predictor, source, out)
    assert num_frames == 7 and speed > 0
    for path in out.values():
        assert times_of(path) == times_of(source) == [number / rate for number in range(7)]
        assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(float(rate))


def test_labels_are_lossless_in_films_of_odd_sizes(predictor, tmp_path) -> None:
    images = [stripes(number, (35, 51)) for number in range(5)]
    source = write_film(tmp_path / "in.mkv", images, codec="ffv1", pixels="bgr0")
    out = {"label": tmp_path / "é" / "l.mkv", "overlay": tmp_path / "o.mp4"}
    predict_video(predictor, source, out, alpha=1.0)
    expected = np.stack([image.argmax(axis=2) for image in images])
    np.testing.assert_array_equal(read_labels(out["label"]), expected)
    capture = cv2.VideoCapture(str(out["overlay"]))
    shown = np.stack([capture.read()[1][:, :, ::-1] for _ in images])
    assert shown.shape == (5, 35, 51, 3)
    colors = np.asarray(predictor.label_set.palette)[expected]
    assert np.median(np.abs(shown.astype(int) - colors)) <= 3
    capture = cv2.VideoCapture(str(out["label"]))  # another reader of FFV1
    assert [capture.read()[0] for _ in range(6)] == [True] * 5 + [False]


def test_frames_in_streams_make_the_same_film(predictor, tmp_path) -> None:
    source = write_film(tmp_path / "in.mp4", map(stripes, range(20)))
    plain, streamed = tmp_path / "plain.mkv", tmp_path / "streamed.mkv"
    predict_video(predictor, source, {"label": plain})
    together = threading.Barrier(2)

    class Paired(BrightestChannel):
        num_callers = 2
        calls = count()

        def __call__(self, x: np.ndarray) -> np.ndarray:
            if 0 < next(self.calls) <= 10:
                together.wait(10)
            return super().__call__(x)

    predictor.pipeline.network = Paired()
    assert predict_video(predictor, source, {"label": streamed})[0] == 20
    np.testing.assert_array_equal(read_labels(streamed), read_labels(plain))
    assert times_of(streamed) == times_of(plain)


def test_more_than_256_classes_need_16_bits(tmp_path) -> None:
    class Levels:
        takes_numpy = True

        def __call__(self, x: np.ndarray) -> np.ndarray:
            best = (x[:, :1] / 255 * 299).round()
            return -np.abs(np.arange(300)[:, None, None] - best).astype(np.float32)

    image = np.repeat(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], 3, axis=2)
    image = np.repeat(image, 32, axis=0)
    source = write_film(tmp_path / "in.mkv", [image], codec="ffv1", pixels="bgr0")
    predictor = Predictor(Levels(), Preprocess())
    predict_video(predictor, source, {"label": tmp_path / "l.mkv"})
    expected = (image[:, :, 0] / 255 * 299).round()
    assert expected.max() == 299
    np.testing.assert_array_equal(read_labels(tmp_path / "l.mkv")[0], expected)


def test_variable_frame_rate_and_skipped_frames_keep_their_times(predictor, tmp_path) -> None:
    times = [0, 1001, 2002, 5005, 6006, 9009, 9510]
    source = write_film(tmp_path / "in.mp4", map(stripes, range(7)), times=times)
    out = {"overlay": tmp_path / "o.mp4", "label": tmp_path / "l.mkv"}
    predict_video(predictor, source, out)
    assert [time * 30000 for time in times_of(out["overlay"])] == times
    label_times = np.array([float(time) for time in times_of(out["label"])])
    np.testing.assert_allclose(label_times, np.array(times) / 30000, atol=0.0006)
    assert predict_video(predictor, source, out, FilmOptions(every=3))[0] == 3
    assert [time * 30000 for time in times_of(out["overlay"])] == [0, 5005, 9510]
    first = [read_labels(out["label"])[index, 0, 0] for index in range(3)]
    assert first == [0, 0, 0]  # frames 0, 3 and 6
    assert predict_video(predictor, source, out, FilmOptions(every=2, max_frames=2))[0] == 2
    assert [time * 30000 for time in times_of(out["overlay"])] == [0, 2002]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "aac"), ("mkv", "libopus"), ("mov", "pcm_s16le")]
)
def test_sound_is_copied_where_asked(predictor, tmp_path, suffix, codec) -> None:
    source = write_film(tmp_path / f"in.{suffix}", map(stripes, range(20)), sound=codec)
    out = {"overlay": tmp_path / "o.mp4", "side_by_side": tmp_path / "s.mp4"}
    out["label"] = tmp_path / "l.mkv"
    predict_video(predictor, source, out, FilmOptions(keeps_audio=True))

    def sound_of(path: Path) -> list[bytes]:
        with av.open(str(path)) as film:
            return [bytes(packet) for packet in film.demux(audio=0) if packet.size]

    for kind in ("overlay", "side_by_side"):
        assert sound_of(out[kind]) == sound_of(source)
        starts = [times_of(out[kind], which)[0] for which in ("audio", "video")]
        before = [times_of(source, which)[0] for which in ("audio", "video")]
        assert float(starts[0] - starts[1]) == pytest.approx(float(before[0] - before[1]), abs=1e-3)
    with av.open(str(out["label"])) as film:
        assert not film.streams.audio
    predict_video(predictor, source, out)
    with av.open(str(out["overlay"])) as film:
        assert not film.streams.audio


def test_sound_that_mp4_has_no_place_for_is_refused(predictor, tmp_path) -> None:
    source = write_film(tmp_path / "in.mkv", map(stripes, range(3)), sound="wavpack")
    with pytest.raises(UserError, match=r"its sound \(wavpack\) does not fit into .mp4. Leave out"):
        predict_video(
            predictor, source, {"overlay": tmp_path / "o.mp4"}, FilmOptions(keeps_audio=True)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.avi", "mjpeg", "yuvj444p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv444p"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "libx265", "yuv444p10le"),
        ("a.mov", "png", "rgba"),
        ("a.mkv", "ffv1", "yuv444p16le"),
        ("a.ts", "libx264", "yuv444p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
    ],
)
def test_codecs_10_bits_and_alpha(predictor, tmp_path, name, codec, pixels) -> None:
    images = [stripes(number, (64, 96)) for number in range(4)]
    source = write_film(tmp_path / name, images, codec, pixels, rate=Fraction(25))
    assert predict_video(predictor, source, {"label": tmp_path / "l.mkv"})[0] == 4
    expected = np.stack([image.argmax(axis=2) for image in images])
    assert (read_labels(tmp_path / "l.mkv") == expected).mean() > 0.94  # stripes have soft edges
    assert times_of(tmp_path / "l.mkv")[0] == 0  # MPEG streams start later


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_as_the_film_says(predictor, tmp_path, degrees) -> None:
    """The matrix in the track's header is set by hand; OpenCV turns frames by it too."""
    images = [stripes(0) for _ in range(3)]
    content = write_film(tmp_path / "in.mp4", images).read_bytes()
    at = content.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", content[at : at + 36])[0] == 1 << 16
    sine, cosine = {90: (1, 0), 180: (0, -1), 270: (-1, 0)}[degrees]
    matrix = [cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    source = tmp_path / "turned.mp4"
    source.write_bytes(content[:at] + struct.pack(">9i", *matrix) + content[at + 36 :])
    expected = cv2.VideoCapture(str(source)).read()[1][:, :, ::-1].argmax(axis=2)
    assert expected.shape == ((48, 32) if degrees != 180 else (32, 48))
    predict_video(predictor, source, {"label": tmp_path / "l.mkv", "overlay": tmp_path / "o.mp4"})
    assert (read_labels(tmp_path / "l.mkv")[0] == expected).mean() > 0.95
    shown = cv2.VideoCapture(str(tmp_path / "o.mp4")).read()[1]
    assert shown.shape[:2] == expected.shape


def test_smoothing_is_off_by_default_and_quiets_a_flickering_network(tmp_path) -> None:
    class Flickering:
        takes_numpy = True

        def __init__(self) -> None:
            self.generator = np.random.default_rng(0)

        def __call__(self, x: np.ndarray) -> np.ndarray:
            return (x + self.generator.normal(0, 100, x.shape)).astype(np.float32)

    source = write_film(tmp_path / "in.mkv", 20 * [stripes(0)], codec="ffv1", pixels="bgr0")
    errors = {}
    for share in (0.0, 0.8):
        predictor = Predictor(Flickering(), Preprocess())
        out = {"label": tmp_path / "l.mkv"}
        predict_video(predictor, source, out, FilmOptions(smoothing=share))
        assert predictor.pipeline.smooth is None
        labels = read_labels(out["label"])
        errors[share] = (labels[10:] != stripes(0).argmax(axis=2)).mean()
        if not share:
            again = Predictor(Flickering(), Preprocess())
            expected = np.stack([again(stripes(0)).label for _ in range(20)])
            np.testing.assert_array_equal(labels, expected)
    assert errors[0.8] < 0.3 * errors[0.0]
    assert errors[0.0] > 0.05


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mjpeg")]
)
def test_films_that_were_cut_off_say_so(predictor, tmp_path, suffix, codec) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (90, 32, 48, 3), np.uint8)
    pixels = "yuvj444p" if codec == "mjpeg" else "yuv444p"
    content = write_film(tmp_path / f"in.{suffix}", images, codec, pixels).read_bytes()
    if suffix == "mp4":  # its index is at the end; so it is damaged in the middle instead
        content = bytearray(content)
        at = len(content) // 2
        content[at : at + 2000] = b"\xff" * 2000
    else:
        content = content[: len(content) // 2]
    source = tmp_path / f"cut.{suffix}"
    source.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"cut.{suffix}: damaged \(.*\). What could be read, "
    ) as raised:
        predict_video(predictor, source, {"label": tmp_path / "l.mkv"})
    num_frames = int(re.search(r"read, (\d+) frames", str(raised.value))[1])
    assert 20 <= num_frames < 90
    assert len(read_labels(tmp_path / "l.mkv")) == num_frames


def test_what_is_no_film_is_refused_in_one_line(predictor, tmp_path, monkeypatch) -> None:
    film = write_film(tmp_path / "in.mp4", map(stripes, range(3)))
    texts = {
        "text.mp4": b"no film at all",
        "empty.mp4": b"",
        "cut.mp4": film.read_bytes()[:300],
        "list.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n",
    }
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: (cannot be read as a video|no frame|holds)"):
            predict_video(predictor, tmp_path / name, {"label": tmp_path / "l.mkv"})
    with av.open(str(tmp_path / "sound.mp4"), "w") as sound:
        track = sound.add_stream("aac", rate=48000)
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        part.sample_rate = 48000
        sound.mux(track.encode(part))
        sound.mux(track.encode(None))
    with pytest.raises(UserError, match="sound.mp4: holds no video, but audio. Name a film."):
        predict_video(predictor, tmp_path / "sound.mp4", {"label": tmp_path / "l.mkv"})
    for source in ("http://127.0.0.1:9/x.mp4", "0", "/dev/null", tmp_path / "none.mp4"):
        with pytest.raises(UserError, match="no such file, or not one. URLs and cameras"):
            predict_video(predictor, source, {"label": tmp_path / "l.mkv"})
    monkeypatch.setenv(MAX_PIXELS, "100")
    with pytest.raises(UserError, match="in.mp4: .*32x48 px"):
        predict_video(predictor, film, {"label": tmp_path / "l.mkv"})
    assert not (tmp_path / "l.mkv").exists()


def test_film_without_a_frame_is_refused(predictor, tmp_path) -> None:
    with av.open(str(tmp_path / "none.avi"), "w") as film:
        stream = film.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
        film.start_encoding()
    with pytest.raises(UserError, match="none.avi: (no frame could be read|cannot be read)"):
        predict_video(predictor, tmp_path / "none.avi", {"label": tmp_path / "l.mkv"})


def test_change_of_size_is_refused(predictor, tmp_path) -> None:
    """An MPEG transport stream may go on in another size: here two are put together."""
    for name, size_hw in (("a", (64, 96)), ("b", (96, 64))):
        images = [stripes(number, size_hw) for number in range(5)]
        write_film(tmp_path / f"{name}.ts", images, "mpeg2video", "yuv420p", rate=Fraction(25))
    source = tmp_path / "both.ts"
    source.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(
        UserError, match=r"frame \d+ is 96x64 px \(height x width\), the first is 6"
    ):
        predict_video(predictor, source, {"label": tmp_path / "l.mkv"})
    assert not (tmp_path / "l.mkv").exists()


def test_models_for_other_images_are_refused(tmp_path) -> None:
    source = write_film(tmp_path / "in.mp4", map(stripes, range(2)))
    out = {"label": tmp_path / "l.mkv"}

    def ranged(value_range) -> Predictor:
        return Predictor(BrightestChannel(), Preprocess(value_range=ValueRange.of(value_range)))

    with pytest.raises(UserError, match="in.mp4: the frames of a video have 8 bits, the model's"):
        predict_video(ranged([0, 4095]), source, out)
    assert predict_video(ranged("dtype"), source, out)[0] == 2
    with pytest.raises(UserError, match="in.mp4: the frames of a video have 3 channels, the mod"):
        predict_video(Predictor(BrightestChannel(), Preprocess(), img_channels=4), source, out)


def test_wrong_options_are_refused() -> None:
    for options, message in (
        ({"every": 0}, "--every: found 0, expected 1 or more"),
        ({"max_frames": 0}, "--max_frames: found 0"),
        ({"smoothing": 1.0}, "--smooth: found 1.0, expected 0 to below 1"),
        ({"keeps_audio": True, "is_live": True}, "--keep_audio: the sound of live sources"),
    ):
        with pytest.raises(UserError, match=message):
            FilmOptions(**options)


def test_url_is_read_with_is_live_alone(predictor, tmp_path) -> None:
    source = write_film(tmp_path / "in.mp4", map(stripes, range(4)))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{source.name}"
        out = {"label": tmp_path / "l.mkv"}
        assert predict_video(predictor, url, out, FilmOptions(is_live=True, max_frames=3))[0] == 3
        with pytest.raises(UserError, match="none.mp4: cannot be read as a video"):
            predict_video(predictor, f"{url}/none.mp4", out, FilmOptions(is_live=True))
        server.shutdown()
    with pytest.raises(UserError, match="/dev/video99: cannot be read as a video"):
        predict_video(predictor, "/dev/video99", out, FilmOptions(is_live=True))


def test_interrupt_completes_the_films_of_live_sources_alone(tmp_path, monkeypatch) -> None:
    class Interrupted(BrightestChannel):
        calls = 0

        def __call__(self, x: np.ndarray) -> np.ndarray:
            self.calls += 1
            if self.calls > 3:
                raise KeyboardInterrupt
            return super().__call__(x)

    source = write_film(tmp_path / "in.mp4", map(stripes, range(8)))
    out = {"overlay": tmp_path / "o.mp4"}
    with pytest.raises(KeyboardInterrupt):
        predict_video(Predictor(Interrupted(), Preprocess()), source, out)
    assert not (tmp_path / "o.mp4").exists()
    monkeypatch.setitem(CAMERAS, sys.platform, "mov")  # a film in the place of a camera
    options = FilmOptions(is_live=True)
    assert predict_video(Predictor(Interrupted(), Preprocess()), source, out, options)[0] == 3
    assert len(times_of(tmp_path / "o.mp4")) == 3


FULL = """
import resource, signal, sys
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.video import FilmOptions, predict_video
import numpy as np
class Noise:
    takes_numpy = True
    def __call__(self, x):
        return np.random.default_rng(0).random((1, 3, *x.shape[2:]), np.float32)
"""


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 64, 96, 3), np.uint8)
    write_film(tmp_path / "in.mp4", images)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))"
    ignore = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    call = "predict_video(Predictor(Noise(), Preprocess()), 'in.mp4', {'label': 'l.mkv'})"
    program = f"{FULL}\n{ignore}\n{limit}\n{call}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 1
    assert "l.mkv: cannot be written (File too large)" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_killed_run_leaves_no_film(tmp_path) -> None:
    write_film(tmp_path / "in.mp4", map(stripes, range(400)))
    call = "predict_video(Predictor(Noise(), Preprocess()), 'in.mp4', {'overlay': 'out/o.mp4'})"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{FULL}\n{call}"], cwd=tmp_path, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    try:
        while process.poll() is None and not list(tmp_path.glob("out/.o.*")):
            pass
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "o.mp4").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path) -> None:
    peaks = []
    for num_frames in (100, 2000):
        write_film(tmp_path / "in.mp4", (stripes(i, (96, 128)) for i in range(num_frames)))
        out = "{'label': 'l.mkv', 'overlay': 'o.mp4'}"
        call = f"predict_video(Predictor(Noise(), Preprocess()), 'in.mp4', {out})"
        peak = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        done = subprocess.run(
            [sys.executable, "-c", f"{FULL}\n{call}\n{peak}"], cwd=tmp_path,
            capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.05 * peaks[0], peaks
