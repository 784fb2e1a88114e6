"""Start weights of a recipe: which file, and into which part of the model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.fitting.options import AUTO, FitOptions
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.model_folder import config_of
from paddleseg_segformer.weights import open_checkpoint
from paddleseg_segformer.weights.files.download import Remote, is_url, local_path
from paddleseg_segformer.zoo import cache_folder, list_models, local_copy


class StartWeights(NamedTuple):
    """Where a model starts.

    Args:
        source: A path or URL; None for random weights.
        is_backbone: Whether it holds the backbone alone, or a classifier on it.
        why: The reason.
        normalize: Which their images had, where it is known and is no encoder's.
    """

    source: str | None
    is_backbone: bool
    why: str
    normalize: Normalize | None = None


def start_weights(options: FitOptions) -> StartWeights:
    """Return the start weights that the options mean; nothing is downloaded for `auto`.

    Raises:
        UserError: the weights that were named do not exist, or are of no known model.
    """
    if options.pretrained == "none":
        return StartWeights(None, False, "--pretrained none.")
    if options.pretrained != AUTO:
        path = local_path(options.pretrained)
        model = open_checkpoint(path).model
        is_head_of_classes = model.get("type") == "MixVisionTransformerClassifier"
        is_backbone = "num_classes" not in model or is_head_of_classes
        normalize = None
        if not is_backbone:
            with suppress(UserError):  # nothing says how images were prepared
                normalize = Preprocess.from_config(config_of(path)).normalize
        return StartWeights(options.pretrained, is_backbone, "--pretrained.", normalize)
    url = _published(options.model_section())
    if url is None:
        return StartWeights(None, False, "the model names none (--pretrained PATH).")
    known = [model for model in list_models() if model.is_backbone]
    known = [x for x in known if x.url == url or x.name == f"nvidia/mit-{options.model}"]
    for published in known:
        if copy := local_copy(published):
            return StartWeights(published.name, True, f"{copy}; licence: {published.licence}.")
    try:
        if (target := Remote.from_url(url).target).is_file():
            return StartWeights(url, True, f"{target}, found in the cache.")
        folder = cache_folder() / known[0].name
    except UserError as error:
        return StartWeights(None, False, str(error))
    why = f"this machine has none. Put {url} into {folder}/ for a far better start."
    return StartWeights(None, False, why)


def _published(section: dict[str, Any]) -> str | None:
    """Return the URL of the backbone's weights that a model's section names."""
    backbone = section.get("backbone")
    url = backbone.get("pretrained") if isinstance(backbone, dict) else None
    return url if isinstance(url, str) and is_url(url) else None


def put_into(section: dict[str, Any], weights: StartWeights) -> None:
    """Name the weights in a model's section."""
    if weights.source is not None:
        owner = section["backbone"] if weights.is_backbone else section
        owner["pretrained"] = weights.source
