"""Load on the HTTP service from another process: right answers, flat memory, throughput.

    python deploy/serving/load_test.py --config output/export --requests 2000 --concurrency 16

It starts the service on a free port, computes the expected label maps itself, sends images of mixed
sizes and formats, as forms and as bodies, one in ten malformed or an attack on the decoders, asks
/health and /ready every second, and stops the service. It ends with status 1 if a good image gets
neither its label map nor 503, a malformed one not its 4xx, an attack a 5xx, if the service is not
healthy and ready all the time, if its counts of requests are not those that were sent, if its
memory grows, or if it does not end with status 0.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import httpx
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from paddleseg_segformer.data.io import decode_image
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.image_sources import find_images
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.street_scenes.dataset import render_scene

SCRIPT = Path(__file__).with_name("serve.py")
SIZES_HW = ((360, 480), (240, 320), (480, 360), (97, 131), (180, 240), (256, 256))
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
MIN_AGREEMENT = 0.9999  # of labels: in another batch size, rounding may decide otherwise
MAX_GROWTH, MAX_GROWTH_MIB = 0.03, 24  # of memory, the last third of the run against the middle one
SAMPLE_S = 0.25
MAX_BYTES = 2_000_000


class Sent(NamedTuple):
    """A request and its expected answer."""

    kind: str
    arguments: dict[str, Any]  # of httpx's `post`
    expected: np.ndarray | int | None  # label map, or status; None: any that is no fault


class Answered(NamedTuple):
    """The answer to a request."""

    kind: str
    status: int
    seconds: float
    problem: str  # empty if the answer was right
    agreement: float  # of the labels; 1 where none were expected


def main(argv: Sequence[str] | None = None) -> int:
    """Run the test; return the exit status."""
    args = make_parser().parse_args(argv)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    try:
        return 1 if run(args) else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Load test of the HTTP service.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, help="deploy.yaml of the export, or its folder")
    add("--image_path", help="image, folder or list of images; without it: drawn street scenes")
    add(
        "--scale", type=float, default=1.0, help="factor of the sizes of the images, from 97x131 on"
    )
    add("--requests", type=int, default=2000, help="number of requests")
    add("--concurrency", type=int, default=16, help="number of requests at a time")
    add("--bad_share", type=float, default=0.1, help="share of malformed requests")
    add("--backend", default="auto", help="backend of the service")
    add("--threads", type=int, default=2, help="threads of the network")
    add("--streams", type=int, default=0, help="--streams of the service")
    add("--max_batch", type=int, help="--max_batch of the service")
    add("--max_wait_ms", type=float, default=5.0, help="--max_wait_ms of the service")
    add("--seed", type=int, default=0, help="seed of the order of the requests")
    return parser


def run(args: argparse.Namespace) -> list[str]:
    """Run the test; print and return what was wrong."""
    rng = random.Random(args.seed)
    good = list(good_requests(args))
    bad = [*bad_requests(), *attacks(args.seed)]
    num_bad = round(args.requests * args.bad_share)
    plan = [bad[index % len(bad)] for index in range(num_bad)]
    plan += [good[index % len(good)] for index in range(args.requests - num_bad)]
    rng.shuffle(plan)
    with running_service(args) as (process, url), MemoryWatch(process.pid) as memory:
        start = time.monotonic()
        answers, problems = asyncio.run(send_all(url, plan, args.concurrency))
        seconds = time.monotonic() - start
        figures = httpx.get(f"{url}/metrics").text
    problems += [f"{item.kind}: {item.problem}" for item in answers if item.problem]
    problems += wrong_counts(answers, figures)
    print(report(answers, seconds, figures))
    middle, last = memory.thirds()
    print(
        f"resident memory of the service: {middle:.0f} MiB in the middle third, {last:.0f} MiB in "
        f"the last; {memory.samples[0]:.0f} MiB at the start, {max(memory.samples):.0f} at most"
    )
    if last - middle > max(MAX_GROWTH * middle, MAX_GROWTH_MIB):
        problems.append(f"memory grew from {middle:.0f} to {last:.0f} MiB")
    if process.returncode != 0:
        problems.append(f"the service ended with status {process.returncode}")
    for problem, count in Counter(problems).most_common(20):
        print(f"WRONG ({count}x): {problem}")
    print("passed" if not problems else f"failed: {len(problems)} problems")
    return problems


@contextmanager
def running_service(args: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the service, yield its process and address when it is ready, and stop it."""
    flags = {
        "--config": args.config,
        "--backend": args.backend,
        "--threads": args.threads,
        "--streams": args.streams,
        "--max_wait_ms": args.max_wait_ms,
        "--max_bytes": MAX_BYTES,
        "--port": 0,
    } | ({"--max_batch": args.max_batch} if args.max_batch else {})
    command = [str(part) for pair in flags.items() for part in pair]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *command], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        for line in process.stdout:
            print(line, end="")
            if found := re.search(r"listening on (\S+)", line):
                break
        else:
            raise UserError("the service did not start; see above.")
        while httpx.get(f"{found[1]}/health").status_code != 200:
            time.sleep(0.1)
        yield process, found[1]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def good_requests(args: argparse.Namespace) -> Iterator[Sent]:
    """Yield images in each size and format, with the labels that a predictor of our own gives."""
    predictor = Predictor.from_export(args.config, "cpu", args.threads, backend=args.backend)
    if args.image_path:
        paths = [Path(image.path) for image in find_images(args.image_path)[: len(SIZES_HW)]]
        pictures = [decode_image(path, path.read_bytes()) for path in paths]
    else:
        pictures = [render_scene(seed, (360, 480))[0] for seed in range(3)]
    for index, (height, width) in enumerate(SIZES_HW * 2):
        picture = pictures[index % len(pictures)]
        height, width = (max(32, round(args.scale * side)) for side in (height, width))
        image = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        for format, kind in FORMATS.items():
            content = encoded(image, format)
            label = predictor(decode_image(Path("image"), content)).label
            name = f"{height}x{width} {format}"
            form = {"image": ("image", content, kind)}
            raw = {"content": content, "headers": {"Content-Type": kind}}
            yield Sent(f"{name} form", {"files": form}, label)
            yield Sent(f"{name} body", raw, label)
            masks = {"format": "json", "masks": "true"}
            yield Sent(f"{name} json", {**raw, "params": masks}, label)


def bad_requests() -> Iterator[Sent]:
    """Yield malformed requests, with the status that they are to get."""
    image = render_scene(9, (120, 160))[0]
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    frames = [Image.fromarray(np.roll(image, step, 0)) for step in (1, 2)]
    bodies: dict[str, tuple[bytes, int]] = {
        "text": (b"this is no image", 422),
        "empty": (b"", 400),
        "cut JPEG": (jpeg[: len(jpeg) // 2], 422),
        "cut PNG": (png[: len(png) // 2], 422),
        "GIF": (encoded(image, "GIF"), 422),
        "animation": (encoded(image, "PNG", save_all=True, append_images=frames), 422),
        "too many pixels": (encoded(np.zeros((2100, 2100), np.uint8), "PNG"), 413),
        "too many bytes": (bytes(MAX_BYTES + 100_000), 413),
        "too small": (encoded(image[:8, :8], "PNG"), 422),
        "random": (random.Random(1).randbytes(5000), 422),
    }
    for name, (content, status) in bodies.items():
        headers = {"Content-Type": "image/png"}
        yield Sent(name, {"content": content, "headers": headers}, status)
    yield Sent("no field", {"files": {"picture": png}}, 400)
    yield Sent("other type", {"content": png, "headers": {"Content-Type": "text/plain"}}, 415)
    yield Sent("wrong parameter", {"files": {"image": png}, "params": {"format": "gif"}}, 422)


def attacks(seed: int) -> Iterator[Sent]:
    """Yield files that are made to cost decoders time or memory, or to make them fail."""
    rng = random.Random(seed)
    image = render_scene(9, (120, 160))[0]
    files = {format: encoded(image, format) for format in (*FORMATS, "BMP", "TIFF")}
    for format, content in files.items():
        for index in range(4):  # bytes changed at random places, and a part left out
            damaged = bytearray(content)
            for _ in range(1 << 2 * index):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            start = rng.randrange(len(damaged))
            del damaged[start : start + rng.choice((0, 1, 1000))]
            yield attack(f"damaged {format}", bytes(damaged))
    text = PngInfo()
    text.add_text("comment", "a" * (1 << 22), zip=True)
    yield attack("PNG with a text of 4 MiB in 4 kB", encoded(image, "PNG", pnginfo=text))
    huge = b"IHDR" + struct.pack(">II", 1 << 30, 1 << 30) + files["PNG"][24:29]
    chunk = huge + struct.pack(">I", zlib.crc32(huge))
    yield attack("PNG of 2^60 pixels", files["PNG"][:12] + chunk + files["PNG"][33:])
    pages = [Image.fromarray(image[:8, :8])] * 500
    yield attack("TIFF of 500 pages", encoded(image, "TIFF", save_all=True, append_images=pages))
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    yield attack("array of 10^12 pixels", array, "application/x-npy")
    scans = files["JPEG"]
    table = scans[scans.index(b"\xff\xda") : -2]
    yield attack("JPEG of 200 scans", scans[:-2] + 200 * table + scans[-2:])


def attack(kind: str, content: bytes, media_type: str = "image/png") -> Sent:
    """Return a request that any answer but a fault is right for."""
    return Sent(kind, {"content": content, "headers": {"Content-Type": media_type}}, None)


def encoded(image: np.ndarray, format: str, **options: Any) -> bytes:
    """Return an image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


async def send_all(
    url: str, plan: Sequence[Sent], concurrency: int
) -> tuple[list[Answered], list[str]]:
    """Send all requests, so many at a time; return the answers, and where it was not healthy."""
    waiting, answers, problems = iter(plan), [], []
    limits = httpx.Limits(max_connections=concurrency + 1)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def send_some() -> None:
            for sent in waiting:
                answers.append(await send(client, sent))
                if len(answers) % 1000 == 0:
                    print(f"{len(answers)} answers", flush=True)

        async def watch() -> None:
            while True:
                for path in ("/health", "/ready"):
                    status = (await client.get(path)).status_code
                    problems.extend([f"{path}: status {status}"] if status != 200 else [])
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(send_some() for _ in range(concurrency)))
        watching.cancel()
    return answers, problems


def wrong_counts(answers: Sequence[Answered], figures: str) -> list[str]:
    """Return where the service's own counts of requests differ from the answers'."""
    pattern = r'_requests_total\{path="/predict",status="(\d+)"\} (\S+)'
    counted = {int(status): int(float(n)) for status, n in re.findall(pattern, figures)}
    received = Counter(item.status for item in answers)
    statuses = sorted(counted.keys() | received.keys())
    return [
        f"/metrics counts {counted.get(status, 0)} answers of status {status}, but there were "
        f"{received[status]}"
        for status in statuses
        if counted.get(status, 0) != received[status]
    ]


async def send(client: httpx.AsyncClient, sent: Sent) -> Answered:
    """Send a request and compare its answer."""
    start = time.monotonic()
    try:
        response = await client.post("/predict", **sent.arguments)
    except httpx.HTTPError as error:
        return Answered(sent.kind, 0, time.monotonic() - start, f"{type(error).__name__}", 1.0)
    seconds, status = time.monotonic() - start, response.status_code
    problem, agreement = "", 1.0
    if sent.expected is None:
        is_right = status < 500 or (status == 503 and "retry-after" in response.headers)
        problem = "" if is_right else f"status {status}: {response.text[:100]}"
    elif isinstance(sent.expected, int):
        is_right = status == sent.expected and list(response.json()) == ["error"]
        problem = "" if is_right else f"status {status}, expected {sent.expected}"
    elif status == 200:
        agreement = agreement_with(response, sent.expected)
        problem = "" if agreement >= MIN_AGREEMENT else f"only {agreement:.4%} of the labels"
    elif status != 503 or "retry-after" not in response.headers:
        problem = f"status {status}: {response.text[:100]}"
    return Answered(sent.kind, status, seconds, problem, agreement)


def agreement_with(response: httpx.Response, expected: np.ndarray) -> float:
    """Return the share of labels in an answer that are the expected ones."""
    if response.headers["content-type"] == "image/png":
        found = np.asarray(Image.open(io.BytesIO(response.content)))
        return float((found == expected).mean()) if found.shape == expected.shape else 0.0
    content = response.json()
    found = np.full(content["width"] * content["height"], 65535, np.uint16)
    for entry in content["classes"]:
        counts = entry["mask"]["counts"]
        found[np.repeat(np.arange(len(counts)) % 2 == 1, counts)] = entry["id"]
    label = found.reshape(content["width"], content["height"]).T
    return float((label == expected).mean()) if label.shape == expected.shape else 0.0


class MemoryWatch:
    """Samples a process's resident memory, in MiB, while it is entered."""

    def __init__(self, pid: int) -> None:
        self.status = Path(f"/proc/{pid}/status")
        self.samples: list[float] = []
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._has_ended.set()
        self._thread.join()

    def thirds(self) -> tuple[float, float]:
        """Return the mean of the middle third and of the last one."""
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        return float(np.mean(middle or last)), float(np.mean(last))

    def _watch(self) -> None:
        while True:
            if found := re.search(r"VmRSS:\s+(\d+) kB", self.status.read_text()):
                self.samples.append(int(found[1]) / 1024)
            if self._has_ended.wait(SAMPLE_S):
                return


def report(answers: Sequence[Answered], seconds: float, figures: str) -> str:
    """Return throughput, latency, statuses and the service's own figures."""
    good = [item for item in answers if item.status == 200]
    counts = ", ".join(f"{n} of {s}" for s, n in sorted(Counter(a.status for a in answers).items()))
    quantiles = np.quantile([item.seconds for item in good] or [0.0], [0.5, 0.9, 0.99, 1.0])
    times = "/".join(f"{1000 * value:.0f}" for value in quantiles)
    num_exact = sum(item.agreement == 1 for item in good)
    worst = min((item.agreement for item in good), default=1.0)

    cpu_s = float((re.findall(r"^process_cpu_seconds_total (\S+)$", figures, re.M) or [0])[0])
    names = ("upload", "decode", "queue", "network", "encode")
    means = {name: mean_of(figures, "step_seconds", f'{{step="{name}"}}') for name in names}
    steps = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in means.items())
    return "\n".join(
        [
            f"{len(answers)} requests in {seconds:.1f} s: {len(answers) / seconds:.1f} requests/s, "
            f"{len(good) / seconds:.1f} images/s",
            f"statuses: {counts}",
            f"latency of predictions, ms (50 %/90 %/99 %/longest): {times}",
            f"labels: {num_exact} of {len(good)} equal in every pixel, worst {worst:.4%} equal",
            f"means of the service, ms: {steps}; "
            f"batch of {mean_of(figures, 'batch_size'):.2f} images; processor time {cpu_s:.1f} s",
        ]
    )


def mean_of(figures: str, name: str, labels: str = "") -> float:
    """Return the mean of a histogram in Prometheus' text."""

    def value(part: str) -> float:
        line = re.escape(f"paddleseg_segformer_{name}_{part}{labels}")
        found = re.search(rf"^{line} (\S+)$", figures, re.MULTILINE)
        return float(found[1]) if found else 0.0

    return value("sum") / max(1.0, value("count"))


if __name__ == "__main__":
    sys.exit(main())
