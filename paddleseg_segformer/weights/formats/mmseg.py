"""mmsegmentation 0.x and 1.x: its own head, packed attention weights, 1x1 convolutions."""

from paddleseg_segformer.weights.formats.naming import Format, Rule

_BLOCK = "backbone.block{i}.{j}."
_LAYER = "backbone.layers.{s}.1.{j}."

MMSEG = Format(
    name="mmseg",
    title="mmsegmentation",
    rules=(
        Rule("backbone.patch_embed{i}.proj.{p}", "backbone.layers.{s}.0.projection.{p}"),
        Rule("backbone.patch_embed{i}.norm.{p}", "backbone.layers.{s}.0.norm.{p}"),
        Rule(f"{_BLOCK}norm1.{{p}}", f"{_LAYER}norm1.{{p}}"),
        Rule(f"{_BLOCK}norm2.{{p}}", f"{_LAYER}norm2.{{p}}"),
        Rule(f"{_BLOCK}attn.q.{{p}}", f"{_LAYER}attn.attn.in_proj_{{p}}", rows=(0, 1, 3)),
        Rule(f"{_BLOCK}attn.kv.{{p}}", f"{_LAYER}attn.attn.in_proj_{{p}}", rows=(1, 3, 3)),
        Rule(f"{_BLOCK}attn.proj.{{p}}", f"{_LAYER}attn.attn.out_proj.{{p}}"),
        Rule(f"{_BLOCK}attn.sr.{{p}}", f"{_LAYER}attn.sr.{{p}}"),
        Rule(f"{_BLOCK}attn.norm.{{p}}", f"{_LAYER}attn.norm.{{p}}"),
        Rule(f"{_BLOCK}mlp.fc1.{{p}}", f"{_LAYER}ffn.layers.0.{{p}}", layout="conv1x1"),
        Rule(f"{_BLOCK}mlp.dwconv.dwconv.{{p}}", f"{_LAYER}ffn.layers.1.{{p}}"),
        Rule(f"{_BLOCK}mlp.fc2.{{p}}", f"{_LAYER}ffn.layers.4.{{p}}", layout="conv1x1"),
        Rule("backbone.norm{i}.{p}", "backbone.layers.{s}.2.{p}"),
        Rule("convs.{s}._conv.weight", "decode_head.convs.{s}.conv.weight"),
        Rule("convs.{s}._batch_norm.{bn}", "decode_head.convs.{s}.bn.{bn}"),
        Rule("fusion_conv._conv.weight", "decode_head.fusion_conv.conv.weight"),
        Rule("fusion_conv._batch_norm.{bn}", "decode_head.fusion_conv.bn.{bn}"),
        Rule("linear_pred.{p}", "decode_head.conv_seg.{p}"),
    ),
    fingerprints=("backbone.patch_embed1.proj.weight",),
    backbone_prefix="backbone.",
    ignored=(r".*\.num_batches_tracked",),
    epsilons={"norm_eps": 1e-6, "embed_norm_eps": 1e-6},
    models=("SegFormerMM",),
    weights_key="state_dict",
    has_metadata=True,
)
