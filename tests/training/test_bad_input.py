"""What a user can get wrong: one line naming the file or key, status 1, nothing left."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from paddle import nn
from small_runs import train

from paddleseg_segformer.cli import main
from paddleseg_segformer.components import register_component
from paddleseg_segformer.files import locked, make_folder

pytestmark = pytest.mark.check


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a job that must fail; return its one line."""
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    return lines[0]


@pytest.fixture
def train_fails(folder, capsys):
    """Train on the tiny data set with more flags; check that nothing but the log is left."""

    def run(*flags: str) -> str:
        arguments = [
            "train",
            "--config",
            str(folder / "tiny.yml"),
            "--save_dir",
            str(folder / "out"),
        ]
        line = fails(capsys, *arguments, "--do_eval", *flags)
        left = (
            {path.name for path in (folder / "out").rglob("*")}
            if (folder / "out").is_dir()
            else set()
        )
        assert left <= {"config.yml", "log.jsonl", "log.txt"}
        return line

    return run


def test_missing_data_folder(train_fails):
    line = train_fails("--opts", "train_dataset.dataset_root=/nowhere/streets")
    assert "/nowhere/streets: no such folder" in line


def test_config_without_train_dataset(train_fails):
    assert "no train_dataset, which training needs" in train_fails("--opts", "train_dataset=null")


def test_loss_without_gradient(train_fails, own_components):
    @register_component("loss")
    class Constant(nn.Layer):
        def __init__(self, ignore_index):
            super().__init__()

        def forward(self, logits, label):
            return logits.detach().mean()

    line = train_fails("--opts", "loss={types: [{type: Constant}], coef: [1]}")
    assert line == "error: the loss has no gradient: nothing would be trained. Choose another."


def test_missing_cityscapes_says_what_is_expected_and_how_to_get_it(capsys, tmp_path):
    config = "segformer_b2_cityscapes_1024x1024_160k"
    line = fails(
        capsys,
        *("train", "--config", config, "--save_dir", str(tmp_path / "out")),
        *("--opts", f"train_dataset.dataset_root={tmp_path / 'cityscapes'}"),
    )
    assert str(tmp_path / "cityscapes") in line
    assert "leftImg8bit_trainvaltest" in line and "make_dataset" in line


def test_empty_list_file(folder, train_fails):
    (folder / "train.txt").write_text("")
    assert "train.txt" in train_fails()


def test_listed_file_that_is_missing(folder, train_fails):
    (folder / "train3_label.png").unlink()
    assert "train3_label.png" in train_fails()


def test_corrupt_jpeg(folder, train_fails):
    ok, content = cv2.imencode(".jpg", np.zeros((40, 56, 3), np.uint8))
    assert ok
    (folder / "broken.jpg").write_bytes(content.tobytes()[:60])
    (folder / "train.txt").write_text("broken.jpg train0_label.png\n")
    assert "broken.jpg" in train_fails()


def test_label_200_with_few_classes(folder, train_fails):
    label = cv2.imread(str(folder / "train0_label.png"), 0)
    label[5, 5] = 200
    cv2.imwrite(str(folder / "train0_label.png"), label)
    line = train_fails("--iters", "20")
    assert re.search(r"train0_label.png: found the class id 200, expected 0\.\.2", line)


def test_image_and_label_of_different_sizes(folder, train_fails):
    cv2.imwrite(str(folder / "train0_label.png"), np.zeros((20, 56), np.uint8))
    line = train_fails("--iters", "20")
    assert "train0.png" in line and "train0_label.png" in line


def test_colours_instead_of_class_ids(folder, train_fails):
    cv2.imwrite(str(folder / "train0_label.png"), np.full((40, 56, 3), 90, np.uint8))
    assert "train0_label.png" in train_fails("--iters", "20")


def test_wrong_num_classes(train_fails):
    line = train_fails("--opts", "model.num_classes=4")
    assert "model.num_classes is 4, but train_dataset (Dataset) has 3 classes" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=2", "unknown key 'batchsize'. Did you mean 'batch_size'?"),
        ("model.type=SegFormr", "unknown model type 'SegFormr'. Did you mean 'SegFormer"),
        ("model.backbone.type=MixVisionTransformer_B9", "Did you mean 'MixVisionTransformer_B"),
        (
            "model.embeding_dim=8",
            "SegFormer has no key 'embeding_dim'. Did you mean 'embedding_dim'?",
        ),
        ("train_dataset.transforms.0.crop_sise=[8, 8]", "Did you mean 'crop_size'?"),
        ("train_dataset.rot=x", "Dataset has no key 'rot'"),
        ("loss={types: [{type: CrossEntropy}], coef: [1]}", "Did you mean 'CrossEntropyLoss'?"),
        ("optimizer.weight_dacay=1", "Did you mean 'weight_decay'?"),
        ("lr_scheduler.powr=1", "Did you mean 'power'?"),
    ],
)
def test_unknown_key_or_component(train_fails, override, message):
    assert message in train_fails("--opts", override)


@pytest.mark.parametrize("job", ["val", "predict", "export"])
def test_checkpoint_of_another_variant(folder, capsys, job):
    config = str(folder / "tiny.yml")
    assert (
        main(["train", "--config", config, "--save_dir", str(folder / "run"), "--iters", "1"]) == 0
    )
    weights = str(folder / "run" / "iter_1" / "model.pdparams")
    flags = [
        "--config",
        config,
        "--model_path",
        weights,
        "--opts",
        "model.backbone.depths=[1,2,1,1]",
    ]
    if job == "predict":
        flags += ["--image_path", str(folder / "val0.png")]
    if job != "val":
        flags += ["--save_dir", str(folder / "result")]
    line = fails(capsys, job, *flags)
    assert weights in line and "depths [1, 1, 1, 1]" in line and "depths [1, 2, 1, 1]" in line
    assert not list((folder / "result").glob("*"))


def test_unwritable_output_folder(folder, capsys):
    line = fails(
        capsys, "train", "--config", str(folder / "tiny.yml"), "--save_dir", "/proc/nowhere/out"
    )
    assert "/proc/nowhere/out" in line and "Choose a folder" in line


def test_missing_config(capsys):
    assert "neither a file nor the name" in fails(capsys, "train", "--config", "nowhere.yml")


def test_second_run_into_one_folder_is_told(folder, capsys):
    with locked(make_folder(folder / "out")):
        assert train(folder, "out") == 1
        assert "another run writes into this folder" in capsys.readouterr().err
        assert not (folder / "out" / "log.jsonl").exists()
    assert train(folder, "out", "--iters", "1") == 0
