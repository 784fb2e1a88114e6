"""Mixed precision: which maps are in half precision, read off the graph of the same lines.

Paddle runs half precision on GPUs alone, but a graph that it traces on any machine holds the type
of every value.
"""

from __future__ import annotations

from collections import defaultdict

import paddle
import pytest
from paddle import nn
from small_models import small_segformer

from paddleseg_segformer.models.segformer import SegFormer, SegFormerMM


def input_types(model: nn.Layer) -> dict[str, set[str]]:
    """Return the types of each operator's first input where a model runs in mixed precision."""

    def forward(x):
        with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
            return model(x)

    spec = [paddle.static.InputSpec([2, 3, 64, 64], "float32")]
    traced = paddle.jit.to_static(forward, input_spec=spec, full_graph=True)
    types = defaultdict(set)
    for op in traced.concrete_program.main_program.global_block().ops:
        if op.num_operands() and op.operand_source(0).is_dense_tensor_type():
            types[op.name()].add(str(op.operand_source(0).dtype))
    return types


@pytest.mark.parametrize("kind", [SegFormer, SegFormerMM])
def test_large_maps_stay_in_half_precision(kind):
    model = small_segformer(kind=kind)
    for layer in model.sublayers():  # a CPU has batch norm in float32 alone
        for name, norm in layer.named_children():
            if isinstance(norm, nn.BatchNorm2D):
                setattr(layer, name, nn.Identity())
    types = input_types(model)
    for op in ("conv2d", "depthwise_conv2d", "gelu", "matmul", "relu"):
        assert types[f"pd_op.{op}"] == {"paddle.bfloat16"}, op
    assert types["pd_op.softmax"] == types["pd_op.layer_norm"] == {"paddle.float32"}
