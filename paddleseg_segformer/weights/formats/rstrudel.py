"""rstrudel/segmenter, Segmenter's original implementation.

Two matrices of the mask transformer are parameters, not linears: (in, out), as ours. Its encoder
holds the ImageNet classifier, which is never used.
"""

from paddleseg_segformer.weights.formats.naming import Format, Rule

RSTRUDEL = Format(
    name="rstrudel",
    title="rstrudel/segmenter",
    rules=(
        Rule("backbone.{rest}", "encoder.{rest}"),
        Rule("head.cls_token", "decoder.cls_emb", layout="copy"),
        Rule("head.proj_input.{p}", "decoder.proj_dec.{p}"),
        Rule("head.proj_patch.weight", "decoder.proj_patch", layout="copy"),
        Rule("head.proj_class.weight", "decoder.proj_classes", layout="copy"),
        Rule("head.{rest}", "decoder.{rest}"),
    ),
    fingerprints=("backbone.pos_embed",),
    ignored=(r"encoder\.head\.(weight|bias)",),
    synthetic={
        "encoder.head.weight": (1000, "backbone.norm.weight"),
        "encoder.head.bias": (1000,),
    },
    biased=(r"head\.blocks\.\d+\.attn\.qkv",),
    refused=(
        (
            r"encoder\.(dist_token|head_dist\..*)",
            "a distilled DeiT has a second class token, which this encoder lacks. Take a model "
            "that starts from a ViT.",
        ),
    ),
    backbone={"pad_input": True, "pos_embed_interpolation": "bilinear"},
    backbone_type="VisionTransformer",
    epsilons={"epsilon": 1e-5},
    models=("LinearSegmenter", "MaskSegmenter"),
    weights_key="model",
)
