"""The answer of /metadata."""

from __future__ import annotations

from typing import Any

from paddleseg_segformer import __version__
from paddleseg_segformer.data.headers import FORMATS
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.engine_network import EngineNetwork
from paddleseg_segformer.serving.settings import ServingSettings


def describe_service(predictor: Predictor, settings: ServingSettings) -> dict[str, Any]:
    """Return classes, accepted images, the model's files, backend and versions.

    Args:
        predictor: Of an export.
        settings: Limits.
    """
    network = predictor.pipeline.network
    assert isinstance(network, EngineNetwork)
    deploy = network.deploy
    label_set = deploy.label_set
    return {
        "version": __version__,
        "model": {
            "artefact": network.artefact,
            "files": [
                {"name": file.name, "sha256": file.sha256}
                for file in deploy.artefacts[network.artefact].files
            ],
            "made_with": deploy.made_with,
        },
        "engine": network.description,
        "input": {
            "channels": deploy.input.num_channels,
            "formats": [*FORMATS, "NPY"],
            "min_side_px": deploy.input.min_side_px,
            "max_bytes": settings.max_bytes,
            "max_pixels": settings.max_pixels,
            "transforms": deploy.preprocess.get("transforms") or [],
            "value_range": deploy.preprocess.get("value_range"),
        },
        "inference": predictor.settings.describe(),
        "classes": [
            {"id": index, "name": name, "color": list(color)}
            for index, (name, color) in enumerate(
                zip(label_set.classes, label_set.palette, strict=True)
            )
        ],
    }
