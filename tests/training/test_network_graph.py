"""The graph for VisualDL: read by its own reader, against the layers that run."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import paddle
import pytest

from paddleseg_segformer.models import MixVisionTransformer, SegFormer
from paddleseg_segformer.training.network_graph import NUM_PX, network_graph

pytest.importorskip("visualdl")


def test_visualdl_reads_the_layers_that_run_and_the_shapes_between_them(tmp_path) -> None:
    from visualdl.reader.graph_reader import GraphReader

    model = SegFormer(
        3, MixVisionTransformer(embed_dims=(8, 8, 12, 16), depths=(1, 2, 1, 1),
                                num_heads=(1, 1, 2, 2)), 16,
    )  # fmt: skip
    model.eval()
    x = paddle.randn([1, 3, NUM_PX, NUM_PX])
    before = model(x).numpy()
    graph = network_graph(model, 3)
    np.testing.assert_array_equal(model(x).numpy(), before)
    assert isinstance(model.forward.__func__, type(SegFormer.forward))  # not the traced one

    run: Counter[str] = Counter()
    for layer in model.backbone.sublayers():  # the head merges its products
        layer.register_forward_post_hook(lambda layer, *_: run.update([type(layer).__name__]))
    model(x)
    leaves = {node["name"]: node for node in graph["nodes"] if node["is_leaf_node"]}
    of_backbone = [name for name in leaves if name.startswith("/MixVisionTransformer/")]
    kinds = Counter(leaves[name]["type"] for name in of_backbone)
    assert kinds["layer_norm"] == run["LayerNorm"]
    assert kinds["conv2d"] + kinds["depthwise_conv2d"] == run["Conv2D"]
    linears = [name for name in of_backbone if "/Linear" in name]
    assert Counter(leaves[name]["type"] for name in linears)["matmul"] == run["Linear"] > 20
    blocks = [node for node in graph["nodes"] if node["type"].startswith("Block")]
    assert len([node for node in blocks if node["name"].count("/") == 2]) == 5

    shapes = {item["name"]: item["shape"] for item in graph["vars"]}
    [image] = [name for name, node in leaves.items() if node["type"] == "data"]
    assert shapes[leaves[image]["output_vars"]["Y"][0]] == [1, 3, NUM_PX, NUM_PX]
    last = [node for node in leaves.values() if not node["output_nodes"]]
    assert [1, 3, NUM_PX // 4, NUM_PX // 4] in [shapes[n["output_vars"]["Y"][0]] for n in last]
    for node in leaves.values():  # every box but the image's is reached from it
        assert node["input_nodes"] or node["name"] == image

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vdlgraph.run.log").write_text(json.dumps(graph))
    reader = GraphReader(str(tmp_path))
    [name] = reader.runs()
    assert name.endswith("run")
    top = {node["name"] for node in reader.get_graph(name)["nodes"]}
    assert {"/MixVisionTransformer", "/Sequential", "/Conv2D"} <= top
    opened = reader.get_graph(name, "/MixVisionTransformer", True)
    assert len(opened["nodes"]) > len(top)


def test_what_cannot_be_traced_does_not_end_a_run(tmp_path) -> None:
    from paddleseg_segformer.training.writers import VisualDLWriter, Writers

    writer = VisualDLWriter(tmp_path)

    def fails() -> dict:
        raise RuntimeError("cannot be traced")

    writers = Writers([writer])
    writers.network(fails)
    writers.scalars(1, {"Train/loss": 1.0})
    writers.close()
    assert [path.name for path in tmp_path.iterdir()] == ["vdlrecords.run.log"]
