"""Counts beside the published ones, and the command line that prints them."""

from __future__ import annotations

import json

import pytest

from paddleseg_segformer.analysis.complexity import (
    GMACS,
    PARAMETERS_M,
    activation_bytes,
    build_published,
    count_macs,
    count_parameters,
)
from paddleseg_segformer.cli import main
from paddleseg_segformer.models import BACKBONES, SegFormer

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


def test_command_line_refuses_an_unknown_model(capsys):
    assert main(["complexity", "--models", "B7"]) == 1
    assert "B7" in capsys.readouterr().err
