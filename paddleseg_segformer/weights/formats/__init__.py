"""How each code base names its weights: one module of data per format."""

from paddleseg_segformer.weights.formats.huggingface import HUGGINGFACE
from paddleseg_segformer.weights.formats.mmseg import MMSEG
from paddleseg_segformer.weights.formats.nvlabs import NVLABS
from paddleseg_segformer.weights.formats.paddleseg import PADDLESEG
from paddleseg_segformer.weights.formats.rstrudel import RSTRUDEL
from paddleseg_segformer.weights.formats.smp import SMP
from paddleseg_segformer.weights.formats.timm_vit import TIMM_VIT

FORMATS = {
    item.name: item for item in (PADDLESEG, NVLABS, MMSEG, HUGGINGFACE, SMP, RSTRUDEL, TIMM_VIT)
}

__all__ = ["FORMATS", "HUGGINGFACE", "MMSEG", "NVLABS", "PADDLESEG", "RSTRUDEL", "SMP", "TIMM_VIT"]
