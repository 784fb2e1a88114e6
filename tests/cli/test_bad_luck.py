"""Commands as processes where the machine is odd: two at once, no home, no locale, long names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_driver import JOBS, contents

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer"]
WRITE = "import sys, kill_driver; kill_driver.write_inputs(kill_driver.Path(sys.argv[1]))"


def environment(**changes: str) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "cli")))
    return {**os.environ, "PYTHONPATH": paths, **changes}


def start(*command: object, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options.setdefault("env", environment())
    return subprocess.Popen([*PROGRAM, *map(str, command)], **pipes, **options)


def run(*command: object, status: int = 0, **options) -> str:
    """Run a command to its end; return what it printed last."""
    output, errors = start(*command, **options).communicate(), None
    errors = output[1].decode("utf-8", "replace")
    assert "Traceback" not in errors, errors
    lines = (output[0].decode("utf-8", "replace") if status == 0 else errors).splitlines()
    assert lines and (status == 0) != lines[-1].startswith("error: "), errors
    return lines[-1]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Return a folder of a data set, a config, a model and its export."""
    folder = tmp_path_factory.mktemp("inputs")
    subprocess.run([sys.executable, "-c", WRITE, folder], env=environment(), check=True)
    run("export", "--model_path", folder / "model", "--save_dir", folder / "export", "--format",
        "onnx")  # fmt: skip
    return folder


@pytest.mark.parametrize("job", ["export", "convert", "predict", "report"])
def test_two_at_once_leave_one_whole_result(inputs, tmp_path, job):
    command, check, _ = JOBS[job]
    alone, out = tmp_path / "alone", tmp_path / "out"
    run(*command(inputs, alone))
    both = [start(*command(inputs, out)) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    statuses = [process.returncode for process in both]
    assert 0 in statuses
    for status, error in zip(statuses, errors, strict=True):
        last = error.splitlines()[-1] if error.strip() else ""
        assert status == 0 or (last.startswith("error: ") and "another" in last), error
        assert "Traceback" not in error
    check(out)
    assert contents(out) == contents(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]


def test_second_training_into_a_folder_is_told(inputs, tmp_path):
    command = ("train", "--config", inputs / "tiny.yml", "--save_dir", tmp_path / "run")
    both = [start(*command, "--iters", "40") for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    [error] = [e for e, process in zip(errors, both, strict=True) if process.returncode]
    assert "another run writes into this folder" in error or "an earlier run" in error
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) >= 4


@pytest.fixture
def umlauts(inputs, tmp_path) -> Path:
    """Return a copy of the data under other names than ASCII's."""
    folder = tmp_path / "données"
    shutil.copytree(inputs / "data", folder)
    for kind in ("images", "labels"):
        (folder / kind / "00.png").rename(folder / kind / "straße.png")
        (folder / kind / "01.png").rename(folder / kind / "道 路.png")
    names = sorted(path.name for path in (folder / "images").iterdir())
    lines = [f'"images/{name}" "labels/{name}"\n' for name in names]
    (folder / "all.txt").write_text("".join(lines), encoding="utf-8")
    text = (inputs / "tiny.yml").read_text().replace(str(inputs / "data"), str(folder))
    (tmp_path / "réglages.yml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_are_read_in_the_c_locale(inputs, umlauts, locale):
    c = environment(LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    out = umlauts / "résultats"
    export = ("--config", inputs / "export", "--backend", "onnxruntime")
    for source in ("images", "all.txt"):
        run("infer", *export, "--image_path", umlauts / "données" / source, "--save_dir", out,
            env=c)  # fmt: skip
        found = {path.name for path in (out / "pseudo_color_prediction").rglob("*.png")}
        assert {"straße.png", "道 路.png"} <= found and len(found) == 12
        shutil.rmtree(out)
    config = ("--config", umlauts / "réglages.yml")
    run("train", *config, "--save_dir", umlauts / "essai", env=c)
    run("val", *config, "--model_path", umlauts / "essai" / "best_model", "--report",
        umlauts / "rapport", env=c)  # fmt: skip
    assert "straße" in (umlauts / "rapport" / "report.html").read_text("utf-8")
    message = run("infer", *export, "--image_path", umlauts / "où", status=1, env=c)
    assert message.endswith("où: no such file or folder (--image_path).")


NO_HOME = """
import os, pwd, runpy, sys
os.environ.pop("HOME", None)
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
sys.argv[0] = "paddleseg_segformer"
runpy.run_module("paddleseg_segformer", run_name="__main__")
"""


@pytest.mark.parametrize("home", ["unknown", "read-only"])
def test_no_home_folder_stops_downloads_alone(inputs, tmp_path, monkeypatch, home):
    options = {}
    if home == "unknown":  # a container that does not know the user it runs as
        monkeypatch.setitem(globals(), "PROGRAM", [sys.executable, "-W", "ignore", "-c", NO_HOME])
    else:
        mounted = tmp_path / "home"
        mounted.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(mounted)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        options["env"] = environment(HOME=str(mounted))
    try:
        images = ("--image_path", inputs / "data" / "images", "--save_dir", tmp_path / "out")
        run("infer", "--config", inputs / "export", *images, **options)
        run("list_models", **options)
        run("train", "--config", inputs / "tiny.yml", "--save_dir", tmp_path / "run", **options)
        assert "no such weight file" in run(
            "predict", "--model_path", "a/b", *images, status=1, **options
        )
        if home == "unknown":
            name = "nvidia/segformer-b0-finetuned-ade-512-512"
            told = run("predict", "--model_path", name, *images, status=1)
            assert told.endswith("Set PADDLESEG_SEGFORMER_HOME to a folder.")
    finally:
        if home != "unknown":
            subprocess.run(["umount", "-l", str(tmp_path / "home")], check=True)


def test_deleted_working_folder_is_one_line_or_does_not_matter(inputs, tmp_path):
    gone = tmp_path / "gone"
    images = ("--config", inputs / "export", "--image_path", inputs / "data" / "images")

    def infer(out: object, status: int = 0) -> str:
        gone.mkdir()
        code = f"import os, sys; os.rmdir({str(gone)!r}); os.execv(sys.argv[1], sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, *PROGRAM, "infer", *images, "--save_dir", str(out)],
            cwd=gone,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "error: the current folder has been deleted." in infer("out", 1)
    infer(tmp_path / "out")
    assert len(list((tmp_path / "out" / "pseudo_color_prediction").iterdir())) == 12


def test_folder_that_is_deleted_under_a_training_is_made_again(inputs, tmp_path):
    out = tmp_path / "run"
    command = ("train", "--config", inputs / "tiny.yml", "--save_dir", out, "--iters", "60")
    process = start(*command, "--log_iters", "1", "--save_interval", "30")
    assert process.stdout
    next(line for line in process.stdout if b"iter 5/" in line)
    shutil.rmtree(out)
    errors = process.communicate()[1].decode()
    assert process.returncode in (0, 1) and "Traceback" not in errors, errors
    if process.returncode:
        assert "error: " in errors.splitlines()[-1] and str(out) in errors
    else:
        assert (out / "iter_60" / "manifest.json").is_file()


def test_names_of_250_bytes_are_read_and_written(inputs, tmp_path):
    names = ["n" * 246, "道" * 82]
    data = tmp_path / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
        for path in sorted((inputs / "data" / kind).iterdir())[2:]:
            shutil.copy(path, data / kind)
        for index, name in enumerate(names):
            shutil.copy(inputs / "data" / kind / f"0{index}.png", data / kind / f"{name}.png")
    outputs = "label,overlay,confidence,polygons,side_by_side"
    run("infer", "--config", inputs / "export", "--image_path", data / "images", "--save_dir",
        tmp_path / "out", "--outputs", outputs)  # fmt: skip
    for folder in ("pseudo_color_prediction", "added_prediction", "confidence", "polygons"):
        found = {path.stem for path in (tmp_path / "out" / folder).iterdir()}
        assert found >= set(names), folder
    out = tmp_path / ("o" * 250)
    run("convert_dataset", data, "--out", out)
    assert len(list(out.iterdir())) >= 3
    run("convert_weights", inputs / "model", tmp_path / ("w" * 250), "--to", "hf")
    run("export", "--model_path", inputs / "model", "--save_dir", tmp_path / ("e" * 250))
    run("fit", data, "--model", inputs / "tiny.yml", "--iters", "2", "--out",
        tmp_path / ("f" * 250), "--export", "onnx")  # fmt: skip
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def read_only(inputs, tmp_path) -> Iterator[Path]:
    """Return the data on a file system that is mounted read-only."""
    folder = tmp_path / "data"
    shutil.copytree(inputs / "data", folder)
    shutil.make_archive(str(folder / "zipped"), "zip", inputs / "data")
    mounts = (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)])
    for mount in mounts:
        if os.geteuid() or subprocess.run(["mount", *mount], capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_data_that_cannot_be_written_to_are_read(inputs, read_only, tmp_path):
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "x").touch()
    text = (inputs / "tiny.yml").read_text().replace(str(inputs / "data"), str(read_only))
    (tmp_path / "tiny.yml").write_text(text)
    config = ("--config", tmp_path / "tiny.yml")
    run("train", *config, "--save_dir", tmp_path / "run", "--do_eval", "--opts",
        "class_balanced_sampling=0.5")  # fmt: skip
    run("val", *config, "--model_path", tmp_path / "run" / "best_model")
    run("check_dataset", *config)
    run("convert_dataset", read_only, "--out", tmp_path / "converted")
    images = ("--image_path", read_only / "images")
    run("infer", "--config", inputs / "export", *images, "--save_dir", tmp_path / "out")
    message = run("convert_dataset", read_only / "zipped.zip", "--out", tmp_path / "z", status=1)
    assert str(read_only) in message and ("not writable" in message or "Read-only" in message)
