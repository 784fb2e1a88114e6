"""Names and layouts of the code bases, both ways, on arrays without a network."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from paddle.nn import Layer

from paddleseg_segformer.models import MODELS, MixVisionTransformer
from paddleseg_segformer.models.mix_transformer import VARIANTS
from paddleseg_segformer.weights.architectures import ARCHITECTURES
from paddleseg_segformer.weights.architectures.sizes import full_backbone, ratio
from paddleseg_segformer.weights.files.containers import Container
from paddleseg_segformer.weights.files.stored import StoredTensor
from paddleseg_segformer.weights.formats import FORMATS, HUGGINGFACE, MMSEG, NVLABS, SMP
from paddleseg_segformer.weights.formats.naming import export_state
from paddleseg_segformer.weights.weight_file import Names, State

KEYS = {item.type: item.keys for item in ARCHITECTURES}


def keys_of(model: str, variant: str) -> list[str]:
    return KEYS[model]({"backbone": full_backbone({"type": f"MixVisionTransformer_{variant}"})})


@functools.cache
def narrow_model(model: str, variant: str) -> Layer:
    """Build a variant with few channels: the names and the squareness of matrices do not change."""
    narrow = {**VARIANTS[variant], "embed_dims": (8, 16, 40, 64)}
    return MODELS[model](num_classes=5, backbone=MixVisionTransformer(**narrow))


def random_state(model: str = "SegFormer", variant: str = "B0") -> dict[str, np.ndarray]:
    """Return random weights, square matrices that are not symmetric among them."""
    rng = np.random.default_rng(0)
    state = narrow_model(model, variant).state_dict()
    return {key: rng.random(tensor.shape, np.float32) for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("format", "model", "expected"),
    [
        ("paddleseg", "SegFormer", [191, 191, 347, 587, 847, 1067]),
        ("nvlabs", "SegFormer", [194, 194, 350, 590, 850, 1070]),
        ("hf", "SegFormer", [208, 208, 380, None, None, None]),
        ("hf", "MixVisionTransformerClassifier", [194, 194, 366, None, None, None]),
        ("mmseg", "SegFormerMM", [192, 192, 332, None, None, 980]),
    ],
)
def test_number_of_keys_is_that_of_the_real_models(format, model, expected):
    found = []
    for variant in VARIANTS:
        state = {key: np.zeros((6, 6), np.float32) for key in keys_of(model, variant)}
        found.append(len(export_state(FORMATS[format], state, num_classes=19)))
    assert [number for number, known in zip(found, expected, strict=True) if known] == [
        known for known in expected if known
    ]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", ["SegFormer", "SegFormerMM", "MixVisionTransformerClassifier"])
def test_listed_keys_are_those_of_the_models(model, variant):
    assert sorted(keys_of(model, variant)) == sorted(narrow_model(model, variant).state_dict())


PAIRS = [
    (item.name, model)
    for item in FORMATS.values()
    if item.backbone_type == "MixVisionTransformer"  # the others: test_segmenter_files.py
    for model in item.models
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("format", "model"), PAIRS)
def test_round_trip_is_exact_to_the_bit(format, model, variant):
    state = random_state(model, variant)
    exported = export_state(FORMATS[format], state, num_classes=5)
    tensors = {
        name: StoredTensor(array.shape, array.dtype.name, functools.partial(np.asarray, array))
        for name, array in exported.items()
    }
    container = Container(Path("weights"), "torch", tensors)
    names = Names(container, FORMATS[format])
    entries = {key: names.entry(key) for key in state}
    back = State(container, entries)
    for key, array in state.items():
        assert entries[key].shape == array.shape
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    assert names.unused(entries) == []


def test_torch_layouts_of_square_and_packed_matrices():
    """Restated from the code bases' layers: q, k, v rows in order; outputs first."""
    state = random_state()
    q = state["backbone.block2.0.attn.q.weight"]
    k, v = np.split(state["backbone.block2.0.attn.kv.weight"], 2, axis=1)
    nvlabs = export_state(NVLABS, state, 5)
    np.testing.assert_array_equal(nvlabs["backbone.block2.0.attn.q.weight"], q.T)
    np.testing.assert_array_equal(
        nvlabs["backbone.block2.0.attn.kv.weight"], np.concatenate([k.T, v.T])
    )
    assert nvlabs["decode_head.conv_seg.weight"].shape == (5, 128, 1, 1)
    assert nvlabs["decode_head.linear_fuse.bn.num_batches_tracked"].dtype == np.int64
    hf = export_state(HUGGINGFACE, state, 5)
    attention = "segformer.encoder.block.1.0.attention.self."
    np.testing.assert_array_equal(hf[f"{attention}key.weight"], k.T)
    np.testing.assert_array_equal(hf[f"{attention}value.weight"], v.T)
    mmseg = export_state(MMSEG, random_state("SegFormerMM"), 5)
    packed = "backbone.layers.1.1.0.attn.attn.in_proj_weight"
    state = random_state("SegFormerMM")
    np.testing.assert_array_equal(
        mmseg[packed],
        np.concatenate(
            [
                state["backbone.block2.0.attn.q.weight"].T,
                state["backbone.block2.0.attn.kv.weight"].T,
            ]
        ),
    )
    fc1 = state["backbone.block3.0.mlp.fc1.weight"]
    np.testing.assert_array_equal(
        mmseg["backbone.layers.2.1.0.ffn.layers.0.weight"], fc1.T[:, :, None, None]
    )


def test_smp_counts_stages_from_the_last():
    state = random_state()
    smp = export_state(SMP, state, 5)
    for stage in range(1, 5):
        np.testing.assert_array_equal(
            smp[f"decoder.mlp_stage.{4 - stage}.linear.weight"],
            state[f"linear_c{stage}.proj.weight"].T,
        )


def test_newer_names_of_hugging_face_are_aliases():
    assert (
        HUGGINGFACE.renamed("stages.3.blocks.12.attention.sequence_reduction.layer_norm.bias")
        == "encoder.block.3.12.attention.self.layer_norm.bias"
    )
    own = "segformer.encoder.block.0.0.mlp.dense1.weight"
    assert HUGGINGFACE.renamed("segformer.stages.0.blocks.0.mlp.fc1.weight") == own
    assert HUGGINGFACE.renamed(own) == own


def test_weights_without_a_place_in_a_format_are_refused():
    with pytest.raises(KeyError, match="fusion_conv"):
        export_state(NVLABS, {"fusion_conv._conv.weight": np.zeros((1, 4, 1, 1))}, 5)


def test_ratio_gives_the_hidden_width_back():
    for dim in range(1, 60):
        for hidden in range(1, 300):
            assert int(dim * ratio(hidden, dim)) == hidden
    assert (ratio(128, 32), ratio(80, 32)) == (4, 2.5)
