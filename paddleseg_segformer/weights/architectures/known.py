"""Models as their weights show them: which one, of what sizes, and which weights it has.

Everything is asked by canonical name, so it holds for every format.
"""

from __future__ import annotations

from paddleseg_segformer.models import vision_transformer
from paddleseg_segformer.models.mix_transformer import VARIANTS, MixVisionTransformer
from paddleseg_segformer.weights.architectures.segformer import SEGFORMERS
from paddleseg_segformer.weights.architectures.segmenter import SEGMENTERS, is_vit
from paddleseg_segformer.weights.architectures.sizes import (
    Architecture,
    Section,
    Shapes,
    defaults_of,
)

ARCHITECTURES = (*SEGFORMERS, *SEGMENTERS)  # the first whose marks are there
EPSILONS = ("norm_eps", "embed_norm_eps", "epsilon")  # arguments of backbones

_MIT_DEFAULTS = defaults_of(MixVisionTransformer)
_VIT_DEFAULTS = defaults_of(vision_transformer.VisionTransformer)


def architecture_of(shapes: Shapes) -> Architecture | None:
    """Return the kind of model that has these weights, or None if it is none that is known."""
    for item in ARCHITECTURES:
        if all(shapes(key) is not None for key in item.marks):
            return item
    return None


def full_backbone(section: Section) -> Section:
    """Return a backbone's section with every size spelled out, whatever its `type`."""
    if is_vit(section):
        variant = vision_transformer.VARIANTS.get(section["type"], {})
        return {**_VIT_DEFAULTS, **variant, **section, "type": "VisionTransformer"}
    variant = VARIANTS.get(section.get("type", "").rpartition("_")[2], {})
    given = {key: value for key, value in section.items() if key != "type"}
    full = {**_MIT_DEFAULTS, **variant, **given}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in full.items()}


def short_backbone(section: Section) -> Section:
    """Return the shortest section that builds the same backbone."""
    if is_vit(section):
        full = full_backbone(section)
        return {key: value for key, value in full.items() if value != _VIT_DEFAULTS.get(key)}
    full = full_backbone(section)
    for name, difference in VARIANTS.items():
        variant = full_backbone(difference)
        if all(full[key] == variant[key] for key in ("embed_dims", "depths")):
            rest = {key: value for key, value in full.items() if value != variant.get(key)}
            return {"type": f"MixVisionTransformer_{name}", **rest}
    rest = {key: value for key, value in full.items() if value != _MIT_DEFAULTS.get(key)}
    return {"type": "MixVisionTransformer", **rest}


def describe(section: Section, num_tensors: int) -> str:
    """Say in a few words which model a section is of."""
    if not section:
        return f"an unknown model ({num_tensors} tensors)"
    backbone = section.get("backbone", section)
    parts = [backbone.get("type", "")]
    parts += [
        f"{key} {value}" for key, value in backbone.items() if key not in ("type", "pretrained")
    ]
    if section.get("type") == "SegFormerMM":
        parts.append("mmsegmentation's head")
    if "embedding_dim" in section:
        parts.append(f"embedding_dim {section['embedding_dim']}")
    if "num_classes" in section:
        parts.append(f"{section['num_classes']} classes")
    return ", ".join(parts)
