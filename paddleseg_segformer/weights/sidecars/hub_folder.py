"""The configs beside the weights in Hugging Face's folders: reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from paddleseg_segformer.weights.sidecars.hub_config import HubConfig
from paddleseg_segformer.weights.sidecars.hub_processor import PROCESSOR_FILE, HubProcessor


def read_configs(path: Path) -> tuple[HubConfig, HubProcessor]:
    """Read a `config.json` and, where there is one, the image processor's settings beside it.

    Raises:
        UserError: not valid, or of another model.
    """
    config = HubConfig.from_pretrained(path.parent)
    has_processor = path.with_name(PROCESSOR_FILE).is_file()
    return config, HubProcessor.from_pretrained(path.parent) if has_processor else HubProcessor()


def transforms_of(processor: HubProcessor) -> list[dict[str, Any]]:
    """Return an image processor's settings as the `transforms` of a config."""
    transforms: list[dict[str, Any]] = []
    if processor.do_resize:
        assert not isinstance(processor.size, int)
        size = [processor.size["width"], processor.size["height"]]
        name = Image.Resampling(processor.resample).name
        transforms.append({"type": "AntialiasResize", "target_size": size, "resample": name})
    # (x * factor - mean) / std of theirs is (x / 255 - mean / unit) / (std / unit) of ours
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    unit = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * factor
    mean, std = processor.image_mean, processor.image_std
    if not processor.do_normalize:
        mean, std = 0.0, 1.0
    constants = {
        name: [item / unit for item in ([values] if isinstance(values, (int, float)) else values)]
        for name, values in (("mean", mean), ("std", std))
    }
    return [*transforms, {"type": "Normalize", **constants}]
