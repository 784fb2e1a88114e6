"""Taking up a run: the newest good checkpoint, what has changed since, the best model."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
from small_runs import assert_equal_weights, log, train, train_log, weights

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.checkpoints import (
    checkpoints,
    find_checkpoint,
    read_best,
    verify_manifest,
    write_manifest,
)

AUTO = ("--resume_model", "auto")


def test_auto_starts_afresh_where_there_is_nothing_and_says_so(folder, capsys):
    assert train(folder, "out", *AUTO, "--iters", "1") == 0
    assert "no good checkpoint in" in capsys.readouterr().out
    assert (folder / "out" / "iter_1").is_dir()


@pytest.mark.check
@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_auto_goes_on_bit_for_bit_with_augmentation_and_averages(folder, capsys, num_workers):
    distort = "train_dataset.transforms.1={type: RandomDistort, hue_prob: 0.9}"
    flags = ("--num_workers", num_workers, "--use_ema", "--do_eval", "--save_interval", "2")
    options = ("--opts", distort)
    assert train(folder, "whole", *flags, *options) == 0
    assert train(folder, "parts", *flags, *options) == 0
    shutil.rmtree(folder / "parts" / "iter_6")
    shutil.rmtree(folder / "parts" / "iter_4")
    assert train(folder, "parts", *flags, *AUTO, *options) == 0
    assert re.search(r"resumed from .*iter_2 at iter 2", capsys.readouterr().out)
    for checkpoint in ("iter_6", "best_model"):
        assert_equal_weights(folder, "whole", "parts", checkpoint)
    logs = [
        [
            {key: value for key, value in line.items() if "_s" not in key}
            for line in log(folder, out)
        ]
        for out in ("whole", "parts")
    ]
    assert logs[0] == logs[1]  # no line twice, none lost


def test_finished_run_is_not_written_again(folder):
    assert train(folder, "out") == 0
    before = (folder / "out" / "iter_6" / "manifest.json").stat().st_mtime_ns
    assert train(folder, "out", *AUTO) == 0
    assert (folder / "out" / "iter_6" / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("model.pdopt", lambda content: content[: len(content) // 2], "bytes, expected"),
        ("model.pdparams", lambda content: content[:-1] + b"?", "checksum is not the one"),
        ("config.yml", None, "no such file, but manifest.json lists it"),
        ("manifest.json", None, "or an incomplete copy"),
        ("manifest.json", lambda content: content[:10], "cannot be read"),
        ("manifest.json", lambda content: b"", "cannot be read"),
    ],
)
def test_auto_skips_a_damaged_checkpoint_and_says_what_is_wrong(folder, capsys, name, damage, said):
    assert train(folder, "out", "--save_interval", "3") == 0
    whole = weights(folder, "out", "iter_6")
    file = folder / "out" / "iter_6" / name
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
    assert train(folder, "out", "--save_interval", "3", *AUTO) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"iter_6 is damaged and was skipped: .*{name}.*{said}", printed)
    assert re.search(r"resumed from .*iter_3 at iter 3", printed)
    again = weights(folder, "out", "iter_6")
    assert all((whole[key] == again[key]).all() for key in whole)
    verify_manifest(folder / "out" / "iter_6")


def test_newest_is_the_last_saved_whatever_its_iteration_and_time(folder):
    flags = ("--save_interval", "2")
    assert train(folder, "out", *flags, "--iters", "8") == 0
    resume = ("--resume_model", str(folder / "out" / "iter_2"))
    assert train(folder, "out", *flags, *resume, "--iters", "4") == 0  # another branch
    names = [path.name for path in checkpoints(folder / "out")]
    assert names == ["iter_2", "iter_6", "iter_8", "iter_4"]
    for age_s, name in enumerate(names):  # clocks that were set back
        os.utime(folder / "out" / name, (1e9 - age_s, 1e9 - age_s))
    found = find_checkpoint("auto", folder / "out")
    assert found is not None and found.name == "iter_4"


def test_pruning_drops_damaged_ones_first_and_keeps_the_newest(folder):
    flags = ("--save_interval", "1", "--keep_checkpoint_max", "3")
    assert train(folder, "out", *flags, "--iters", "3") == 0
    (folder / "out" / "iter_3" / "manifest.json").unlink()
    assert train(folder, "out", *flags, *AUTO, "--iters", "4") == 0
    assert [path.name for path in checkpoints(folder / "out")] == ["iter_2", "iter_3", "iter_4"]


def test_new_run_does_not_mix_with_an_earlier_one(folder, capsys):
    assert train(folder, "out") == 0
    assert train(folder, "out") == 1
    error = capsys.readouterr().err
    assert "holds checkpoints of an earlier run (the newest: iter_6)" in error
    assert "--resume_model auto" in error


def test_leftovers_of_a_killed_run_are_cleared(folder, capsys):
    (folder / "out" / ".iter_9.part").mkdir(parents=True)
    assert train(folder, "out", "--iters", "1") == 0
    assert "removed .iter_9.part" in capsys.readouterr().out
    assert not list((folder / "out").glob(".*"))


def test_changed_keys_are_logged_old_to_new(folder, capsys):
    assert train(folder, "out", "--iters", "2") == 0
    flags = ("--opts", "lr_scheduler.learning_rate=0.02", "model.backbone.drop_path_rate=0.0")
    flags += ("model.backbone.use_recompute=True",)
    assert train(folder, "out", *AUTO, "--iters", "3", "--batch_size", "1", *flags) == 0
    printed = capsys.readouterr().out
    changes = re.findall(r"changed since the checkpoint: (.*)", printed)
    assert changes == [
        "model.backbone.drop_path_rate: 0.2 -> 0.0",
        "lr_scheduler.learning_rate: 0.01 -> 0.02",
        "batch_size: 2 -> 1",
        "iters: 2 -> 3",
        "model.backbone.use_recompute: (absent) -> True",
    ]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("optimizer.type=SGD", "optimizer.type: AdamW -> SGD"),
        (
            "model.backbone.num_heads=[2,2,5,8]",
            r"model.backbone.num_heads.0: \(absent\) -> 2",
        ),
    ],
)
def test_change_that_leaves_the_state_without_meaning_stops(folder, capsys, option, said):
    assert train(folder, "out", "--iters", "2") == 0
    options = ["--opts", option]
    if "SGD" in option:
        options.append("optimizer.weight_decay=0.0")
    assert train(folder, "out", *AUTO, "--iters", "3", *options) == 1
    assert re.search(rf"does not fit the changed config \(.*{said}", capsys.readouterr().err)


def test_resume_with_more_iterations_takes_the_new_schedule_from_the_first_step(folder):
    assert train(folder, "long", "--iters", "8") == 0
    assert train(folder, "short", "--iters", "4") == 0
    assert train(folder, "short", *AUTO, "--iters", "8") == 0
    rates = [[line["Train/lr"] for line in train_log(folder, out)][4:] for out in ("long", "short")]
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-12)


def test_averages_begin_with_the_checkpoints_weights_where_it_has_none(folder):
    assert train(folder, "out", "--iters", "4") == 0
    flags = ("--use_ema", "--do_eval", "--iters", "5", "--opts", "ema_decay=0.999999")
    before = weights(folder, "out", "iter_4")
    assert train(folder, "out", *AUTO, *flags) == 0
    averaged = weights(folder, "out", "best_model")
    key = "linear_pred.weight"  # the average moved by 1 - (1 + 5) / (10 + 5) of one step
    assert np.abs(averaged[key] - before[key]).max() < 0.02


def test_best_model_is_not_replaced_by_a_worse_one_after_going_back(folder, capsys):
    flags = ("--do_eval", "--save_interval", "1")
    assert train(folder, "out", *flags, "--iters", "3") == 0
    best = folder / "out" / "best_model"
    manifest = json.loads((best / "manifest.json").read_text())
    (best / "manifest.json").unlink()
    write_manifest(best, miou=0.99, iteration=manifest["iteration"])
    kept = (best / "model.pdparams").read_bytes()
    resume = ("--resume_model", str(folder / "out" / "iter_1"))
    assert train(folder, "out", *flags, *resume, "--iters", "5") == 0
    assert (best / "model.pdparams").read_bytes() == kept
    assert read_best(folder / "out").miou == 0.99
    (best / "model.pdparams").write_bytes(kept[:-5])  # a damaged one gives way
    assert train(folder, "out", *flags, *AUTO, "--iters", "6") == 0
    assert "best_model is damaged and will be replaced" in capsys.readouterr().out
    assert 0 <= read_best(folder / "out").miou < 0.99
    verify_manifest(best)


def test_manifest_of_a_folder_that_has_none(tmp_path):
    with pytest.raises(UserError, match="no such file, expected the list"):
        verify_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(UserError, match="found no `files`"):
        verify_manifest(tmp_path)


NOTICED = r"changed since the checkpoint \(then (\d) samples, \w+, now (\d) samples, \w+\): (.*?); "


def edit_list(folder, name, edit):
    path = folder / f"{name}.txt"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("train", lambda lines: lines[1:], ("7", "6", "1 gone (train0.png)")),
        (
            "train",
            lambda lines: [*lines, "val0.png val0_label.png\n"],
            ("7", "8", "1 added (val0.png)"),
        ),
        (
            "train",
            lambda lines: [lines[0].replace("train0.png", "other.png"), *lines[1:]],
            ("7", "7", "1 added (other.png), 1 gone (train0.png)"),
        ),
        (
            "train",
            lambda lines: [*lines[:2], *lines[:1:-1]],
            ("7", "7", "the same images, with other labels or in another order"),
        ),
        ("val", lambda lines: lines[1:], ("2", "1", "1 gone (val0.png)")),
        ("train", lambda lines: [], ("7", "3", "4 gone (train0.png, train1.png, train2.png, ...)")),
    ],
    ids=["removed", "added", "renamed", "reordered", "validation", "many"],
)
def test_changed_samples_are_noticed_and_named(folder, capsys, name, edit, said):
    shutil.copy(folder / "train0.png", folder / "other.png")
    assert train(folder, "out", "--iters", "1") == 0
    assert train(folder, "out", *AUTO, "--iters", "2") == 0
    assert "list of samples" not in capsys.readouterr().out
    edit_list(folder, name, (lambda lines: lines[4:]) if said[1] == "3" else edit)
    assert train(folder, "out", *AUTO, "--iters", "3") == 0
    assert re.search(rf"{name}_dataset: the list of samples", printed := capsys.readouterr().out)
    assert re.findall(NOTICED, printed) == [said]


def test_data_set_that_moved_is_the_same(folder, capsys):
    assert train(folder, "out", "--iters", "1") == 0
    shutil.copytree(folder, folder / "moved")
    config = (folder / "tiny.yml").read_text().replace(str(folder), str(folder / "moved"))
    (folder / "tiny.yml").write_text(config)
    assert train(folder, "out", *AUTO, "--iters", "2") == 0
    assert "list of samples" not in capsys.readouterr().out


def test_changed_class_list_is_named(folder, capsys):
    names = folder / "classes.txt"
    names.write_text("road\nsky\ntree\n")
    options = ("--opts", f"train_dataset.classes={names}", f"val_dataset.classes={names}")
    assert train(folder, "out", "--iters", "1", *options) == 0
    names.write_text("road\nwater\ntree\n")
    assert train(folder, "out", *AUTO, "--iters", "2", *options) == 0
    assert "train_dataset.classes.1: sky -> water" in capsys.readouterr().out
    names.write_text("road\nsky\ntree\ncar\n")
    more = ("train_dataset.num_classes=4", "val_dataset.num_classes=4", "model.num_classes=4")
    assert train(folder, "out", *AUTO, "--iters", "3", *options, *more) == 1
    assert "does not fit the changed config (model.num_classes: 3 -> 4)" in capsys.readouterr().err


def test_several_damaged_checkpoints_are_skipped_to_the_newest_good_one(folder, capsys):
    flags = ("--save_interval", "1", "--keep_checkpoint_max", "100")
    assert train(folder, "whole", *flags) == 0
    assert train(folder, "out", *flags) == 0
    out = folder / "out"
    (out / "iter_6" / "manifest.json").write_text("{}")
    (out / "iter_5" / "model.pdopt").write_bytes(b"")
    (out / "iter_4" / "model.pdparams").unlink()
    shutil.rmtree(out / "iter_3")
    (out / "iter_3").write_text("a file of this name")
    os.truncate(out / "iter_2" / "model.pdparams", 100)
    assert train(folder, "out", *flags, *AUTO) == 1  # a file is in the way of iter_3
    printed = capsys.readouterr()
    for name in ("iter_6", "iter_5", "iter_4", "iter_2"):
        assert f"{name} is damaged and was skipped" in printed.out
    assert re.search(r"resumed from .*iter_1 at iter 1", printed.out)
    assert "iter_3: expected a folder, found a file" in printed.err
    (out / "iter_3").unlink()
    assert train(folder, "out", *flags, *AUTO) == 0
    for number in range(1, 7):
        verify_manifest(out / f"iter_{number}")
    assert_equal_weights(folder, "whole", "out", "iter_6")
