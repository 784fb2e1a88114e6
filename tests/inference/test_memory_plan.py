"""The memory plan against what the allocator counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import small_segformer, small_vit

from paddleseg_segformer import cpu
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.memory_plan import (
    BLOCKS_MIB,
    MemoryPlan,
    PeakMemory,
    free_mib,
    plan_memory,
)
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.plan import memory_line
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import (
    LinearSegmenter,
    MaskSegmenter,
    SegFormer,
    SegFormerMM,
    VisionTransformer,
)

SLIDE = InferenceSettings(
    is_slide=True, crop_size_hw=(96, 128), stride_hw=(64, 96), flip_horizontal=True, window_batch=4
)


def segformer(head: Callable[..., nn.Layer]) -> nn.Layer:
    return small_segformer(kind=head, width=48, embed_dims=(16, 32, 40, 64))


def vit() -> VisionTransformer:
    return small_vit(qkv_bias=True, final_norm=True)


MODELS: dict[str, Callable[[], nn.Layer]] = {
    "SegFormer": lambda: segformer(SegFormer),
    "SegFormerMM": lambda: segformer(SegFormerMM),
    "LinearSegmenter": lambda: LinearSegmenter(5, vit()),
    "MaskSegmenter": lambda: MaskSegmenter(5, vit(), 24, 2, 3),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Layer:
    paddle.seed(0)
    found = MODELS[request.param]()
    found.eval()
    return found


def allocated_mib(run: Callable[[], object]) -> float:
    """Return the most that tensors take during a call beyond what they take before it."""
    memory = PeakMemory()
    run()
    return memory.mib


@pytest.mark.parametrize("has_reset", [True, False])
def test_peak_is_that_since_the_start(has_reset: bool, monkeypatch) -> None:
    core = paddle.base.core
    if not has_reset:  # as in Paddle 2
        monkeypatch.delattr(core, "host_memory_stat_reset_peak_value", raising=False)
    elif not hasattr(core, "host_memory_stat_reset_peak_value"):
        pytest.skip("Paddle 2 has none")
    kept, _ = paddle.zeros([3, 1 << 20]), paddle.zeros([5, 1 << 20])  # 12 MiB, 20 MiB
    del _
    for megapixels in (2, 4, 1):  # less than at the old peak, more, and less again
        found = allocated_mib(lambda count=megapixels: paddle.zeros([count, 1 << 20]))
        assert found == pytest.approx(4 * megapixels, abs=0.01)
    assert allocated_mib(lambda: None) == 0
    assert kept.shape == [3, 1 << 20]


@pytest.mark.parametrize(("count", "size_hw"), [(1, (320, 448)), (3, (160, 224)), (1, (101, 131))])
def test_estimate_covers_a_call_and_is_close(model, count, size_hw) -> None:
    plan = plan_memory(model, 1000.0)
    assert (plan.num_classes, plan.budget_mib) == (5, 1000.0)

    def call() -> None:
        with paddle.no_grad():
            model(paddle.zeros([count, 3, *size_hw]))

    measured = allocated_mib(call)
    estimate = plan.peak_mib(count, size_hw)
    assert measured < estimate < 1.4 * measured + BLOCKS_MIB + 1


def test_small_budget_is_kept_and_changes_no_label(model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 131, 203, 3), np.uint8)
    free = Pipeline(model, Preprocess(), SLIDE)
    expected = [item.labels() for item in free.batch(images)]
    plan = plan_memory(model)
    for budget_mib in (plan.peak_mib(1, (96, 128)) + 3.0, plan.peak_mib(4, (96, 128)) + 3.0):
        bounded = Pipeline(
            model, Preprocess(), SLIDE, memory=plan_memory(model, budget_mib=budget_mib)
        )
        found: list[np.ndarray] = []

        def predict(bounded: Pipeline = bounded, found: list[np.ndarray] = found) -> None:
            found.extend(item.labels() for item in bounded.batch(images))

        assert allocated_mib(predict) < budget_mib
        for label, reference in zip(found, expected, strict=True):
            assert (label == reference).mean() > 0.9999


def test_batch_follows_from_the_budget() -> None:
    plan = MemoryPlan(BLOCKS_MIB + 110.0, 10.0, 100.0, 19, 4)
    assert plan.window_batch(8, (512, 512), 0.0) == 3
    assert plan.window_batch(2, (512, 512), 0.0) == 2
    assert plan.window_batch(8, (512, 512), 60.0) == 1
    message = r"needs about 153 MiB for 1024x1024 px, .* budget is 142 MiB.*--crop_size"
    with pytest.raises(UserError, match=message):
        plan.window_batch(1, (1024, 1024), 0.0)


def test_line_tells_windows_calls_peak_and_budget() -> None:
    plan = MemoryPlan(2000.0, 10.0, 100.0, 19, 4)
    pipeline = Pipeline(lambda x: x, Preprocess(), SLIDE, memory=plan)
    assert memory_line(pipeline, (203, 331, 3)) == (
        "24 windows (24 of 96x128) in about 6 calls of up to 4; memory beyond weights and image "
        "about 48 MiB and 1 MiB of logits, budget 2000 MiB"
    )


def test_more_logits_than_the_cache_are_counted_by_rows_of_tiles() -> None:
    plan = MemoryPlan(400.0, 10.0, 100.0, 1999, 4)
    pipeline = Pipeline(lambda x: x, Preprocess(), SLIDE, memory=plan)
    window_mib = plan.logits_mib((96, 128))
    held = pipeline(np.zeros((480, 331, 3), np.uint8)).held_mib
    assert held == pytest.approx(pipeline.cache_mib + 2 * 2 * 4 * window_mib, rel=0.5)
    assert held < 2 * 7 * 4 * window_mib


def test_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CGROUP", tmp_path)
    without = free_mib()
    (tmp_path / "memory.max").write_text(f"{64 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{24 << 20}\n")
    assert free_mib() == 40.0 < without
    (tmp_path / "memory.max").write_text("max\n")
    assert free_mib() > 40.0


@pytest.mark.parametrize("budget_mib", [0.0, -1.0])
def test_budget_has_to_be_positive(budget_mib: float) -> None:
    with pytest.raises(UserError, match="--memory_budget_mib: found"):
        plan_memory(nn.Conv2D(3, 2, 4, stride=4), budget_mib)
