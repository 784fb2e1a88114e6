"""Batch and recomputing follow the memory at hand, which is measured by a real step."""

from __future__ import annotations

import pytest
from test_recipe import STREETS, options, planned, reasons

from paddleseg_segformer import UserError
from paddleseg_segformer.fitting import plan, trial
from paddleseg_segformer.fitting.start_weights import StartWeights
from paddleseg_segformer.fitting.trial import Memory

RANDOM = StartWeights(None, False, "")


@pytest.fixture
def images(monkeypatch):
    """Return what sets how many MiB an image takes, with and without recomputing."""

    def set_mib(free, kept, recomputed):
        def measure(config):
            is_less = config.model["backbone"].get("use_recompute", False)
            return Memory(100.0, recomputed if is_less else kept)

        monkeypatch.setattr(plan, "measure_memory", measure)
        for module in (plan, trial):
            monkeypatch.setattr(module, "free_mib", lambda: free)

    return set_mib


def fitted(**changes):
    recipe = planned(device="gpu")
    plan._fit_memory(recipe, STREETS, options(**changes), "gpu")
    return recipe


def test_usual_batch_is_taken_where_it_fits(images):
    images(free=10_000, kept=100, recomputed=30)
    recipe = fitted()
    assert recipe.content["batch_size"] == 16 and "accumulation_steps" not in recipe.content
    assert "use_recompute" not in recipe.content["model"]["backbone"]


def test_activations_are_recomputed_where_they_do_not_fit(images):
    images(free=1000, kept=100, recomputed=30)  # 0.8 x 1000 - 100 MiB for images at 1.2 x theirs
    recipe = fitted()
    assert recipe.content["model"]["backbone"]["use_recompute"] is True
    assert recipe.content["batch_size"] == 16
    assert "16 images do not fit" in reasons(recipe)


def test_batches_add_up_where_recomputing_is_not_enough(images):
    images(free=1000, kept=200, recomputed=100)
    recipe = fitted()
    assert (recipe.content["batch_size"], recipe.content["accumulation_steps"]) == (5, 4)


def test_memory_that_holds_no_image_is_refused(images):
    images(free=200, kept=200, recomputed=100)
    with pytest.raises(UserError, match=r"take 200 MiB, and 200 MiB are free. Take a smaller"):
        fitted()


def test_measured_memory_grows_with_the_crop(data, model):
    sections = {
        f"{mode}_dataset": {
            **{"type": "Dataset", "mode": mode, f"{mode}_path": str(data / "list.txt")},
            **{"dataset_root": str(data), "num_classes": 3, "classes": ["a", "b", "c"]},
        }
        for mode in ("train", "val")
    }
    names = sorted(path.name for path in (data / "images").iterdir())
    (data / "list.txt").write_text("".join(f"images/{x} labels/{x}\n" for x in names))
    found = {
        size: trial.measure_memory(
            plan.plan_data(
                sections, STREETS, options(model=model, size=size), RANDOM, "cpu"
            ).config()
        )
        for size in (64, 256)
    }
    assert found[64].state_mib == found[256].state_mib > 0
    assert 4 < found[256].image_mib / found[64].image_mib < 64
    (data / "list.txt").unlink()
