from __future__ import annotations

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import paddleseg_segformer
from paddleseg_segformer.dependencies import MissingDependency, explain

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "paddleseg_segformer"
MODULES = sorted(PACKAGE.rglob("*.py"))


def run_python(code: str, folder: Path = ROOT) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imported_packages(path: Path) -> set[str]:
    """Return the top-level names that a module imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.check
def test_version_has_three_numbers() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", paddleseg_segformer.__version__)


@pytest.mark.check
def test_importing_the_package_and_its_command_line_imports_nothing_heavy() -> None:
    heavy = {"paddle", "paddleseg", "cv2", "numpy", "visualdl"}
    code = f"import sys, paddleseg_segformer.cli; print({heavy} & set(sys.modules) or 'nothing')"
    assert run_python(code) == "nothing"


@pytest.mark.check
def test_one_module_imports_paddleseg() -> None:
    found = [
        path.relative_to(PACKAGE) for path in MODULES if "paddleseg" in imported_packages(path)
    ]
    assert found == [Path("paddleseg_components.py")]


def test_public_names_resolve_and_are_listed() -> None:
    for name in paddleseg_segformer.__all__:
        assert getattr(paddleseg_segformer, name).__name__ == name
    assert set(paddleseg_segformer.__all__) <= set(dir(paddleseg_segformer))
    with pytest.raises(AttributeError, match="no attribute 'SegFromer'"):
        _ = paddleseg_segformer.SegFromer


def test_missing_paddle_is_one_line_with_the_command_that_installs_it() -> None:
    code = """
import sys
sys.modules["paddle"] = None
try:
    from paddleseg_segformer import SegFormer
except ImportError as error:
    print(error)
"""
    message = run_python(code)
    assert message.startswith("paddle is not installed. Run: pip install 'paddlepaddle>=3.0,<3.4'")
    assert "paddlepaddle-gpu" in message
    assert "pip install onnxruntime" in message


def test_missing_paddle_where_it_has_no_build_says_which_pythons_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ModuleNotFoundError("No module named 'paddle'", name="paddle")
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert "use Python 3.10 to 3.13" in str(explain(error))
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "no build for Intel's Macs" in str(explain(error))


def test_missing_paddle_ends_a_job_with_one_line() -> None:
    code = """
import sys
sys.modules["paddle"] = None
sys.stderr = sys.stdout
from paddleseg_segformer.cli import main
print(main(["train", "--config", "segformer_b0_street_scenes_256x512"]))
"""
    *_, message, status = run_python(code).splitlines()
    assert message.startswith("error: paddle is not installed. Run: pip install")
    assert status == "1"


@pytest.mark.check
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            ImportError("libGL.so.1: cannot open shared object file"),
            "uninstall --yes opencv-python",
        ),
        (ImportError("numpy.core.multiarray failed to import"), "opencv-python-headless"),
        (
            AttributeError("module 'cv2.dnn' has no attribute 'DictValue'"),
            "opencv-python-headless",
        ),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "opencv-python-headless"),
        (ModuleNotFoundError("No module named 'paddle.x'", name="paddle.x"), "paddlepaddle>=3.0"),
        (ModuleNotFoundError("No module named 'paddleseg'", name="paddleseg"), "--no-deps"),
        (ModuleNotFoundError("No module named 'setuptools'", name="setuptools"), "Paddle imports"),
    ],
)
def test_failed_import_is_explained(error: Exception, remedy: str) -> None:
    explained = explain(error)
    assert isinstance(explained, MissingDependency)
    assert remedy in str(explained)
    assert "\n" not in str(explained)


def test_unknown_failed_import_stays_as_it_is() -> None:
    error = ImportError("cannot import name 'x' from 'paddleseg_segformer.models'")
    assert explain(error) is error


def test_every_folder_of_the_package_is_installed() -> None:
    folders = {path.parent for path in MODULES}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


PIP = (sys.executable, "-m", "pip", "--quiet")


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources."""
    source, wheels = folder / "source", folder / "wheels"
    for name in ("paddleseg_segformer", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run([*PIP, *built], check=True)
    (wheel,) = wheels.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as its wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel, target = build_wheel(folder), folder / "target"
    assert f"-{paddleseg_segformer.__version__}-" in wheel.name
    subprocess.run([*PIP, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


@pytest.mark.slow
def test_two_builds_of_the_wheel_are_equal_to_the_byte(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    wheels = [build_wheel(tmp_path / "one"), build_wheel(tmp_path / "two" / "deeper")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as file:
        assert {item.date_time[:3] for item in file.infolist()} == {(2023, 11, 14)}


def test_every_version_of_the_pages_packages_is_pinned() -> None:
    named = json.loads((ROOT / "deploy" / "web" / "package.json").read_text("utf-8"))
    locked = json.loads((ROOT / "deploy" / "web" / "package-lock.json").read_text("utf-8"))
    versions = {**named["dependencies"], **named["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    for name, package in locked["packages"].items():
        assert not name or package["integrity"].startswith("sha512-"), name
    for name, version in versions.items():
        assert locked["packages"][f"node_modules/{name}"]["version"] == version


@pytest.mark.slow
def test_wheel_holds_types_licence_and_every_config(installed: Path) -> None:
    package = installed / "paddleseg_segformer"
    assert (package / "py.typed").is_file()
    assert {path.name for path in (package / "configs").rglob("*.*")} == {
        path.name for path in (ROOT / "configs").rglob("*.*")
    }
    assert (installed / "bin" / "paddleseg_segformer").is_file()
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))


@pytest.mark.slow
def test_wheel_trains_evaluates_exports_and_infers_by_config_name(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.yml").write_text("_base_: segformer_b0_street_scenes_256x512\niters: 2\n")
    images = "output/street_scenes/leftImg8bit/val"

    def run(*arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "paddleseg_segformer", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    named = ["--config", "segformer_b0_street_scenes_256x512"]
    weights = ["--model_path", "output/run/iter_2/model.pdparams"]
    run("make_dataset", "--num_train", "4", "--num_val", "2")
    run("train", "--config", "own.yml", "--opts", "batch_size=2", "--save_dir", "output/run")
    run("val", *named, *weights)
    run("predict", *named, *weights, "--image_path", images)
    run("export", *named, *weights, "--save_dir", "output/export")
    run("infer", "--config", "output/export", "--image_path", images, "--save_dir", "labels")
    predicted, inferred = (
        sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
        for folder in (tmp_path / "output/result", tmp_path / "labels")
    )
    assert len(predicted) == 2
    assert inferred == predicted
