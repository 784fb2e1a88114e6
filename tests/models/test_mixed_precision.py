"""Mixed precision: which maps are in half precision, read off a graph that is built, not run.

Paddle has no such kernels on CPU, but its graphs hold the type of every value.
"""

from __future__ import annotations

from collections import defaultdict

import paddle
import pytest

from paddleseg_segformer.models import attention, layers, mix_transformer, segformer
from paddleseg_segformer.models.mix_transformer import MixVisionTransformer
from paddleseg_segformer.models.segformer import SegFormer, SegFormerMM


@pytest.fixture
def dygraph_branches(monkeypatch):
    """Take in a graph the branches that a GPU takes in dygraph."""
    monkeypatch.setattr(paddle, "in_dynamic_mode", lambda: True)
    for module in (layers, mix_transformer):
        monkeypatch.setattr(module, "has_own_gradients", lambda x: False)
    monkeypatch.setattr(layers, "_is_resized_by_matrices", lambda x, align_corners: False)
    monkeypatch.setattr(attention, "_has_fused_kernel", lambda q: False)
    # initialisers need values, and Paddle for CPU has batch norm in float32 alone
    monkeypatch.setattr(mix_transformer, "init_mit_weights", lambda layer: None)
    monkeypatch.setattr(segformer, "init_head_weights", lambda layer: None)
    monkeypatch.setattr(paddle.nn.BatchNorm2D, "forward", lambda self, x: x)


def input_types(kind) -> dict[str, set[str]]:
    """Return the types of each operator's first input in a training graph of a small model."""
    program, types = paddle.static.Program(), defaultdict(set)
    paddle.enable_static()
    try:
        with paddle.static.program_guard(program, paddle.static.Program()):
            encoder = MixVisionTransformer(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
            model = kind(5, encoder, embedding_dim=16)
            x = paddle.static.data("x", [2, 3, 64, 64], "float32")
            with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
                model(x)
    finally:
        paddle.disable_static()
    for op in program.global_block().ops:
        if op.num_operands() and op.operand_source(0).is_dense_tensor_type():
            types[op.name()].add(str(op.operand_source(0).dtype))
    return types


@pytest.mark.parametrize("kind", [SegFormer, SegFormerMM])
def test_large_maps_stay_in_half_precision(kind, dygraph_branches):
    types = input_types(kind)
    for op in ("conv2d", "depthwise_conv2d", "gelu", "matmul", "relu"):
        assert types[f"pd_op.{op}"] == {"paddle.bfloat16"}, op
    assert types["pd_op.softmax"] == types["pd_op.layer_norm"] == {"paddle.float32"}
