"""Aids of training in whole runs: exact when resumed, refused where they would do harm."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from small_runs import assert_equal_weights, train, weights
from test_distributed import launch, losses, train_arguments

from paddleseg_segformer.cli import main
from paddleseg_segformer.training.checkpoints import read_manifest, write_manifest

FROZEN = ("--freeze_stages", "2", "--opts")


def pretrained(folder) -> str:
    """Return the option that starts from weights that a run left."""
    assert train(folder, "first", "--iters", "1") == 0
    return f"model.pretrained={folder / 'first' / 'iter_1'}"


def test_frozen_stages_stay_as_pretrained_also_after_a_resume(folder):
    start = pretrained(folder)
    flags = ("--do_eval", "--save_interval", "2", "--use_ema", *FROZEN, start)
    assert train(folder, "whole", *flags, "optimizer.layer_decay=0.7") == 0
    assert train(folder, "parts", *flags, "optimizer.layer_decay=0.7") == 0
    for name in ("iter_4", "iter_6"):
        shutil.rmtree(folder / "parts" / name)
    resume = ("--resume_model", "auto", *flags)
    assert train(folder, "parts", *resume, "optimizer.layer_decay=0.7") == 0
    assert_equal_weights(folder, "whole", "parts", "iter_6")
    before, after = weights(folder, "first", "iter_1"), weights(folder, "whole", "iter_6")
    for name, value in after.items():
        if name.startswith("backbone.") and name.split(".")[1][-1] in "12":
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    for name in ("backbone.patch_embed3.proj.weight", "linear_pred.weight"):
        assert not np.array_equal(after[name], before[name])


def test_random_weights_are_not_held_fixed(folder, capsys):
    assert train(folder, "out", "--freeze_stages", "1") == 1
    assert "would start from random weights" in capsys.readouterr().err


@pytest.mark.parametrize("stages", ["-1", "5"])
def test_wrong_number_of_frozen_stages(folder, capsys, stages):
    assert train(folder, "out", "--freeze_stages", stages) == 1
    assert f"freeze_stages: found {stages}" in capsys.readouterr().err


MIXED = (
    "class_balanced_sampling=0.6",
    "train_dataset.transforms=[{type: RandomPaddingCrop, crop_size: [56, 40]}, "
    "{type: Mosaic, crop_size: [56, 40]}, {type: RareClassCrop, crop_size: [48, 32]}, "
    "{type: CopyPaste}, {type: CutMix}, {type: Normalize}]",
)


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_mixed_and_balanced_samples_are_the_same_after_a_resume(folder, num_workers):
    flags = ("--save_interval", "2", "--num_workers", num_workers, "--opts", *MIXED)
    assert train(folder, "whole", *flags) == 0
    assert train(folder, "parts", *flags) == 0
    for name in ("iter_4", "iter_6"):
        shutil.rmtree(folder / "parts" / name)
    assert train(folder, "parts", "--resume_model", "auto", *flags) == 0
    assert_equal_weights(folder, "whole", "parts", "iter_6")


def test_share_of_class_balanced_sampling_is_checked(folder, capsys):
    assert train(folder, "out", "--class_balanced_sampling", "1.5") == 1
    assert "class_balanced_sampling: found 1.5, expected a share" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["ram", "kept"])
def test_cache_changes_nothing(folder, place):
    where = place if place == "ram" else str(folder / place)
    flags = ("--num_workers", "2", "--iters", "8")
    assert train(folder, "plain", *flags) == 0
    assert train(folder, "cached", *flags, "--cache", where, "--cache_gib", "0.01") == 0
    assert_equal_weights(folder, "plain", "cached", "iter_8")
    assert place == "ram" or len(list((folder / place).rglob("*.sample"))) == 7


@pytest.mark.slow
def test_two_processes_train_as_one_with_every_aid(folder):
    aids = (
        "class_balanced_sampling=0.5",
        "train_dataset.transforms.0={type: RareClassCrop, crop_size: [48, 32]}",
        "train_dataset.transforms.1={type: CutMix}",
        "model.backbone.drop_path_rate=0.0",
        "model.dropout_rate=0.0",
        "optimizer={type: SGD, layer_decay: 0.8}",
        f"cache={folder / 'kept'}",
        pretrained(folder),
    )
    flags = ("--freeze_stages", "1", "--iters", "5")
    arguments = train_arguments(folder, "one", *flags, "--batch_size", "4", "--opts", *aids)
    assert main(arguments) == 0
    two = train_arguments(folder, "two", *flags, "--batch_size", "2", "--opts", *aids)
    status, output = launch(folder, 2, *two)
    assert status == 0, output
    np.testing.assert_allclose(losses(folder, "two"), losses(folder, "one"), rtol=1e-4)
    one, other = weights(folder, "one", "iter_5"), weights(folder, "two", "iter_5")
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_checkpoint_of_an_older_version_differs_in_no_key(folder, capsys):
    assert train(folder, "out", "--save_interval", "3") == 0
    checkpoint = folder / "out" / "iter_3"
    config = (checkpoint / "config.yml").read_text().splitlines(keepends=True)
    new = ("freeze_stages", "class_balanced_sampling", "cache_gib")
    old = [line for line in config if not line.startswith(new)]
    assert len(old) == len(config) - 3
    (checkpoint / "config.yml").write_text("".join(old))
    manifest = read_manifest(checkpoint)
    write_manifest(checkpoint, **{key: manifest[key] for key in ("iteration", "serial")})
    assert train(folder, "out", "--resume_model", str(checkpoint)) == 0
    assert "has changed since" not in capsys.readouterr().out
