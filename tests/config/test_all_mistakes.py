"""All mistakes of a config are shown at once, each in a line with its key and remedy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_training
from paddleseg_segformer.errors import UserError, UserErrors

pytestmark = pytest.mark.check

WRONG = {
    "iterz: 3": "unknown key 'iterz'. Did you mean 'iters'?",
    "batch_size: two": "batch_size: found 'two', expected int.",
    "accumulation_steps: 0": "accumulation_steps: found 0, expected 1 or more.",
    "test_config: {crop_sise: [1, 1]}": "'test_config.crop_sise'. Did you mean 'crop_size'?",
    "optimizer: {type: Adamw}": "unknown optimizer type 'Adamw'. Did you mean 'AdamW'?",
    "lr_scheduler: {type: PolynomialDecay, powr: 1}": "no key 'powr'. Did you mean 'power'?",
    "hooks: [{type: Nope}, {strat: 1}]": "hooks.1: no `type`, expected the name of a component.",
    "loss: {types: [{type: CrossEntropyLoss, wieght: 1}], coef: [1, 2]}": (
        "found 1 types and 2 coef, expected one each",
        "loss.types.0: CrossEntropyLoss has no key 'wieght'. Did you mean 'weight'?",
    ),
    "model: {type: SegFormer, num_classes: 4, embed_dim: 3, backbone: "
    "{type: MixVisionTransformer_B0, in_channels: 3, depth: 3}}": (
        "model.num_classes is 4, but train_dataset (Dataset) has 3 classes. Make them equal.",
        "model.backbone.in_channels is 3, but train_dataset (Dataset) has 5 channels.",
        "model: SegFormer has no key 'embed_dim'.",
        "MixVisionTransformer_B0 has no key 'depth'. Did you mean 'depths'?",
    ),
    "train_dataset: {type: Dataset, mode: train, dataset_root: nowhere, train_path: a.txt, "
    "num_classes: 3, img_channels: 5, transforms: [{type: RandomPadingCrop}, "
    "{type: RandomPaddingCrop, crop_siz: 3, label_padding_value: 0}, {type: Normalize, mean: a}"
    "]}": (
        "train_dataset.transforms.0: unknown transform type 'RandomPadingCrop'. Did you mean",
        "transforms.1: label_padding_value is 0, but the data set's ignore_index is 255.",
        "transforms.1: RandomPaddingCrop has no key 'crop_siz'. Did you mean 'crop_size'?",
        "train_dataset.transforms.2 (Normalize): Normalize: mean is 'a'; expected a list of numb",
        "train_dataset (Dataset): nowhere: no such folder (dataset_root).",
    ),
    "val_dataset: {type: Dataset, mode: val}": "val_dataset: Dataset needs dataset_root, num_cl",
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wrong.yml"
    path.write_text("\n".join(WRONG))
    return path


def test_train_shows_every_mistake_of_a_config(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(path), "--do_eval"]) == 1
    title, *lines = capsys.readouterr().err.splitlines()
    expected = [
        message
        for messages in WRONG.values()
        for message in ([messages] if isinstance(messages, str) else messages)
    ]
    assert title == f"error: wrong.yml: {len(expected)} mistakes:"
    for message in expected:
        assert sum(message in line for line in lines) == 1, message
    assert len(lines) == len(expected)


@pytest.mark.parametrize(
    ("job", "number"), [("val --model_path .", 10), ("export", 9), ("check_dataset", 11)]
)
def test_other_jobs_show_the_mistakes_of_what_they_need(
    path: Path, job: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*job.split(), "--config", str(path)]) == 1
    title, *lines = capsys.readouterr().err.splitlines()
    assert title == f"error: wrong.yml: {number} mistakes:"
    assert len(lines) == number


def test_mistakes_of_a_config_of_the_right_types_are_shown_at_once_too(path: Path) -> None:
    path.write_text(
        "model: {type: SegFormr}\noptimizer: {type: AdamW, beta3: 1}\n"
        "train_dataset: {type: Cityscapes, dataset_root: nowhere, transforms: []}"
    )
    with pytest.raises(UserErrors) as caught:
        build_training(load_config(path))
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "train_dataset (Cityscapes)", "optimizer", "model",
    ]  # fmt: skip


def test_mistakes_of_the_command_line_come_first_and_all_at_once(path: Path) -> None:
    opts = ["model.backbon.x=1", "iters", "optimizer=[1", "batch_size=2"]
    with pytest.raises(UserErrors) as caught:
        load_config(path, opts, check_parts=pytest.fail)
    assert ["'backbon'" in item for item in caught.value.mistakes] == [True, False, False]
    with pytest.raises(UserErrors) as caught:
        load_config(path, ["iters=x", "ema=1"], check_parts=pytest.fail)
    assert sorted(caught.value.mistakes) == [
        "iters: found 'x', expected int.",
        "unknown key 'ema'. Did you mean 'ema_decay'?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"ba{i}tch_siz: 1\n" for i in range(4_000)),
        "train_dataset: {type: Cityscapes, dataset_root: x, transforms: ["
        + "{type: Normalizee}, " * 4_000
        + "]}",
        "optimizer: {type: AdamW, " + "".join(f"be{i}ta: 1, " for i in range(4_000)) + "}",
        "hooks: [" + "{a: 1}, " * 4_000 + "]",
    ],
    ids=["keys", "transforms", "arguments", "hooks"],
)
def test_there_is_an_end_to_what_is_shown_and_looked_at(path: Path, text: str) -> None:
    path.write_text(f"model: {{type: SegFormr}}\n{text}")
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        build_training(load_config(path))
    assert time.process_time() - start < 3
    assert len(str(caught.value)) < 30_000
