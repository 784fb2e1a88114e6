from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from service_bench import Bench

from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.serving.app import make_app
from paddleseg_segformer.serving.batcher import Stopping
from paddleseg_segformer.serving.images import make_job
from paddleseg_segformer.serving.service import Service

Start = Callable[..., Any]


def label_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.content)))


def error_of(response: httpx.Response) -> str:
    content = response.json()
    assert list(content) == ["error"]
    message: str = content["error"]
    assert message and "\n" not in message
    return message


def files(scene: np.ndarray, encode: Callable[..., bytes]) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    alpha = np.full((*scene.shape[:2], 1), 7, np.uint8)
    array = io.BytesIO()
    np.save(array, scene)
    return {
        "a.png": encode(scene),
        "a.jpg": encode(scene, format="JPEG"),
        "turned.jpg": encode(scene, format="JPEG", exif=exif),
        "grey.png": encode(scene[:, :, 0]),
        "rgba.png": encode(np.dstack([scene, alpha])),
        "deep.png": encode(scene[:, :, 1].astype(np.uint16) * 257),
        "a.webp": encode(scene, format="WEBP"),
        "a.tif": encode(scene, format="TIFF"),
        "a.bmp": encode(scene, format="BMP"),
        "a.npy": array.getvalue(),
    }


def test_labels_are_those_of_the_predictor_for_every_kind_of_file(
    bench: Start, tmp_path: Path, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    served = bench()
    for name, content in files(scene, encode).items():
        (tmp_path / name).write_bytes(content)
        expected = served.predictor(str(tmp_path / name)).label
        found = label_of(served.post(content))
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert served.metric("requests_total", path="/predict", status="200") == 10
    assert served.metric("pixels_total") == 10 * scene[:, :, 0].size


def test_uploads_are_mapped_by_the_value_range(
    bench: Start, tmp_path: Path, scene: np.ndarray
) -> None:
    served = bench(value_range={"percentile": [2, 98]})
    rng = np.random.default_rng(0)
    image = (scene.astype(np.uint16) * (3, 9, 16) + rng.integers(0, 3, scene.shape)).astype("u2")
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    np.save(tmp_path / "a.npy", image)
    low, high = np.percentile(image, [2, 98], axis=(0, 1))
    mapped = np.clip((image - low) / (high - low), 0, 1)
    plain = Predictor(served.network, Preprocess(), InferenceSettings(window_batch=8))
    expected = plain((mapped * 255).astype(np.float32)).label
    assert len(np.unique(expected)) == 3
    for name in ("a.png", "a.npy"):
        found = label_of(served.post((tmp_path / name).read_bytes()))
        assert (found == expected).mean() > 0.999


def test_an_export_is_served_as_it_predicts(
    exported: Path, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    load = partial(Predictor.from_export, exported, "cpu", backend="paddle")
    service = Service(load)
    service.start()
    app = make_app(service)

    async def talk() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            form = {"image": ("ä.png", encode(scene), "image/png")}
            return [
                await client.post("/predict", files=form),
                await client.post("/predict?format=json&confidence=true", files=form),
                await client.get("/metadata"),
            ]

    service.batcher.checked.result(10)
    png, figures, metadata = asyncio.run(talk())
    expected = load()(scene)
    np.testing.assert_array_equal(label_of(png), expected.label)
    assert len(np.unique(expected.label)) > 1
    assert png.headers["x-engine"].startswith("Paddle Inference")
    assert all(step in png.headers["server-timing"] for step in ("decode", "queue", "network"))
    shares = {entry["id"]: entry["share"] for entry in figures.json()["classes"]}
    assert shares[0] == pytest.approx((expected.label == 0).mean(), abs=1e-6)
    assert figures.json()["confidence"] == pytest.approx(expected.confidence.mean(), abs=1e-4)
    about = metadata.json()
    assert [entry["name"] for entry in about["classes"]] == [f"class_{i}" for i in range(5)]
    assert about["model"]["artefact"] == "paddle"
    assert str(exported) not in metadata.text
    assert service.stop(10)


BAD_BODIES = {
    "text": (b"hello", 422, "cannot be decoded"),
    "empty": (b"", 400, "0 bytes"),
    "gif": (None, 422, "cannot be decoded"),
    "cut jpeg": (None, 422, "cut off"),
    "cut png": (None, 422, "cannot be decoded"),
    "animation": (None, 422, "animated, 3 frames"),
    "objects": (None, 422, "expected numbers"),
    "bomb": (None, 413, "the header claims very many px"),
    "array bomb": (None, 422, "the header claims"),
    "too many pixels": (None, 413, "expected at most 20000 px"),
    "too many bytes": (b"\xff\xd8" + bytes(200_000), 413, "more than 150000 bytes"),
    "too many bytes within": (None, 422, "the PNG inflates to more than its pixels"),
    "too many pages": (None, 422, "more than 1000 pages"),
}


def png_header(side: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return header + struct.pack(">I", zlib.crc32(header))


def one_page(index: int) -> bytes:
    """Return a page of one pixel of a TIFF, which names the next one."""
    tags = [(256, 1), (257, 1), (258, 8), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = 6 + len(entries)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 8 + (index + 1) * size)


def bad_bodies(scene: np.ndarray, encode: Callable[..., bytes]) -> dict[str, bytes]:
    frames = [Image.fromarray(np.roll(scene, step, 0)) for step in range(1, 3)]
    objects, claims = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    array = {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 20, 3)}
    np.lib.format.write_array_header_1_0(claims, array)
    png = encode(scene)
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + png[24:29]
    return {
        "gif": encode(scene, format="GIF"),
        "cut jpeg": encode(scene, format="JPEG")[:-300],
        "cut png": png[: len(png) // 2],
        "animation": encode(scene, save_all=True, append_images=frames),
        "objects": objects.getvalue(),
        "bomb": png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:],
        "array bomb": claims.getvalue(),
        "too many pixels": encode(np.zeros((200, 101, 3), np.uint8)),
        "too many bytes within": encode(np.zeros((9000, 9000), np.uint8), compress_level=9).replace(
            png_header(9000), png_header(30)
        ),
        "too many pages": b"II*\0" + struct.pack("<I", 8) + b"".join(map(one_page, range(1001))),
    }


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_bad_image_is_refused_with_one_line(
    kind: str, bench: Start, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    served = bench(max_pixels=20_000, max_bytes=150_000)
    content, status, message = BAD_BODIES[kind]  # a body of None is made below
    response = served.post(bad_bodies(scene, encode).get(kind, content))
    assert response.status_code == status
    assert message in error_of(response)
    assert "/" not in error_of(response).replace("image/*", "")  # no path
    assert served.network.batches == []
    assert served.metric("requests_in_flight") == 0


def test_a_body_without_a_length_is_bounded_while_it_is_read(bench: Start) -> None:
    served = bench(max_bytes=50_000)
    num_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_sent
        while num_sent < 100:
            num_sent += 1
            yield bytes(10_000)

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return await client.post("/predict", content=endless(), headers=headers)

    response = served.run(talk)
    assert response.status_code == 413
    assert num_sent < 10


def test_a_slow_upload_is_given_up(bench: Start) -> None:
    served = bench(upload_timeout_s=0.2)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return await client.post("/predict", content=trickle(), headers=headers)

    response = served.run(talk)
    assert (response.status_code, response.headers["connection"]) == (408, "close")
    assert "0.2 s" in error_of(response)
    assert served.metric("requests_in_flight") == 0


@pytest.mark.parametrize(
    ("headers", "content", "status", "message"),
    [
        ({"Content_Type": "text/html"}, b"x", 415, "found 'text/html'"),
        ({"Content_Type": ""}, b"x", 415, "found ''"),
        ({"Content_Encoding": "gzip"}, b"x", 415, "Content-Encoding"),
        ({"Content_Type": "multipart/form-data"}, b"x", 400, "boundary"),
        ({"Content_Type": "multipart/form-data; boundary=b"}, b"nonsense", 400, "form"),
        ({"Content_Type": "multipart/form-data; boundary=b"}, b"", 400, "fields: none"),
    ],
)
def test_a_body_of_another_kind_is_refused(
    headers: dict[str, str], content: bytes, status: int, message: str, bench: Start
) -> None:
    response = bench().post(content, **headers)
    assert response.status_code == status
    assert message in error_of(response)


def test_forms_without_exactly_one_image_are_refused(bench: Start) -> None:
    served = bench(max_bytes=1000)

    def send(**form: Any) -> httpx.Response:
        return served.run(lambda client: client.post("/predict", **form))

    for form, status, message in (
        ({"files": {"img": b"x"}}, 400, "fields: 'img'"),
        ({"files": {"x": b"x"}, "data": {"image": "text"}}, 400, "found 1 values"),
        ({"files": [("image", b"x"), ("image", b"y")]}, 400, "found 2 values"),
        ({"files": [("image", b"x")] * 9}, 400, "Too many files"),
        ({"files": {"image": b""}}, 400, "0 bytes"),
        ({"files": {"image": bytes(2000)}}, 413, "more than 1000 bytes"),
    ):
        response = send(**form)
        assert response.status_code == status, response.text
        assert message in error_of(response)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?format=gif", "format: Input should be 'png', 'overlay' or 'json', found 'gif'"),
        ("?fromat=png", "unknown parameter 'fromat'. Did you mean 'format'?"),
        ("?format=overlay&alpha=2", "alpha: Input should be less than or equal to 1"),
        ("?confidence=true", "confidence has no effect without format=json"),
        ("?format=json&masks=maybe", "masks: "),
    ],
)
def test_a_wrong_parameter_is_refused(
    query: str, message: str, bench: Start, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    response = bench().post(encode(scene), query)
    assert response.status_code == 422
    assert message in error_of(response)


def test_images_that_size_rules_would_blow_up_are_refused(
    bench: Start, encode: Callable[..., bytes]
) -> None:
    served = bench([{"type": "ResizeByShort", "short_size": 256}], max_pixels=1 << 20)
    strip = served.post(encode(np.zeros((2, 60_000, 3), np.uint8)))
    assert strip.status_code == 413
    assert "size rules make it" in error_of(strip)
    fine = served.post(encode(np.zeros((200, 300, 3), np.uint8)))
    assert label_of(fine).shape == (200, 300)


def test_images_of_a_size_that_wait_are_predicted_together(
    bench: Start, encode: Callable[..., bytes]
) -> None:
    served = bench(max_batch=4, max_pixels=5000)
    served.network.gate.clear()
    colours = np.eye(3, dtype=np.uint8) * 255
    sides = [32, 32, 40, 32, 32, 40, 32, 32, 60, 60]
    images = [np.full((side, 32, 3), colours[i % 3]) for i, side in enumerate(sides)]

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        def send(image: np.ndarray) -> asyncio.Task[httpx.Response]:
            headers = {"Content-Type": "image/png"}
            post = client.post("/predict", content=encode(image), headers=headers)
            return asyncio.ensure_future(post)

        tasks = [send(images[0])]
        await asyncio.to_thread(served.network.entered.wait, 10)
        for index, image in enumerate(images[1:], 1):  # in this order
            tasks.append(send(image))
            while served.service.batcher.num_waiting < index:
                await asyncio.sleep(0.005)
        assert served.metric("queue_length") == 9
        assert served.metric("requests_in_flight") == 10
        served.network.gate.set()
        return [await task for task in tasks]

    for index, response in enumerate(served.run(talk)):
        label = label_of(response)
        assert label.shape == (sides[index], 32)
        assert np.unique(label).tolist() == [index % 3]
    found = [(shape[2], shape[0]) for shape in served.network.batches]
    assert found == [(32, 1), (32, 4), (40, 2), (32, 1), (60, 2)]  # (height, images) of each
    assert served.metric("batch_size_count") == 5
    assert served.metric("batch_size_sum") == 10


def test_streams_predict_images_at_the_same_time(scene: np.ndarray) -> None:
    together = threading.Barrier(3)

    class Network:
        takes_numpy = True
        num_callers = 3

        def __call__(self, x: np.ndarray) -> np.ndarray:
            together.wait(20)
            return np.ascontiguousarray(x)

    service = Service(lambda: Predictor(Network(), Preprocess()))
    pipeline = service.start().pipeline
    images = [np.roll(scene, step, axis=2) for step in range(9)]
    submitted = [
        service.batcher.submit(make_job(pipeline, image, 1 << 22, False)) for image in images
    ]
    for image, future in zip(images, submitted, strict=True):
        outcome = future.result(20)
        np.testing.assert_array_equal(outcome.label, image.argmax(axis=2))
        assert outcome.batch_size == 1
    assert service.stop(20)
    with pytest.raises(Stopping):
        service.batcher.submit(make_job(pipeline, scene, 1 << 22, False))


def test_images_of_a_batch_do_not_exceed_the_pixels_together(
    bench: Start, encode: Callable[..., bytes]
) -> None:
    served = bench(max_batch=4, max_pixels=2 * 32 * 32)
    served.network.gate.clear()
    headers = {"Content-Type": "image/png"}
    content = encode(np.zeros((32, 32, 3), np.uint8))

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        posts = [client.post("/predict", content=content, headers=headers) for _ in range(6)]
        tasks = [asyncio.ensure_future(post) for post in posts]
        while served.metric("requests_in_flight") < 6 or not served.network.entered.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        served.network.gate.set()
        return [await task for task in tasks]

    for response in served.run(talk):
        label_of(response)
    assert max(shape[0] for shape in served.network.batches) == 2


def test_more_requests_than_fit_are_told_when_to_come_back(
    bench: Start, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    served = bench(max_queue=2)
    served.network.gate.clear()
    headers = {"Content-Type": "image/png"}

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        send = partial(client.post, "/predict", content=encode(scene), headers=headers)
        accepted = [asyncio.ensure_future(send()) for _ in range(2)]
        while served.metric("requests_in_flight") < 2:
            await asyncio.sleep(0.01)
        refused = await send()
        served.network.gate.set()
        return [refused, *[await task for task in accepted], await send()]

    refused, *answered = served.run(talk)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "2 requests are in progress" in error_of(refused)
    for response in answered:
        label_of(response)


def test_a_request_that_takes_too_long_ends_and_is_not_computed_later(
    bench: Start, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    served = bench(timeout_s=0.3, max_batch=1)
    served.network.gate.clear()
    headers = {"Content-Type": "image/png"}

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        send = partial(client.post, "/predict", content=encode(scene), headers=headers)
        return await asyncio.gather(send(), send())

    for response in served.run(talk):
        assert response.status_code == 503
        assert "no answer within 0.3 s" in error_of(response)
        assert "retry-after" in response.headers
    served.network.gate.set()
    label_of(served.post(encode(scene)))
    assert len(served.network.batches) == 2  # the first and the last; the second was given up


def test_requests_that_are_cut_off_are_told_so(
    bench: Start, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    served = bench(max_batch=1)
    served.network.gate.clear()
    headers = {"Content-Type": "image/png"}

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        posts = [client.post("/predict", content=encode(scene), headers=headers) for _ in range(2)]
        tasks = [asyncio.ensure_future(post) for post in posts]
        while served.service.batcher.num_waiting < 1 or not served.network.entered.is_set():
            await asyncio.sleep(0.01)
        served.service.begin_stop()
        assert served.service.cut() == 2
        return [await task for task in tasks]

    for response in served.run(talk):
        assert response.status_code == 503
        assert "being stopped" in error_of(response)
    assert served.metric("requests_in_flight") == 0


def test_an_image_that_fails_does_not_take_its_batch_with_it(
    bench: Start, encode: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    served = bench(max_batch=4)
    whole = served.predictor.pipeline.network

    def fails_on_dark(x: Any) -> Any:
        whole(x)
        if float(x.sum(axis=[1, 2, 3]).min()) == 0:
            raise RuntimeError("secret detail in /opt/engine")
        return whole(x)

    served.predictor.pipeline.network = fails_on_dark
    served.network.gate.clear()
    headers = {"Content-Type": "image/png"}

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        images = [np.full((32, 32, 3), value, np.uint8) for value in (9, 200, 0, 100)]
        posts = [client.post("/predict", content=encode(i), headers=headers) for i in images]
        tasks = [asyncio.ensure_future(post) for post in posts]
        await asyncio.to_thread(served.network.entered.wait, 10)
        while served.metric("requests_in_flight") < 4:
            await asyncio.sleep(0.01)
        served.network.gate.set()
        return [await task for task in tasks]

    responses = served.run(talk)
    assert [response.status_code for response in responses] == [200, 200, 500, 200]
    assert error_of(responses[2]) == "internal error; the log of the service says more."
    assert "secret detail" in caplog.text


def test_health_follows_the_check(encode: Callable[..., bytes], scene: np.ndarray) -> None:
    served = Bench()
    go = threading.Event()
    service = Service(lambda: served.predictor, lambda predictor: go.wait(10) and None)
    service.start()
    served.app = make_app(service)
    assert served.get("/health").status_code == 503
    assert served.get("/health").json() == {"status": "starting"}
    assert served.get("/health/live").status_code == 200
    refused = served.post(encode(scene))
    assert (refused.status_code, "starting" in error_of(refused)) == (503, True)
    go.set()
    service.batcher.checked.result(10)
    assert served.get("/health").json() == {"status": "ready"}
    label_of(served.post(encode(scene)))
    service.begin_stop()
    assert served.get("/health").json() == {"status": "stopping"}
    assert served.post(encode(scene)).status_code == 503
    assert service.stop(10)
    assert served.service.stop(10)


def test_a_failed_check_makes_the_service_fail() -> None:
    served = Bench()

    def wrong(predictor: Predictor) -> None:
        raise ValueError("wrong labels")

    service = Service(lambda: served.predictor, wrong)
    service.start()
    with pytest.raises(ValueError, match="wrong labels"):
        service.batcher.checked.result(10)
    served.app = make_app(service)
    assert served.get("/health/live").status_code == 503
    assert served.get("/health").json() == {"status": "failed"}
    assert served.service.stop(10)


def test_metrics_are_prometheus_text(
    bench: Start, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    served = bench()
    label_of(served.post(encode(scene)))
    served.get("/no/such/page")
    response = served.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {item.name: item for item in text_string_to_metric_families(response.text)}
    counts = {
        sample.labels["step"]: sample.value
        for sample in families["paddleseg_segformer_step_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts == dict.fromkeys(("upload", "decode", "queue", "network", "encode", "total"), 1.0)
    assert served.metric("requests_total", path="other", status="404") == 1
    assert "/no/such/page" not in response.text


def test_the_interface_is_described_and_loads_nothing_from_elsewhere(bench: Start) -> None:
    served = bench()
    described = served.get("/openapi.json").json()
    assert sorted(described["paths"]["/predict"]["post"]["requestBody"]["content"]) == [
        "image/*",
        "multipart/form-data",
    ]
    names = [item["name"] for item in described["paths"]["/predict"]["post"]["parameters"]]
    assert names == ["format", "alpha", "confidence", "masks"]
    assert "cdn" not in json.dumps(described)
    for path in ("/docs", "/redoc"):
        assert served.get(path).status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("localhost", 200),
        ("Segment.Example:80", 200),
        (socket.gethostname(), 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("[", 421),
    ],
)
def test_only_known_names_are_answered(bench: Start, host: str, status: int) -> None:
    service = bench(allowed_hosts=("segment.example",))
    answer = service.run(lambda client: client.get("/health/live", headers={"host": host}))
    assert answer.status_code == status
    if status != 200:
        assert "--allowed_hosts" in error_of(answer)


@pytest.mark.parametrize(
    ("origin", "allowed", "status"),
    [
        ("http://localhost", (), 200),
        ("http://evil.example", (), 403),
        ("http://127.0.0.1:9999", (), 403),
        ("null", (), 403),
        ("http://[", (), 403),
        ("https://page.example", ("page.example",), 200),
        ("http://evil.example", ("*",), 200),
    ],
)
def test_pages_of_other_sites_cannot_send_images(
    bench: Start,
    encode: Callable[..., bytes],
    scene: np.ndarray,
    origin: str,
    allowed: tuple[str, ...],
    status: int,
) -> None:
    answer = bench(allowed_hosts=allowed).post(encode(scene), origin=origin)
    assert answer.status_code == status


KEYS = ("0123456789abcdef", "a-second-key-for-rotation")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEYS[0]}"}, 200),
        ({"authorization": f"bearer {KEYS[1]}"}, 200),
        ({"x-api-key": KEYS[1]}, 200),
        ({}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Basic {KEYS[0]}"}, 401),
        ({"authorization": f"Bearer {KEYS[0][:-1]}"}, 401),
        ({"x-api-key": f"{KEYS[0]}\xe4"}, 401),
    ],
)
def test_requests_need_a_key_where_there_are_keys(
    bench: Start, encode: Callable[..., bytes], scene: np.ndarray, headers: dict, status: int
) -> None:
    service = bench(api_keys=KEYS)
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = service.post(encode(scene), **raw)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer KEY" in error_of(answer)
    for path in ("/metadata", "/metrics", "/openapi.json"):
        assert service.get(path).status_code == 401
    for path in ("/health", "/ready", "/health/live"):
        assert service.get(path).status_code == 200
