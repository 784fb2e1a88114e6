"""The files of docs/extending.md, and its commands, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.runtimes.deploy_config import DeployConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
MAX_LINES = 30
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[str, str, str]]:
    """Return language, file name and content of each code block."""
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_components: None) -> Path:
    """Return a folder with the page's files and data for them, which is the current one."""
    for _, name, content in blocks():
        if name:
            (tmp_path / name).write_text(content, encoding="utf-8")
    rng = np.random.default_rng(0)
    for mode in ("train", "val"):
        (tmp_path / "fields" / mode).mkdir(parents=True)
        for index in range(4):
            label = np.kron(rng.integers(0, 3, (9, 10)), np.ones((8, 8))).astype(np.uint8)
            label[:3] = 255
            image = (label[:, :, None] * 80 + rng.integers(0, 60, (72, 80, 3))).astype(np.uint8)
            path = tmp_path / "fields" / mode / f"{index}.npz"
            np.savez(path, image=image, label=label)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    """Return the page's commands without `python -m paddleseg_segformer`."""
    lines = [
        line for language, _, text in blocks() if language == "bash" for line in text.splitlines()
    ]
    return [shlex.split(line.removeprefix("python -m paddleseg_segformer ")) for line in lines]


def test_each_component_takes_at_most_30_lines() -> None:
    sizes = {
        name: len(text.splitlines()) for language, name, text in blocks() if language == "python"
    }
    assert {"my_backbone.py", "my_data.py", "my_loss.py", "my_hook.py"} <= set(sizes)
    assert all(size <= MAX_LINES for size in sizes.values()), sizes


def test_the_page_commands_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = commands()
    assert [job[0] for job in jobs] == ["check_dataset", "train", "val", "export"]
    for job in jobs:
        assert main([*job, *(["--seed", "1"] if job[0] == "train" else [])]) == 0, (
            capfd.readouterr()
        )
    text = capfd.readouterr().out
    assert "iter 2/2" in text and "soil" in text and "mIoU" in text
    assert load_config(folder / "output/best_model/config.yml").needs_import == ["my_parts"]
    deploy = DeployConfig.load(folder / "output/inference_model")
    assert set(deploy.artefacts) == {"paddle", "onnx"} and deploy.classes == [
        "soil",
        "crop",
        "weed",
    ]


def test_the_hook_of_the_page_ends_a_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hooks = "hooks=[{type: StopBelow, loss: 1000}]"
    job = ["train", "--config", "my_run.yml", "--import", "my_parts", "--import", "my_hook.py"]
    assert main([*job, "--opts", hooks, "iters=5", "--save_dir", "stopped"]) == 0
    assert (folder / "stopped" / "iter_1").is_dir()
    assert "stopped at iter 1" in capfd.readouterr().out
    resumed = ["--save_dir", "stopped", "--resume_model", "auto", "--opts", "iters=2"]
    assert main([*job[:-2], *resumed]) == 0
    assert (folder / "stopped" / "iter_2").is_dir()
