"""Names and layouts of the code bases, both ways, on arrays without a network."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.checkpoints.architectures import ARCHITECTURES, full_backbone
from paddleseg_segformer.checkpoints.formats import FORMATS, HUGGINGFACE, MMSEG, NVLABS, SMP
from paddleseg_segformer.checkpoints.naming import Names, export_state
from paddleseg_segformer.models import MODELS, MixVisionTransformer
from paddleseg_segformer.models.mix_transformer import VARIANTS

KEYS = {item.type: item.keys for item in ARCHITECTURES}


def keys_of(model: str, variant: str) -> list[str]:
    return KEYS[model]({"backbone": full_backbone({"type": f"MixVisionTransformer_{variant}"})})


def small_state(model: str = "SegFormer") -> dict[str, np.ndarray]:
    """Return random weights of a tiny net whose square matrices are not symmetric."""
    dims = {1: 2, 2: 4, 3: 6, 4: 8}
    reduction = {1: 8, 2: 4, 3: 2}
    width = 8
    shapes: dict[str, tuple[int, ...]] = {}
    for i, dim in dims.items():
        block = f"backbone.block{i}.0"
        shapes |= {
            f"backbone.patch_embed{i}.proj.weight": (dim, dims.get(i - 1, 3), 3, 3),
            f"{block}.attn.q.weight": (dim, dim),
            f"{block}.attn.kv.weight": (dim, 2 * dim),
            f"{block}.attn.kv.bias": (2 * dim,),
            f"{block}.attn.proj.weight": (dim, dim),
            f"{block}.attn.sr.weight": (dim, dim, reduction.get(i, 1), reduction.get(i, 1)),
            f"{block}.mlp.fc1.weight": (dim, 4 * dim),
            f"{block}.mlp.fc1.bias": (4 * dim,),
            f"{block}.mlp.dwconv.dwconv.weight": (4 * dim, 1, 3, 3),
            f"{block}.mlp.dwconv.dwconv.bias": (4 * dim,),
            f"{block}.mlp.fc2.weight": (4 * dim, dim),
            f"linear_c{i}.proj.weight": (dim, width),
            f"convs.{i - 1}._conv.weight": (width, dim, 1, 1),
        }
    shapes |= {
        "linear_fuse._conv.weight": (width, 4 * width, 1, 1),
        "fusion_conv._conv.weight": (width, 4 * width, 1, 1),
        "linear_pred.weight": (5, width, 1, 1),
        "linear_pred.bias": (5,),
        "head.weight": (dims[4], 5),
        "head.bias": (5,),
    }
    section = {"backbone": full_backbone({"depths": [1, 1, 1, 1]})}
    rng = np.random.default_rng(0)

    def shape(key: str) -> tuple[int, ...]:
        stage = int(next((letter for letter in key if letter.isdigit()), "4"))
        return shapes.get(key, (dims.get(stage, width) if "backbone" in key else width,))

    return {key: rng.random(shape(key), np.float32) for key in KEYS[model](section)}


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
    narrow = {**VARIANTS[variant], "embed_dims": (8, 16, 40, 64)}  # the names do not change
    net = MODELS[model](num_classes=3, backbone=MixVisionTransformer(**narrow))
    assert sorted(keys_of(model, variant)) == sorted(net.state_dict())


PAIRS = [
    (item.name, model)
    for item in FORMATS.values()
    if item.backbone_type == "MixVisionTransformer"  # the others: test_segmenter_files.py
    for model in item.models
]


@pytest.mark.parametrize(("format", "model"), PAIRS)
def test_round_trip_is_exact_to_the_bit(format, model):
    state = small_state(model)
    exported = export_state(FORMATS[format], state, num_classes=5)
    names = Names(FORMATS[format], exported, is_bare=False)
    used = set()
    for key, array in state.items():
        rule, own = names.find(key)
        back = rule.read([exported[name] for name in own])
        assert rule.shape([exported[name].shape for name in own]) == back.shape == array.shape
        np.testing.assert_array_equal(back, array, err_msg=key)
        used |= set(own)
    assert names.others(used) == []


def test_torch_layouts_of_square_and_packed_matrices():
    """Restated from the code bases' layers: q, k, v rows in order; outputs first."""
    state = small_state()
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
    mmseg = export_state(MMSEG, small_state("SegFormerMM"), 5)
    packed = "backbone.layers.1.1.0.attn.attn.in_proj_weight"
    state = small_state("SegFormerMM")
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
    state = small_state()
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
