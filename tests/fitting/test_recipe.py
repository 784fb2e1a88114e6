"""Recipes: every choice follows the data and the machine, and makes a config that loads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paddleseg_segformer.config.schema import config_from
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.fitting.fingerprint import Fingerprint
from paddleseg_segformer.fitting.options import MODELS, FitOptions
from paddleseg_segformer.fitting.recipe import (
    MIN_TIMED_ITERS,
    Recipe,
    Trial,
    plan_batch,
    plan_data,
    plan_length,
)
from paddleseg_segformer.fitting.start_weights import StartWeights
from paddleseg_segformer.yaml_files import parse_yaml

STREETS = Fingerprint(
    num_samples=400,
    num_looked_at=200,
    size_hw=(360, 480),
    mean=(0.4, 0.41, 0.42),
    std=(0.3, 0.31, 0.32),
    num_pixels=(900_000, 90_000, 10_000),
    num_images=(400, 390, 100),
    object_px=50.0,
)
CLASSES = ["road", "car", "sign"]
TRIAL = Trial(step_s=0.5, data_s=0.01, image_s=0.1)


def options(**changes):
    return FitOptions.of(".", **{"out": "/tmp/out", **changes})


def planned(
    data=STREETS, pretrained=None, device="cpu", classes=CLASSES, normalize=None, **changes
):
    base = {"type": "Dataset", "dataset_root": ".", "num_classes": 3, "classes": classes}
    sections = {
        "train_dataset": {**base, "mode": "train", "train_path": "train.txt"},
        "val_dataset": {**base, "mode": "val", "val_path": "val.txt"},
    }
    weights = StartWeights(pretrained, True, "--pretrained.", normalize)
    return plan_data(sections, data, options(**changes), weights, device)


def transforms(recipe, section="train_dataset"):
    return {item["type"]: item for item in recipe.content[section]["transforms"]}


def crop(recipe):
    return transforms(recipe)["RandomPaddingCrop"]["crop_size"]


def reasons(recipe):
    return "\n".join(map(str, recipe.choices))


def lengthened(recipe, trial=TRIAL, left_s=None, num_val=100, pretrained=None, **changes):
    recipe.content.setdefault("batch_size", 4)
    plan_length(recipe, STREETS, options(**changes), trial, left_s, num_val, pretrained)
    return recipe


@pytest.mark.parametrize(
    ("data", "device", "size", "expected"),
    [
        (STREETS, "cpu", None, 224),  # 4 x 50 px, to the next multiple of 32
        (replace(STREETS, object_px=200.0), "cpu", None, 256),  # the most on a CPU
        (replace(STREETS, object_px=200.0), "gpu", None, 352),  # within the image
        (replace(STREETS, object_px=5.0), "gpu", None, 128),  # some surroundings
        (replace(STREETS, size_hw=(50, 90)), "gpu", None, 32),
        (replace(STREETS, size_hw=(20, 90)), "gpu", None, 32),
        (STREETS, "cpu", 320, 320),
    ],
)
def test_crop_shows_objects_with_what_is_around_them(data, device, size, expected):
    recipe = planned(data, device=device, size=size)
    assert crop(recipe) == [expected, expected]
    assert f"crops of {expected}x{expected} px" in reasons(recipe)


def test_images_with_objects_larger_than_any_crop_are_shrunk_in_both_sets():
    recipe = planned(replace(STREETS, size_hw=(3000, 4000), object_px=1500.0))
    for section in ("train_dataset", "val_dataset"):
        first = recipe.content[section]["transforms"][0]
        assert first == {"type": "ResizeByShort", "short_size": 256}  # not below the crop
    assert crop(recipe) == [256, 256]
    small = planned(replace(STREETS, size_hw=(3000, 4000), object_px=300.0))
    assert small.content["val_dataset"]["transforms"][0]["short_size"] == 1280  # objects: 128 px
    assert "ResizeByShort" not in transforms(planned())


def test_large_images_are_evaluated_in_windows():
    recipe = planned(replace(STREETS, size_hw=(3000, 4000), object_px=30.0))
    assert recipe.content["test_config"] == {
        "is_slide": True,
        "crop_size": [1024, 1024],
        "stride": [768, 768],
    }
    assert "test_config" not in planned().content


def test_images_are_normalised_by_the_weights_constants_or_by_their_own():
    for section in ("train_dataset", "val_dataset"):
        own = transforms(planned(), section)["Normalize"]
        assert (own["mean"], own["std"]) == ([0.4, 0.41, 0.42], [0.3, 0.31, 0.32])
        theirs = transforms(planned(pretrained="mit_b0.pdparams"), section)["Normalize"]
        assert theirs["mean"] == [0.485, 0.456, 0.406]
    for constants in ({"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, {"mean": [0.7]}):
        known = Normalize(**constants)
        recipe = planned(pretrained="run/best_model", normalize=known)
        found = transforms(recipe)["Normalize"]
        assert (found["mean"], found["std"]) == (list(known.mean), list(known.std))
        assert "those of the start weights" in reasons(recipe)
    five = replace(STREETS, mean=(0.1,) * 5, std=(0.2,) * 5)
    recipe = planned(five, pretrained="mit_b0.pdparams")
    assert transforms(recipe)["Normalize"]["mean"] == [0.1] * 5
    assert "RandomDistort" not in transforms(recipe) and "5 channels" in reasons(recipe)


def test_mirroring_is_left_out_where_it_would_exchange_classes():
    assert "RandomHorizontalFlip" in transforms(planned())
    recipe = planned(classes=["left lung", "Right Lung", "bright"])
    assert "RandomHorizontalFlip" not in transforms(recipe)
    assert "exchange left lung, Right Lung." in reasons(recipe)


def test_rare_classes_count_more():
    weight = planned().content["loss"]["types"][0]["weight"]
    shares = np.array([0.9, 0.09, 0.01])
    np.testing.assert_allclose(weight, np.sqrt(0.09 / shares).clip(0.25, 4), atol=0.005)
    alike = planned(replace(STREETS, num_pixels=(500, 300, 200)))
    assert "weight" not in alike.content["loss"]["types"][0]
    absent = planned(replace(STREETS, num_pixels=(9_900, 100, 0)))
    assert absent.content["loss"]["types"][0]["weight"][2] == 1.0


def test_images_with_a_rare_class_are_drawn_more_often():
    recipe = planned(replace(STREETS, num_images=(400, 390, 30)))
    assert recipe.content["class_balanced_sampling"] == 0.5
    assert "sign occurs in 7.5% of the images" in reasons(recipe)
    assert "class_balanced_sampling" not in planned().content
    absent = planned(replace(STREETS, num_images=(400, 390, 0)))
    assert "class_balanced_sampling" not in absent.content


@pytest.mark.parametrize("model", MODELS)
def test_every_model_makes_a_config_that_loads_with_its_reasons(model, tmp_path):
    recipe = lengthened(planned(model=model))
    text = recipe.to_yaml("How to train it again.")
    config = config_from(parse_yaml(text, "test"), "test")
    assert config.to_dict() == recipe.config().to_dict()
    assert config.model["type"] in text and "pretrained" not in text.replace("--pretrained", "")
    comments = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    for choice in recipe.choices:
        assert " ".join(str(choice).split()) in " ".join(comments.split())
    backbone = config.model["backbone"]
    if "img_size" in backbone:
        assert [backbone["img_size"]] * 2 == config.test_config.crop_size == crop(recipe)


def test_modules_of_components_are_noted():
    recipe = planned(imports=["my_backbone"])
    assert recipe.config().needs_import == ["my_backbone"]


def test_model_of_a_config_is_taken(tmp_path):
    path = tmp_path / "own.yml"
    path.write_text("model: {type: SegFormer, embedding_dim: 8, num_classes: 7}\n")
    assert planned(model=str(path)).content["model"] == {"type": "SegFormer", "embedding_dim": 8}


def test_opts_replace_what_was_chosen():
    recipe = lengthened(planned(), iters=50)
    opts = ["lr_scheduler.learning_rate=0.25", "ema_decay=0.5"]
    config = config_from(parse_yaml(recipe.to_yaml("", opts), "test"), "test")
    assert config.lr_scheduler["learning_rate"] == 0.25 and config.ema_decay == 0.5
    assert recipe.config().ema_decay == 0.9 and planned().config(opts[:1])


def test_batch_is_cut_to_memory_and_made_up_for_by_accumulation():
    recipe = Recipe()
    plan_batch(recipe, 16, 100, False, 50.0)
    assert recipe.content == {"batch_size": 16}
    plan_batch(recipe, 16, 5, False, 50.0)
    assert recipe.content == {"batch_size": 5, "accumulation_steps": 4}
    assert "the memory at hand holds 5" in reasons(recipe)


@pytest.mark.parametrize(
    ("changes", "left_s", "expected"),
    [
        ({}, None, 10_000),  # 100 passes over 400 images
        ({"iters": 12}, None, 12),
        ({"epochs": 2.5}, None, 250),
        ({}, 3600.0, 6545),  # an hour, a tenth of the training for evaluations
        ({}, 60_000.0, 10_000),
        ({"minutes": 5.0}, 110.1, 200),
        ({"minutes": 2000.0}, 110_000.1, 200_000),  # as long as was asked for
        ({"minutes": 1.0}, -5.0, 20),  # too short: a little is done all the same
    ],
)
def test_length_follows_passes_time_or_what_is_asked_for(changes, left_s, expected):
    recipe = lengthened(planned(), left_s=left_s, **changes)
    assert recipe.content["iters"] == expected
    assert recipe.content["lr_scheduler"]["warmup_iters"] == min(max(expected // 10, 1), 1500)


def test_evaluations_take_a_tenth_of_the_time():
    assert lengthened(planned(), iters=1000).run["save_interval"] == 200  # 500 s, 10 s each
    assert lengthened(planned(), iters=100_000).run["save_interval"] == 5000  # 20 at most
    assert lengthened(planned(), iters=3).run["save_interval"] == 3  # one at least


def test_a_time_that_holds_too_few_steps_says_so():
    slow = TRIAL._replace(step_s=30.0)
    recipe = lengthened(planned(), trial=slow, left_s=60.0, minutes=1)
    assert recipe.content["iters"] == MIN_TIMED_ITERS
    assert "the least, for which --minutes 1 are too short here" in reasons(recipe)
    assert "leaves for training" in reasons(lengthened(planned(), left_s=60.0, minutes=1))


def test_pretrained_backbone_learns_slowly_and_its_head_fast():
    scratch, start = (
        lengthened(planned(pretrained=source), pretrained=source) for source in (None, "mit_b0")
    )
    rates = [item.content["lr_scheduler"]["learning_rate"] for item in (scratch, start)]
    assert rates == [1.0e-3, 1.0e-4]
    assert start.content["optimizer"]["custom_cfg"][0] == {"name": "linear_", "lr_mult": 10.0}
    segmenter = lengthened(planned(model="segmenter-small-mask"))
    assert "custom_cfg" not in segmenter.content["optimizer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "b7"}, "--model: found 'b7', expected a config (.yml) or a name. Known: b0, "),
        ({"model": "nowhere.yml"}, "config nowhere.yml: neither a file nor the name"),
        ({"out": "output/x"}, "--out output/x: lies in the data, of which it would be a part"),
        ({"minutes": 0}, "--minutes: found 0, expected a number above 0"),
        ({"minutes": 2, "epochs": 3}, "--minutes and --epochs each say how long to train"),
        ({"size": 100}, "--size: found 100, expected a multiple of 32 px"),
        ({"freeze": -1}, "--freeze: found -1, expected 0 or more stages"),
        ({"export": ["onxx"]}, "format: found 'onxx'. Did you mean 'onnx'?"),
        ({"opts": ["iters=5"]}, "--opts iters: say --iters"),
        ({"minuts": 2}, "fit: no option 'minuts'. Did you mean 'minutes'?"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(UserError) as error:
        options(**changes)
    assert message in str(error.value)


def test_data_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        FitOptions.of("nowhere")
