from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
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
def test_only_the_registry_imports_paddleseg() -> None:
    found = [
        path.relative_to(PACKAGE) for path in MODULES if "paddleseg" in imported_packages(path)
    ]
    assert found == [Path("registry.py")]


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
    expected = "paddle is not installed. Run: pip install 'paddlepaddle>=3.2,<3.4'"
    assert run_python(code).startswith(expected)


def test_missing_paddle_ends_a_job_with_one_line() -> None:
    code = """
import sys
sys.modules["paddle"] = None
sys.stderr = sys.stdout
from paddleseg_segformer.cli import main
print(main(["train", "--config", "segformer_b0_street_scenes_256x512"]))
"""
    message, status = run_python(code).splitlines()
    assert message.startswith("error: paddle is not installed. Run: pip install")
    assert status == "1"


@pytest.mark.check
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ImportError("libGL.so.1: cannot open shared object file"), "opencv-python-headless"),
        (ImportError("numpy.core.multiarray failed to import"), "numpy>=1.26,<2"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "opencv-python-headless"),
        (ModuleNotFoundError("No module named 'paddle.x'", name="paddle.x"), "paddlepaddle>=3.2"),
    ],
)
def test_failed_import_is_explained(error: ImportError, remedy: str) -> None:
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


@pytest.mark.check
def test_readme_maps_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    described = [path for path in MODULES if not path.name.startswith("__")]
    assert [path.name for path in described if f"{path.name} " not in readme] == []


@pytest.mark.slow
def test_wheel_installs_configs_that_are_found_by_name(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    source, wheels, target = (tmp_path / name for name in ("source", "wheels", "target"))
    for name in ("paddleseg_segformer", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source], check=True)
    (wheel,) = wheels.glob("*.whl")
    assert f"-{paddleseg_segformer.__version__}-" in wheel.name
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
from paddleseg_segformer.config import loading
path = loading.find_config("segformer_b0_street_scenes_256x512")
loading.load_yaml(path)
print(path)
"""
    configs = target / "paddleseg_segformer" / "configs"
    assert Path(run_python(code, folder=tmp_path)).parent == configs
    assert {path.name for path in configs.rglob("*.*")} == {
        path.name for path in (ROOT / "configs").rglob("*.*")
    }
    assert (target / "bin" / "paddleseg_segformer").is_file()
