"""NVlabs' SegFormer, and its ImageNet classifiers.

The head holds a `conv_seg` that is never used.
"""

from paddleseg_segformer.weights.formats.naming import Format, Rule

NVLABS = Format(
    name="nvlabs",
    title="NVlabs",
    rules=(
        Rule("backbone.{rest}", "backbone.{rest}"),
        Rule("linear_c{i}.proj.{p}", "decode_head.linear_c{i}.proj.{p}"),
        Rule("linear_fuse._conv.weight", "decode_head.linear_fuse.conv.weight"),
        Rule("linear_fuse._batch_norm.{bn}", "decode_head.linear_fuse.bn.{bn}"),
        Rule("linear_pred.{p}", "decode_head.linear_pred.{p}"),
        Rule("head.{p}", "head.{p}"),
    ),
    fingerprints=("backbone.patch_embed1.proj.weight",),
    backbone_prefix="backbone.",
    ignored=(r".*\.num_batches_tracked", r"decode_head\.conv_seg\..*"),
    synthetic={
        "decode_head.conv_seg.weight": ("K", 128, 1, 1),
        "decode_head.conv_seg.bias": ("K",),
    },
    epsilons={"norm_eps": 1e-6, "embed_norm_eps": 1e-5},
    models=("SegFormer", "MixVisionTransformerClassifier"),
    bare_models=("MixVisionTransformerClassifier",),
    weights_key="state_dict",
    has_metadata=True,
)
