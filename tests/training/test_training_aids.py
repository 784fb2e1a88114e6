"""Aids of training in whole runs: exact when resumed, refused where they would do harm."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from small_runs import assert_equal_weights, train, weights

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
