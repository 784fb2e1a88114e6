"""Counts beside the published ones, and the command line that prints them."""

from __future__ import annotations

import json

import paddle
import pytest

from paddleseg_segformer.analysis import latency
from paddleseg_segformer.analysis.complexity import (
    CLASSIFIERS,
    GMACS,
    PARAMETERS_M,
    activation_bytes,
    build_published,
    count_macs,
    count_parameters,
)
from paddleseg_segformer.cli import main
from paddleseg_segformer.models import BACKBONES, MixVisionTransformerClassifier, SegFormer

MIB = 2**20
pytestmark = pytest.mark.usefixtures("zero_weights")


@pytest.fixture(scope="module")
def models(drawn_as_zeros):
    built = {}

    def model(variant: str, num_classes: int, is_mm: bool = False):
        key = variant, num_classes, is_mm
        if key not in built:
            with drawn_as_zeros():
                built[key] = build_published(*key)
        return built[key]

    return model


@pytest.mark.parametrize(("setting", "gmacs"), GMACS.items())
def test_macs_equal_the_papers(models, setting, gmacs):
    variant, hw, num_classes = setting
    found = count_macs(models(variant, num_classes), hw, rewritten=False).total() / 1e9
    assert found == pytest.approx(gmacs, rel=0.006 if gmacs < 60 else 0.002)


@pytest.mark.parametrize(
    ("variant", "hw", "all_stages", "first_two"),
    [
        ("B0", (512, 512), 1.40, 1.25),
        ("B1", (1024, 1024), 1.71, 1.43),
        ("B1", (1024, 2048), 2.10, 1.65),
    ],
)
def test_merged_queries_save_work(drawn_as_zeros, variant, hw, all_stages, first_two):
    """Against a count by hand of the products with and without a quarter of the queries."""
    with drawn_as_zeros():
        whole, *merged = (
            SegFormer(19, BACKBONES[f"MixVisionTransformer_{variant}"](merge=merge), 256)
            for merge in ((1, 1, 1, 1), (2, 2, 2, 2), (2, 2, 1, 1))
        )
    for model, expected in zip(merged, (all_stages, first_two), strict=True):
        found = count_macs(whole, hw).total() / count_macs(model, hw).total()
        assert found == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("variant", "millions"), PARAMETERS_M.items())
def test_parameters_equal_the_papers(models, variant, millions):
    assert count_parameters(models(variant, 150)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(("variant", "stated"), CLASSIFIERS.items())
def test_stated_costs_of_classifiers_are_those_of_wider_feed_forwards(variant, stated):
    """MLP ratios of 8 in the first two stages, but for B5."""
    ratios = (4, 4, 4, 4) if variant == "B5" else (8, 8, 4, 4)
    backbone = BACKBONES[f"MixVisionTransformer_{variant}"](mlp_ratios=ratios)
    model = MixVisionTransformerClassifier(backbone)
    millions, gmacs, _ = stated
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.06)
    # the paper's figures lie up to 0.1 above or below
    assert count_macs(model, (224, 224)).total() / 1e9 == pytest.approx(gmacs, abs=0.15)


def test_activations_of_parts_with_a_known_size(models):
    model = models("B0", 150)
    published = activation_bytes(model, (512, 512), rewritten=False)
    here = activation_bytes(model, (512, 512))
    # all scores and their softmax: 4 stages of 2 blocks, heads x tokens x 256 keys
    scores = 2 * 2 * 256 * (1 * 128**2 + 2 * 64**2 + 5 * 32**2 + 8 * 16**2)
    assert published["attention scores, softmax"] == 4 * scores
    assert here["attention scores, softmax"] == 0
    assert published["logits"] - here["logits"] == 4 * 150 * 512**2
    # three upsampled maps and a concatenation of four, or three upsampled maps and three sums
    assert published["head upsampling"] - here["head upsampling"] == 4 * 256 * 128**2
    assert here.total() < 0.6 * published.total()


@pytest.mark.parametrize("is_mm", [False, True])
def test_activations_grow_with_the_pixels(models, is_mm):
    model = models("B0", 19, is_mm)
    small, large = (activation_bytes(model, hw).total() for hw in ((256, 256), (512, 512)))
    assert large == pytest.approx(4 * small, rel=0.01)


def test_command_line_prints_and_writes_both_forms(tmp_path, capsys):
    path = tmp_path / "complexity.json"
    arguments = ["--models", "B0", "--sizes", "512", "--num_classes", "150", "--parts"]
    assert main(["complexity", *arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "depthwise convolution" in printed
    (record,) = json.loads(path.read_text())
    assert record["paper_gmacs"] == 8.4 and record["parameters"] == 3752694
    assert sum(record["macs"].values()) > 2 * sum(record["macs_rewritten"].values())
    assert f"{sum(record['macs_rewritten'].values()) / 1e9:.2f}" in printed


def test_images_per_second_are_timed_as_the_paper_did(monkeypatch, tmp_path, capsys):
    """A clock that advances by 9 s for each of five that do not count, then by 0.5 s."""
    clock, passes = [0.0], []
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])

    def network(x):
        passes.append(tuple(x.shape))
        clock[0] += 9.0 if len(passes) <= 5 else 0.5
        return paddle.zeros([1, 4, x.shape[2] // 4, x.shape[3] // 4])

    assert latency.images_per_second(network, (64, 96), num_images=9) == pytest.approx(2.0)
    assert passes == [(1, 3, 64, 96)] * 9
    monkeypatch.undo()
    flags = ["--models", "B0", "--sizes", "512x1024", "--num_classes", "19", "--time", "6"]
    assert main(["complexity", *flags, "--json", str(tmp_path / "out.json")]) == 0
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert record["fps"] > 0 and record["device"] == "cpu" and record["paper_fps"] == 47.6
    assert "47.6" in capsys.readouterr().out
    assert main(["complexity", "--time", "5"]) == 1
    assert "--time: found 5, expected 6 or more" in capsys.readouterr().err


def test_command_line_refuses_an_unknown_model(capsys):
    assert main(["complexity", "--models", "B7"]) == 1
    assert "B7" in capsys.readouterr().err


def test_models_of_configs(tmp_path, capsys):
    own = tmp_path / "own.yml"
    own.write_text(
        "model: {type: SegFormer, num_classes: 19, embedding_dim: 256, backbone: "
        "{type: MixVisionTransformer_B0, depths: [1, 2, 2, 2]}}"
    )
    packaged = "segformer_b0_cityscapes_640x1280_160k"
    segmenter = "segmenter_vit_small_linear_ade20k_512x512_160k"
    path = tmp_path / "complexity.json"
    configs = [packaged, segmenter, str(own)]
    flags = ["--sizes", "640x1280", "--json", str(path)]
    assert main(["complexity", "--config", *configs, *flags]) == 0
    published, linear, changed = json.loads(path.read_text())
    assert (published["model"], published["paper_gmacs"]) == (packaged, 31.5)
    assert sum(published["macs"].values()) / 1e9 == pytest.approx(31.5, rel=0.006)
    assert changed["paper_gmacs"] is None and changed["paper_parameters_m"] is None
    assert changed["parameters"] < published["parameters"]
    # ViT-S/16 by hand: 40 x 80 patches and the class token through 12 blocks of width 384
    patches, width = 40 * 80, 384
    block = (patches + 1) * 12 * width**2 + 2 * (patches + 1) ** 2 * width
    expected = patches * 16 * 16 * 3 * width + 12 * block + patches * width * 150
    assert sum(linear["macs"].values()) == expected
    assert linear["head"] is None and segmenter in capsys.readouterr().out


def test_models_that_cannot_be_counted_are_refused(tmp_path, capsys):
    own = tmp_path / "own.yml"
    own.write_text("model: {type: MixVisionTransformerClassifier, num_classes: 5}")
    assert main(["complexity", "--config", str(own)]) == 1
    assert "\n" not in capsys.readouterr().err.strip()
    arguments = ["--config", "segformer_b0_camvid_480x360", "--head", "mmseg"]
    assert main(["complexity", *arguments]) == 1
    assert "--head has no effect with --config" in capsys.readouterr().err
