"""Prediction of many images: resumed, shared by processes and by Ray's actors, in object stores."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer.cli import main, prediction_files, prediction_worker
from paddleseg_segformer.cli import predict as predict_job
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.weights import save_weights

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 8
  backbone: {type: MixVisionTransformer, embed_dims: [8, 8, 8, 8], depths: [1, 1, 1, 1],
             num_heads: [1, 1, 1, 1]}
val_dataset: {type: Dataset, num_classes: 3, transforms: [{type: Normalize}]}
"""
LABELS = "pseudo_color_prediction"
NUM_IMAGES = 6


def write_images(folder: Path, count: int) -> None:
    """Write images of 32x32 px, in two folders."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index % 2}" / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path, compress_level=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with images, a model folder, and the labels of a plain run."""
    root = tmp_path_factory.mktemp("batch")
    (root / "model").mkdir()
    (root / "model" / "config.yml").write_text(CONFIG)
    paddle.seed(0)
    save_weights(
        build_model(load_config(root / "model" / "config.yml")), root / "model" / "model.pdparams"
    )
    write_images(root / "images", NUM_IMAGES)
    assert predict(root, root / "plain") == 0
    return root


def flags_of(folder: Path, out: object, *flags: str) -> list[str]:
    command = ["--model_path", str(folder / "model"), "--image_path", str(folder / "images")]
    return [*command, "--save_dir", str(out), "--device", "cpu", "--outputs", "label", *flags]


def predict(folder: Path, out: object, *flags: str) -> int:
    return main(["predict", *flags_of(folder, out, *flags)])


def labels_in(out: Path) -> dict[str, bytes]:
    files = sorted((out / LABELS).rglob("[!.]*"))  # not what a killed process has half written
    return {str(p.relative_to(out)): p.read_bytes() for p in files if p.is_file()}


def times_in(out: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (out / LABELS).rglob("[!.]*.png")}


@pytest.mark.check
def test_resume_does_what_is_left_and_nothing_twice(folder, tmp_path):
    assert predict(folder, tmp_path) == 0
    times = times_in(tmp_path)
    assert len(times) == NUM_IMAGES
    lost = sorted(times)[::2]
    for path in lost:
        Path(path).unlink()
    assert predict(folder, tmp_path, "--resume") == 0
    assert labels_in(tmp_path) == labels_in(folder / "plain")
    now = times_in(tmp_path)
    assert {path for path in times if now[path] != times[path]} == set(lost)


@pytest.fixture(scope="module")
def exported(folder) -> Path:
    flags = ["--save_dir", str(folder / "export"), "--format", "onnx"]
    assert main(["export", "--model_path", str(folder / "model"), *flags]) == 0
    return folder / "export"


def infer(exported: Path, images: Path, out: Path, *flags: str) -> int:
    given = ["--config", str(exported), "--image_path", str(images), "--save_dir", str(out)]
    return main(["infer", *given, "--cpu_threads", "2", *flags])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_streams_write_the_same_files(exported, tmp_path, backend, capfd):
    images = tmp_path / "images"
    write_images(images, 24)
    (images / "0" / "00004.png").write_bytes(b"no image")
    (images / "1" / "00005.png").write_bytes(b"no image either")
    out = {}
    for streams in (1, 2):
        out[streams] = tmp_path / f"{streams}"
        flags = ["--backend", backend, "--streams", str(streams), "--benchmark"]
        flags += ["--outputs", "label,overlay"]
        assert infer(exported, images, out[streams], *flags) == 1
        captured = capfd.readouterr()
        assert captured.err.index("00004.png") < captured.err.index("00005.png")
        assert ("2 threads in 2 streams," in captured.out) == (streams == 2)
    assert len(labels_in(out[1])) == 22
    assert labels_in(out[1]) == labels_in(out[2])
    overlays = [sorted((path / "added_prediction").rglob("*.png")) for path in out.values()]
    assert [p.read_bytes() for p in overlays[0]] == [p.read_bytes() for p in overlays[1]]
    lists = [(path / "failed.csv").read_text() for path in out.values()]
    assert lists[0] == lists[1] and "00004.png" in lists[0] and "00005.png" in lists[0]


def test_large_pictures_after_streams_have_all_threads(exported, tmp_path, monkeypatch):
    write_images(tmp_path / "images", 9)
    found = []
    monkeypatch.setattr(prediction_files, "is_large", lambda path: path.stem == "00003")
    monkeypatch.setattr(
        prediction_worker, "predict_large", lambda predictor, image, files: found.append(predictor)
    )
    assert infer(exported, tmp_path / "images", tmp_path / "out", "--backend", "onnxruntime") == 0
    assert [predictor.pipeline.network.options.streams for predictor in found] == [1]
    assert len(labels_in(tmp_path / "out")) == 8


def test_streams_of_models_that_are_no_exports_are_refused(folder, tmp_path, capfd):
    assert predict(folder, tmp_path / "out", "--streams", "2") == 1
    assert "--streams has no effect without --export_dir" in capfd.readouterr().err


def test_resume_predicts_a_changed_image_again(folder, tmp_path):
    write_images(tmp_path / "images", 2)
    given = flags_of(folder, tmp_path / "out")
    given[3] = str(tmp_path / "images")
    assert main(["predict", *given]) == 0
    times = times_in(tmp_path / "out")
    changed = tmp_path / "images" / "1" / "00001.png"
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(changed)
    assert main(["predict", *given, "--resume"]) == 0
    now = times_in(tmp_path / "out")
    assert [Path(path).stem for path in times if now[path] != times[path]] == ["00001"]
    with Image.open(tmp_path / "out" / LABELS / "1" / "00001.png") as label:
        assert label.size == (48, 40)


def test_results_of_an_earlier_run_do_not_count_as_those_of_a_broken_one(folder, tmp_path):
    """Another model's label maps are there, and a run of this model was killed before its end."""
    other = tmp_path / "out"
    assert predict(folder, other, "--min_confidence", "0.99") == 0
    plain = labels_in(folder / "plain")
    assert labels_in(other) != plain
    worker = predict_job.Worker

    class Killed(worker):
        def __call__(self, images):
            yield from islice(super().__call__(images), 3)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_job, "Worker", Killed)
        assert predict(folder, other) == 130
    assert predict(folder, other, "--resume") == 0
    assert labels_in(other) == plain


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--min_confidence", "0.5"], "--resume: --min_confidence was 0.0, is 0.5. Give what"),
        (["--opts", "model.embedding_dim=16"], "--resume: config was"),
        (["--image_path", "{folder}/images/0"], "--resume: images was 6, checksum"),
    ],
)
def test_resume_of_another_run_is_refused(folder, tmp_path, flags, message, capsys):
    assert predict(folder, tmp_path) == 0
    given = [flag.format(folder=folder) for flag in flags]
    if given[0] == "--opts":
        paddle.seed(0)
        config = load_config(folder / "model" / "config.yml", given[1:])
        save_weights(build_model(config), tmp_path / "model.pdparams")
        record = json.loads((tmp_path / "predictions.json").read_text())
        capsys.readouterr()
        other = {**record, "config": "0"}
        (tmp_path / "predictions.json").write_text(json.dumps(other))
        given = []
    assert predict(folder, tmp_path, *given, "--resume") == 1
    assert message in capsys.readouterr().err


def test_resume_without_a_note_or_with_a_damaged_one_is_refused(folder, tmp_path, capsys):
    assert predict(folder, tmp_path) == 0
    note = tmp_path / "predictions.json"
    note.write_text("{")
    assert predict(folder, tmp_path, "--resume") == 1
    assert f"{note}: damaged. Leave --resume out" in capsys.readouterr().err
    note.unlink()
    assert predict(folder, tmp_path, "--resume") == 1
    assert "holds results, but not predictions.json" in capsys.readouterr().err


def test_failures_are_listed_and_tried_again(folder, tmp_path, capsys):
    write_images(tmp_path / "images", 3)
    bad = tmp_path / "images" / "0" / "00002.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    given = flags_of(folder, tmp_path / "out")
    given[3] = str(tmp_path / "images")
    assert main(["predict", *given]) == 1
    assert "1 of 3 images could not be predicted" in capsys.readouterr().err
    with open(tmp_path / "out" / "failed.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["image"] == str(bad)
    assert "cannot be decoded" in row["reason"]
    bad.write_bytes(good)
    assert main(["predict", *given, "--resume"]) == 0
    assert not (tmp_path / "out" / "failed.csv").exists()
    assert len(times_in(tmp_path / "out")) == 3


def test_processes_share_the_images_by_rank(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    for rank in range(4):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        before = set(times_in(tmp_path))
        assert predict(folder, tmp_path) == 0
        assert len(set(times_in(tmp_path)) - before) == len(range(rank, NUM_IMAGES, 4))
    assert labels_in(tmp_path) == labels_in(folder / "plain")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--actors", "0"], "--actors: found 0, expected 1 or more"),
        (["--ray_address", "auto"], "--ray_address has no effect without --actors"),
        (["--resume", "--outputs", "polygons"], "coco.json holds all images of one run"),
        (["--save_dir", "ftp://x/y"], "ftp://x/y: URLs are not fetched. Download it"),
        (["--save_dir", "memory://x/../y"], "expected memory://BUCKET/KEY without empty parts"),
        (["--image_path", "simplecache::s3://x/y"], "no such file or folder (--image_path)"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, flags, message, capsys):
    pytest.importorskip("fsspec")
    assert predict(folder, tmp_path, *flags) == 1
    assert message in capsys.readouterr().err


# object stores


@pytest.fixture
def memory():
    """Return an empty store in memory."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def fill(store, folder: Path, root: str) -> None:
    for path in (folder / "images").rglob("*.png"):
        name = path.relative_to(folder / "images").as_posix()
        store.pipe_file(f"{root}/images/{name}", path.read_bytes())


def stored_labels(store, root: str) -> dict[str, bytes]:
    found = store.find(f"{root}/{LABELS}")
    return {path.partition(f"{root}/")[2]: store.cat_file(path) for path in found}


def test_images_and_results_in_a_store(folder, memory):
    fill(memory, folder, "/bucket")
    memory.pipe_file("/bucket/images/notes.md", b"no image")
    flags = ["--image_path", "memory://bucket/images"]
    assert predict(folder, "memory://bucket/out", *flags) == 0
    assert stored_labels(memory, "bucket/out") == labels_in(folder / "plain")
    lost = memory.find(f"/bucket/out/{LABELS}")[2]
    memory.rm_file(lost)
    others = {path: memory.modified(path) for path in memory.find(f"/bucket/out/{LABELS}")}
    assert predict(folder, "memory://bucket/out", *flags, "--resume") == 0
    assert stored_labels(memory, "bucket/out") == labels_in(folder / "plain")
    assert {path: memory.modified(path) for path in others} == others


def test_lists_and_patterns_in_a_store(folder, memory, tmp_path):
    fill(memory, folder, "/bucket")
    lines = "images/0/00000.png\nmemory://bucket/images/1/00001.png label.png\n"
    memory.pipe_file("/bucket/list.txt", b"\xef\xbb\xbf" + lines.encode())
    plain = labels_in(folder / "plain")
    assert predict(folder, tmp_path / "a", "--image_path", "memory://bucket/list.txt") == 0
    names = {f"{LABELS}/images/0/00000.png", f"{LABELS}/images/1/00001.png"}
    assert set(labels_in(tmp_path / "a")) == names
    (tmp_path / "local.txt").write_text("0/00000.png")
    flags = ["--image_path", "memory://bucket/images", "--file_list", str(tmp_path / "local.txt")]
    assert predict(folder, tmp_path / "b", *flags) == 0
    name = f"{LABELS}/0/00000.png"
    assert labels_in(tmp_path / "b") == {name: plain[name]}
    assert predict(folder, tmp_path / "c", "--image_path", "memory://bucket/images/1/*.png") == 0
    assert labels_in(tmp_path / "c") == {
        name.replace("/1/", "/"): content for name, content in plain.items() if "/1/" in name
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("s3://other/secret.png", "is in the list, but not below memory://bucket"),
        ("../other/secret.png", "is in the list, but not below memory://bucket"),
        ("/etc/passwd", "1 of 1 images could not be predicted"),
        ("", "names no images"),
    ],
)
def test_a_list_in_a_store_names_no_other_places(folder, memory, tmp_path, lines, message, capsys):
    memory.pipe_file("/bucket/list.txt", lines.encode())
    assert predict(folder, tmp_path, "--image_path", "memory://bucket/list.txt") == 1
    assert message in capsys.readouterr().err


def test_a_store_that_lacks_an_image_says_so(folder, memory, tmp_path, capsys):
    memory.pipe_file("/bucket/list.txt", b"missing.png")
    memory.pipe_file("/bucket/empty/a.png", b"")
    assert predict(folder, tmp_path, "--image_path", "memory://bucket/list.txt") == 1
    assert "failed: memory://bucket/missing.png: no such file." in capsys.readouterr().err
    assert predict(folder, tmp_path, "--image_path", "memory://bucket/empty") == 1
    assert "memory://bucket/empty/a.png: the file is empty" in capsys.readouterr().err
    assert predict(folder, tmp_path, "--image_path", "memory://bucket/nothing") == 1
    assert "memory://bucket/nothing: no images there" in capsys.readouterr().err


@pytest.mark.slow
def test_s3_by_http(folder, tmp_path, monkeypatch, capsys):
    """Moto's server stands in for the store; address and keys come by the client's variables."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        fill(store, folder, "bucket")
        flags = ["--image_path", "s3://bucket/images"]
        assert predict(folder, "s3://bucket/out", *flags) == 0
        store.invalidate_cache()
        plain = labels_in(folder / "plain")
        assert stored_labels(store, "bucket/out") == plain
        store.rm_file(f"bucket/out/{LABELS}/0/00000.png")
        time.sleep(1.1)  # S3 counts whole seconds
        assert predict(folder, "s3://bucket/out", *flags, "--resume") == 0
        store.invalidate_cache()
        assert stored_labels(store, "bucket/out") == plain
        capsys.readouterr()
        assert predict(folder, "s3://none/out", *flags) == 1
        assert "s3://none/out: no such bucket, or no access to it" in capsys.readouterr().err
    finally:
        server.stop()


# several processes, and real kills


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment
    )


def processes_with(text: str) -> list[int]:
    """Return the processes whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def has_written(out: Path, count: int, process: subprocess.Popen[str]) -> bool:
    return len(times_in(out)) > count or process.poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_of_a_launch_loses_and_doubles_nothing(folder, tmp_path, rank):
    write_images(tmp_path / "images", 400)
    given = flags_of(folder, tmp_path / "out")
    given[3] = str(tmp_path / "images")
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(tmp_path / "log"), str(REPOSITORY / "tools" / "predict.py")]
    process = start([*command, *given, "--resume"])
    wait_for(partial(has_written, tmp_path / "out", 60, process))
    workers = [
        pid
        for pid in processes_with(f"tools/predict.py --model_path {folder}")
        if f"PADDLE_TRAINER_ID={rank}" in Path(f"/proc/{pid}/environ").read_text()
    ]
    [worker] = [pid for pid in workers if pid != process.pid]
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    times = times_in(tmp_path / "out")
    assert 60 < len(times) < 400
    process = start([*command, *given, "--resume"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    now = times_in(tmp_path / "out")
    assert len(now) == 400
    assert {path: now[path] for path in times} == times
    assert main(["predict", *given[:5], str(tmp_path / "plain"), *given[6:]]) == 0
    assert labels_in(tmp_path / "out") == labels_in(tmp_path / "plain")


@pytest.fixture
def ray_folder(tmp_path_factory) -> str:
    """Return the environment of a Ray of our own; its sockets need a short path."""
    pytest.importorskip("ray.data")
    return str(tmp_path_factory.mktemp("r"))


@pytest.mark.slow
def test_killed_actors_of_ray_lose_and_double_nothing(folder, tmp_path, ray_folder):
    """2,000 images; one of two actors is killed seven times; two images are damaged."""
    number = 2000
    write_images(tmp_path / "images", number)
    for index in (3, 4):
        (tmp_path / "images" / str(index % 2) / f"{index:05}.png").write_bytes(b"\x89PNG damaged")
    given = flags_of(folder, tmp_path / "out")
    given[3] = str(tmp_path / "images")
    command = [sys.executable, str(REPOSITORY / "tools" / "predict.py"), *given, "--actors", "2"]
    log = tmp_path / "log.txt"  # a pipe that nobody reads would stop the run
    process = start(
        ["sh", "-c", 'exec "$@" > "$0" 2>&1', str(log), *command], RAY_TMPDIR=ray_folder
    )
    rng, killed = random.Random(0), []
    for number_done in range(250, 1751, 250):
        wait_for(partial(has_written, tmp_path / "out", number_done, process))
        actors = [pid for pid in processes_with("ray::MapWorker") if pid not in killed]
        assert process.poll() is None
        killed.append(rng.choice(actors))
        os.kill(killed[-1], signal.SIGKILL)
    process.wait(600)
    output = log.read_text()
    print(output)
    assert process.returncode == 1  # two images failed
    assert f"2 of {number} images could not be predicted" in output
    assert output.count("failed: ") == 2
    with open(tmp_path / "out" / "failed.csv", newline="") as file:
        failed = {Path(row["image"]).stem for row in csv.DictReader(file)}
    assert failed == {"00003", "00004"}
    assert f"{number - 2} images written to" in output
    counts = [line.split(": ")[1].split()[0] for line in output.splitlines() if "images/s" in line]
    assert sum(map(int, counts)) == number
    assert main(["predict", *given[:5], str(tmp_path / "plain"), *given[6:]]) == 1
    assert labels_in(tmp_path / "out") == labels_in(tmp_path / "plain")


@pytest.mark.slow
def test_an_image_that_ends_its_process_costs_no_other(folder, tmp_path, ray_folder, capsys):
    module = tmp_path / "my_poison.py"
    module.write_text(
        "import os\n"
        "from paddleseg_segformer.predictor import Predictor\n"
        "read = Predictor.read\n"
        "def poisoned(self, path):\n"
        "    if '00003' in str(path):\n"
        "        os._exit(3)\n"
        "    return read(self, path)\n"
        "if 'ray' in __import__('sys').modules:\n"
        "    Predictor.read = poisoned\n"
    )
    given = flags_of(folder, tmp_path / "out", "--actors", "2", "--import", str(module))
    command = [sys.executable, str(REPOSITORY / "tools" / "predict.py"), *given]
    process = start(command, RAY_TMPDIR=ray_folder)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert "00003.png: its process ended 3 times" in output
    plain = labels_in(folder / "plain")
    assert labels_in(tmp_path / "out") == {k: v for k, v in plain.items() if "00003" not in k}


@pytest.mark.slow
def test_mistakes_reach_the_user_from_ray_as_one_line(folder, tmp_path, ray_folder):
    given = flags_of(folder, tmp_path / "out", "--actors", "2", "--opts", "model.nothing=3")
    command = [sys.executable, str(REPOSITORY / "tools" / "predict.py"), *given]
    process = start(command, RAY_TMPDIR=ray_folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "SegFormer has no key 'nothing'" in output
    assert "Traceback" not in output


def test_without_ray_one_line_says_what_to_install(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert predict(folder, tmp_path, "--actors", "2") == 1
    assert "ray is not installed. Run: pip install 'ray[data]'" in capsys.readouterr().err
