"""Hugging Face transformers, versions 4 and 5: the names on disk, with 5's own as aliases."""

from paddleseg_segformer.weights.formats.naming import Format, Rule

_BLOCK = "backbone.block{i}.{j}."
_THEIRS = "segformer.encoder.block.{s}.{j}."
_SELF = f"{_THEIRS}attention.self."

HUGGINGFACE = Format(
    name="hf",
    title="Hugging Face",
    rules=(
        Rule(
            "backbone.patch_embed{i}.proj.{p}",
            "segformer.encoder.patch_embeddings.{s}.proj.{p}",
        ),
        Rule(
            "backbone.patch_embed{i}.norm.{p}",
            "segformer.encoder.patch_embeddings.{s}.layer_norm.{p}",
        ),
        Rule(f"{_BLOCK}norm1.{{p}}", f"{_THEIRS}layer_norm_1.{{p}}"),
        Rule(f"{_BLOCK}norm2.{{p}}", f"{_THEIRS}layer_norm_2.{{p}}"),
        Rule(f"{_BLOCK}attn.q.{{p}}", f"{_SELF}query.{{p}}"),
        Rule(f"{_BLOCK}attn.kv.{{p}}", (f"{_SELF}key.{{p}}", f"{_SELF}value.{{p}}")),
        Rule(f"{_BLOCK}attn.sr.{{p}}", f"{_SELF}sr.{{p}}"),
        Rule(f"{_BLOCK}attn.norm.{{p}}", f"{_SELF}layer_norm.{{p}}"),
        Rule(f"{_BLOCK}attn.proj.{{p}}", f"{_THEIRS}attention.output.dense.{{p}}"),
        Rule(f"{_BLOCK}mlp.fc1.{{p}}", f"{_THEIRS}mlp.dense1.{{p}}"),
        Rule(f"{_BLOCK}mlp.dwconv.dwconv.{{p}}", f"{_THEIRS}mlp.dwconv.dwconv.{{p}}"),
        Rule(f"{_BLOCK}mlp.fc2.{{p}}", f"{_THEIRS}mlp.dense2.{{p}}"),
        Rule("backbone.norm{i}.{p}", "segformer.encoder.layer_norm.{s}.{p}"),
        Rule("linear_c{i}.proj.{p}", "decode_head.linear_c.{s}.proj.{p}"),
        Rule("linear_fuse._conv.weight", "decode_head.linear_fuse.weight"),
        Rule("linear_fuse._batch_norm.{bn}", "decode_head.batch_norm.{bn}"),
        Rule("linear_pred.{p}", "decode_head.classifier.{p}"),
        Rule("head.{p}", "classifier.{p}"),
    ),
    fingerprints=("backbone.patch_embed1.proj.weight",),
    backbone_prefix="segformer.",
    aliases=(
        (r"^(segformer\.)?stages\.(\d)\.patch_embeddings\.", r"\1encoder.patch_embeddings.\2."),
        (r"^(segformer\.)?stages\.(\d)\.blocks\.", r"\1encoder.block.\2."),
        (r"^(segformer\.)?stages\.(\d)\.layer_norm\.", r"\1encoder.layer_norm.\2."),
        (r"\.layernorm_before\.", ".layer_norm_1."),
        (r"\.layernorm_after\.", ".layer_norm_2."),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.sequence_reduction\.sequence_reduction\.", ".self.sr."),
        (r"\.sequence_reduction\.layer_norm\.", ".self.layer_norm."),
        (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
        (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
    ),
    ignored=(r".*\.num_batches_tracked",),
    epsilons={
        "norm_eps": 1e-5,
        "embed_norm_eps": 1e-5,
    },  # layer_norm_eps has no effect
    models=("SegFormer", "MixVisionTransformerClassifier"),
)
