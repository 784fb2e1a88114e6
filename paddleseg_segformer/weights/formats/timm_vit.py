"""timm's Vision Transformers, such as the `augreg` ImageNet weights that Segmenter starts from."""

from paddleseg_segformer.weights.formats.naming import Format, Rule

TIMM_VIT = Format(
    name="timm",
    title="timm",
    rules=(Rule("backbone.{rest}", "{rest}"),),
    fingerprints=("backbone.pos_embed",),
    ignored=(r"head\.(weight|bias)",),
    refused=(
        (
            r"dist_token|head_dist\..*",
            "a distilled DeiT has a second class token, which this encoder lacks. Take a plain "
            "ViT's weights.",
        ),
    ),
    backbone_type="VisionTransformer",
    epsilons={"epsilon": 1e-6},
)
