"""PaddleSeg, whose names are ours."""

from paddleseg_segformer.weights.formats.naming import Format, Rule

PADDLESEG = Format(
    name="paddleseg",
    title="PaddleSeg",
    rules=(Rule("{rest}", "{rest}", layout="copy"),),
    fingerprints=("backbone.patch_embed1.proj.weight", "backbone.pos_embed"),
    backbone_prefix="backbone.",
    is_torch=False,
)
