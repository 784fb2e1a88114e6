"""The paper's ablations are trained, evaluated and loaded again by the real command."""

from __future__ import annotations

import json

import pytest
from small_runs import train

from paddleseg_segformer.cli import main

ABLATIONS = {
    "learned": ("model.backbone.positional_encoding=learned", "model.backbone.img_size=32"),
    "last_stage": ("model.type=SegFormerLastStage",),
    "resnet": ("model.backbone={type: ResNet50}",),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_and_its_best_model_is_loaded_again(folder, name):
    flags = ("--iters", "4", "--do_eval", "--save_interval", "2")
    assert train(folder, "out", *flags, "--opts", *ABLATIONS[name]) == 0
    scores = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    best = max(line["Evaluate/mIoU"] for line in scores if "Evaluate/mIoU" in line)
    found = folder / "val.json"
    assert main(["val", "--model_path", str(folder / "out/best_model"), "--json", str(found)]) == 0
    assert json.loads(found.read_text())["mIoU"] == pytest.approx(best)
