"""Evaluation of written label maps: the same figures as with the network, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.weights import save_weights

CONFIG = """
model:
  type: SegFormer
  num_classes: 4
  embedding_dim: 8
  backbone: {{type: MixVisionTransformer, embed_dims: [8, 8, 8, 8], depths: [1, 1, 1, 1],
             num_heads: [1, 1, 1, 1]}}
val_dataset:
  type: Dataset
  dataset_root: {root}
  num_classes: 4
  mode: val
  val_path: {root}/val.txt
  transforms: [{{type: Normalize}}]
"""
LABELS = "pseudo_color_prediction"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a data set of five images in two folders, a model, val's figures and two shards."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(5):
        city = root / "images" / "val" / f"city{index % 2}"
        city.mkdir(parents=True, exist_ok=True)
        shape = (40 + index, 48)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(city / f"{index}.png")
        label = rng.choice([0, 1, 2, 255], shape).astype(np.uint8)
        Image.fromarray(label).save(root / f"{index}_label.png")
        lines.append(f"images/val/city{index % 2}/{index}.png {index}_label.png")
    (root / "val.txt").write_text("\n".join(lines))
    (root / "config.yml").write_text(CONFIG.format(root=root))
    paddle.seed(0)
    model = build_model(load_config(root / "config.yml"))
    save_weights(model, root / "model.pdparams")
    given = ["--config", str(root / "config.yml"), "--model_path", str(root / "model.pdparams")]
    files = ["--json", str(root / "val.json"), "--per_image_csv", str(root / "val.csv")]
    assert main(["val", *given, *files, "--device", "cpu"]) == 0
    for shard in range(2):
        (root / f"list{shard}.txt").write_text(
            "\n".join(line.split()[0].removeprefix("images/val/") for line in lines[shard::2])
        )
        images = ["--image_path", str(root / "images" / "val")]
        images += ["--file_list", str(root / f"list{shard}.txt")]
        out = ["--save_dir", str(root / f"shard{shard}"), "--device", "cpu"]
        assert main(["predict", *given, *images, *out]) == 0
    return root


def val(root: Path, *folders: Path, flags: tuple[str, ...] = ()) -> int:
    given = ["val", "--config", str(root / "config.yml"), *flags]
    return main([*given, "--predictions", *map(str, folders)])


@pytest.mark.check
def test_figures_are_vals_own_to_all_digits(folder, tmp_path):
    files = ("--json", str(tmp_path / "m.json"), "--per_image_csv", str(tmp_path / "m.csv"))
    assert val(folder, folder / "shard0", folder / "shard1", flags=files) == 0
    ours, theirs = (json.loads(p.read_text()) for p in (tmp_path / "m.json", folder / "val.json"))
    for report in (ours, theirs):
        for key in ("predictions", "model_path", "inference"):
            report.pop(key, None)
    assert ours == theirs
    assert 0 < ours["mIoU"] < 1
    assert (tmp_path / "m.csv").read_text() == (folder / "val.csv").read_text()


def test_paddle_is_not_imported(folder):
    code = (
        "import sys; sys.modules['paddle'] = None\n"
        "from paddleseg_segformer.cli import main\n"
        f"sys.exit(main(['val', '--config', r'{folder}/config.yml', '--predictions', "
        f"r'{folder}/shard0', r'{folder}/shard1']))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def shards(folder, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(folder / name, tmp_path / name)) for name in ("shard0", "shard1")]


def test_missing_files_are_refused(folder, shards, capsys):
    assert val(folder, shards[0]) == 1
    err = capsys.readouterr().err
    assert "city1/1.png: has no label map city1/1.png in" in err
    assert "(2 of 5 images have none)" in err


def test_a_file_in_two_folders_is_refused(folder, shards, capsys):
    shutil.copytree(shards[0], shards[1], dirs_exist_ok=True)
    assert val(folder, *shards) == 1
    assert "is of the same image. Keep the right one" in capsys.readouterr().err


def test_files_of_other_images_are_told(folder, shards, capsys):
    extra = shards[0] / LABELS / "city0" / "other.png"
    shutil.copy(shards[0] / LABELS / "city0" / "0.png", extra)
    assert val(folder, *shards) == 0
    assert f"1 label maps are of no image here: {extra}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((40, 48), 255, np.uint8), "found the id 255 (1920 pixels), expected 0 to 3"),
        (np.zeros((40, 40), np.uint8), "is 40x40 (height x width), but the label"),
        (np.full((40, 48, 3), (255, 0, 0), np.uint8), "the label is a colour image"),
    ],
)
def test_wrong_label_maps_are_refused(folder, shards, label, message, capsys):
    Image.fromarray(label).save(shards[0] / LABELS / "city0" / "0.png")
    assert val(folder, *shards) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--auc_roc", "True"), "--auc_roc has no effect with --predictions"),
        (("--is_slide",), "--is_slide has no effect with --predictions"),
    ],
)
def test_flags_that_need_a_network_are_refused(folder, flags, message, capsys):
    assert val(folder, folder / "shard0", flags=flags) == 1
    assert message in capsys.readouterr().err


def test_a_missing_folder_is_named(folder, capsys):
    assert val(folder, folder / "nothing") == 1
    assert f"{folder / 'nothing'}: no such folder (--predictions)" in capsys.readouterr().err
