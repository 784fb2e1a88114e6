"""segmentation_models.pytorch, whose head counts the stages from the last."""

from paddleseg_segformer.weights.formats.naming import Format, Rule

SMP = Format(
    name="smp",
    title="segmentation_models.pytorch",
    rules=(
        Rule("backbone.{rest}", "encoder.{rest}"),
        Rule("linear_c{i}.proj.{p}", "decoder.mlp_stage.{r}.linear.{p}"),
        Rule("linear_fuse._conv.weight", "decoder.fuse_stage.0.weight"),
        Rule("linear_fuse._batch_norm.{bn}", "decoder.fuse_stage.1.{bn}"),
        Rule("linear_pred.{p}", "segmentation_head.0.{p}"),
    ),
    fingerprints=("backbone.patch_embed1.proj.weight",),
    backbone_prefix="encoder.",
    ignored=(r".*\.num_batches_tracked",),
    epsilons={"norm_eps": 1e-6, "embed_norm_eps": 1e-5},
    models=("SegFormer",),
    notes=("its network takes sides of multiples of 32 and aligns corners in the last upsampling",),
)
