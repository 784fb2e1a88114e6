"""The service as a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.cli import main
from paddleseg_segformer.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "serving" / "serve.py"
FLAGS = ("--backend", "onnxruntime", "--device", "cpu", "--threads", "1", "--max_bytes", "2000000")


class Running:
    """A service's process, and its address once it listens."""

    def __init__(self, *flags: object, script: Path = SCRIPT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, flags), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"listening on (https?://127\.0\.0\.1:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
                break
        else:
            raise AssertionError("".join(self.lines))

    def wait_until_ready(self) -> None:
        for _ in range(300):
            if httpx.get(f"{self.url}/health").status_code == 200:
                return
            time.sleep(0.1)
        raise AssertionError("never ready")

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM; return the exit status and all that was printed."""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.lines) + rest


@pytest.fixture
def running(exported: Path) -> Iterator[Running]:
    service = Running("--config", exported / "deploy.yaml", *FLAGS, "--log_requests")
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.process.kill()
        service.process.wait()


def test_a_running_service_answers_refuses_and_ends_with_what_it_has_accepted(
    running: Running, exported: Path, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    content = encode(np.tile(scene, (4, 4, 1)))
    expected = Predictor.from_export(exported, "cpu", 1, backend="onnxruntime")(
        np.tile(scene, (4, 4, 1))
    )

    # a body that is too large is answered, though nothing of it was read
    too_large = httpx.post(f"{running.url}/predict", files={"image": bytes(8_000_000)})
    assert too_large.status_code == 413
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        )
        client.sendall(b"Content-Type: image/png\r\n\r\nzz\r\n")  # no length of a chunk
        assert client.recv(100).startswith(b"HTTP/1.1 400")

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert httpx.post(f"{running.url}/predict", content=b"--c", headers=form).status_code == 400

    def send(_: int) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return httpx.post(f"{running.url}/predict", content=content, headers=headers, timeout=60)

    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(send, index) for index in range(8)]
        while num_accepted(running.url) < 8:
            time.sleep(0.02)
        status, printed = running.stop()
        for answer in answers:
            response = answer.result()
            assert response.status_code == 200, response.text
            label = np.asarray(Image.open(io.BytesIO(response.content)))
            assert (label == expected.label).mean() > 0.9999
    assert status == 0, printed
    assert "labels of the fixture are the model's" in printed
    assert printed.count("POST /predict 200") == 8
    assert "Traceback" not in printed
    assert "boundary" not in printed  # what the parser of forms says of each bad one
    assert printed.rstrip().endswith("stopped")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health")


STUCK = """
import sys, time
from paddleseg_segformer.cli import main
from paddleseg_segformer.serving import service
real = service.decode_upload
def decode(content, *rest):
    if len(content) < 100:
        time.sleep(1000)
    return real(content, *rest)
service.decode_upload = decode
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_decoders_that_do_not_return_are_told_and_do_not_hold_the_end(
    exported: Path, tmp_path: Path, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    limits = ("--decode_threads", 2, "--timeout_s", 1.0, "--grace_s", 1.0)
    service = Running("--config", exported / "deploy.yaml", *FLAGS, *limits, script=script)
    try:
        service.wait_until_ready()
        headers = {"Content-Type": "image/png"}
        for _ in range(2):
            answer = httpx.post(f"{service.url}/predict", content=b"x", headers=headers, timeout=60)
            assert answer.status_code == 503
        time.sleep(1.1)
        for path in ("health", "ready"):
            answer = httpx.get(f"{service.url}/{path}")
            assert (answer.status_code, answer.json()) == (503, {"status": "stuck"})
        start = time.monotonic()
        status, printed = service.stop()
        assert status == 1 and time.monotonic() - start < 15, printed
    finally:
        service.process.kill()
        service.process.wait()


@pytest.mark.slow
def test_a_stopped_service_goes_on_with_what_it_was_asked(
    running: Running, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    """SIGSTOP for a while; STOP_S=60 for a minute."""
    stop_s = float(os.environ.get("STOP_S", "5"))
    content, headers = encode(scene), {"Content-Type": "image/png"}

    def send(_: int = 0) -> bytes:
        wait_s = 60 + stop_s
        answer = httpx.post(
            f"{running.url}/predict", content=content, headers=headers, timeout=wait_s
        )
        assert answer.status_code == 200, answer.text
        return answer.content

    expected = send()
    with ThreadPoolExecutor(4) as clients:
        running.process.send_signal(signal.SIGSTOP)
        answers = [clients.submit(send, index) for index in range(4)]
        time.sleep(stop_s)
        running.process.send_signal(signal.SIGCONT)
        assert all(answer.result() == expected for answer in answers)
    assert httpx.get(f"{running.url}/ready").status_code == 200
    assert running.stop()[0] == 0


@pytest.fixture
def certificate(tmp_path: Path) -> list[Path]:
    """Return the files of a certificate for 127.0.0.1 and of its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("makes its certificate with openssl")
    files = [tmp_path / "cert.pem", tmp_path / "key.pem"]
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


def test_tls_and_keys(
    exported: Path, scene: np.ndarray, encode: Callable[..., bytes], certificate: list[Path]
) -> None:
    keys = certificate[0].with_name("keys.txt")
    keys.write_text("0123456789abcdef\n\n")
    flags = ["--ssl_certfile", certificate[0], "--ssl_keyfile", certificate[1], "--api_keys", keys]
    service = Running("--config", exported, *FLAGS, *flags)
    try:
        assert service.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        with httpx.Client(base_url=service.url, verify=trust, timeout=60) as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.1)
            image = {"image": encode(scene)}
            assert client.post("/predict", files=image).status_code == 401
            headers = {"Authorization": "Bearer 0123456789abcdef"}
            answer = client.post("/predict", files=image, headers=headers)
            assert answer.status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{service.url}/ready")
        with pytest.raises(httpx.HTTPError):
            httpx.get(service.url.replace("https", "http") + "/ready")
        status, printed = service.stop()
    finally:
        service.process.kill()
        service.process.wait()
    assert status == 0, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--api_keys", "{folder}/none"], "cannot be read"),
        (["--api_keys", "{folder}/short"], "expected a key a line, of 16 or more"),
        (["--ssl_keyfile", "{folder}/short"], "--ssl_keyfile has no effect without"),
        (["--ssl_certfile", "{folder}/short"], "Expected PEM files of a certificate and its key"),
        (["--ssl_certfile", "{folder}/none"], "Expected PEM files of a certificate and its key"),
    ],
)
def test_wrong_keys_and_certificates_are_one_line(
    exported: Path, tmp_path: Path, flags: list[str], message: str, capsys
) -> None:
    (tmp_path / "short").write_text("secret")
    given = [flag.format(folder=tmp_path) for flag in flags]
    assert main(["serve", "--config", str(exported), *FLAGS[:6], *given, "--port", "0"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


FETCH = """async (bytes) => {
    const form = new FormData();
    form.append("image", new Blob([new Uint8Array(bytes)], {type: "image/png"}));
    const answer = await fetch("/predict?format=json", {method: "POST", body: form});
    return [answer.status, await answer.json()];
}"""


@pytest.mark.slow
def test_the_description_opens_in_a_browser_and_what_it_says_works_there(
    running: Running, scene: np.ndarray, encode: Callable[..., bytes]
) -> None:
    browser_path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if not browser_path:
        pytest.skip("needs chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{running.url}/openapi.json")
        description = json.loads(page.inner_text("pre"))
        status, answer = page.evaluate(FETCH, list(encode(scene)))
        browser.close()
    form = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert form["multipart/form-data"]["schema"]["required"] == ["image"]
    assert status == 200
    assert (answer["height"], answer["width"]) == scene.shape[:2]


def num_accepted(url: str) -> int:
    """Return the predictions that are in progress or answered."""
    text = httpx.get(f"{url}/metrics").text
    under_way = r"requests_in_flight (\d+)"
    answered = r'requests_total{path="/predict",status="200"} (\d+)'
    return sum(int(value) for name in (under_way, answered) for value in re.findall(name, text))


def test_mistakes_end_with_one_line_before_the_port_is_opened(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags, message in (
            (("--config", tmp_path), "no such file"),
            (("--config", exported, "--precision", "int8"), "Export it again"),
            (("--config", exported, "--max_batch", "0"), "--max_batch: found 0"),
            (("--config", exported, "--port", port), "cannot listen"),
            (("--config", exported, "--port", "70000"), "cannot listen"),
        ):
            assert main(["serve", *map(str, flags), "--device", "cpu", "--threads", "1"]) == 1
            error = capfd.readouterr().err.strip().splitlines()[-1]
            assert error.startswith("error: ") and message in error


def test_a_missing_package_is_one_line(exported: Path) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None; from paddleseg_segformer.cli import main; "
        f"sys.exit(main(['serve', '--config', {str(exported)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: fastapi is not installed. Run: pip install fastapi uvicorn python-multipart "
        "prometheus-client"
    )
