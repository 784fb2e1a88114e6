"""Attention of a patch and class maps, against the attention layers' own definition."""

from __future__ import annotations

import re

import cv2
import numpy as np
import paddle
import pytest

from paddleseg_segformer.analysis.attention_maps import (
    attention_picture,
    class_maps,
    heat_picture,
    patch_attention,
    pixel_in_input,
)
from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import (
    LinearSegmenter,
    MaskSegmenter,
    MixVisionTransformer,
    VisionTransformer,
)
from paddleseg_segformer.weights import save_weights

VIT = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3, "qkv_bias": True}
MIT = {"embed_dims": (8, 16, 24, 32), "depths": (1, 2, 1, 1), "num_heads": (1, 2, 3, 4)}


def spread(model: paddle.nn.Layer) -> paddle.nn.Layer:
    for tensor in model.parameters():
        if tensor.ndim > 1:
            tensor.set_value(paddle.randn(tensor.shape) / np.prod(tensor.shape[:-1]) ** 0.5)
    model.eval()
    return model


@pytest.mark.parametrize("pad_input", [False, True])
def test_attention_of_a_vit_patch_is_a_row_of_the_layers_softmax(pad_input) -> None:
    encoder = spread(VisionTransformer(**VIT, pad_input=pad_input))
    x = paddle.randn([1, 3, 50, 64])
    found = patch_attention(encoder, x, (40, 17), layer=-1)
    h, w = (4, 4) if pad_input else (3, 4)
    assert (found.layer, found.query, found.key_px) == (1, (2, 1), 16)
    with paddle.no_grad():
        tokens, _ = encoder.embed(x)
        tokens = encoder.blocks[1].norm1(encoder.blocks[0](tokens))
        qkv = encoder.blocks[1].attn.qkv(tokens).numpy()[0].reshape(-1, 3, 3, 8)
    token = 1 + 2 * w + 1
    for head in range(3):
        scores = qkv[:, 1, head] @ qkv[token, 0, head] / 8**0.5
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(found.weights[head].ravel(), expected[1:], atol=1e-6)
    assert found.weights.shape == (3, h, w)


def test_pixel_that_fills_no_patch_belongs_to_the_last_one() -> None:
    encoder = spread(VisionTransformer(**VIT))
    found = patch_attention(encoder, paddle.randn([1, 3, 50, 64]), (49, 63))
    assert found.query == (2, 3)


@pytest.mark.parametrize(
    ("layer", "query_px", "key_px", "query", "shape"),
    [
        (0, 4, 32, (16, 7), (1, 3, 2)),
        (2, 8, 32, (8, 3), (2, 3, 2)),
        (-1, 64, 32, (1, 0), (4, 4, 3)),
    ],
)
def test_attention_of_a_mit_pixel_sees_the_reduced_map(
    layer, query_px, key_px, query, shape
) -> None:
    encoder = spread(MixVisionTransformer(**MIT, merge=(1, 1, 2, 2)))
    x = paddle.randn([1, 3, 97, 70])
    found = patch_attention(encoder, x, (65, 31), layer)
    assert (found.query_px, found.key_px, found.query) == (query_px, key_px, query)
    assert found.weights.shape == shape
    np.testing.assert_allclose(found.weights.sum(axis=(1, 2)), 1, atol=1e-5)
    _, attentions = encoder.forward_with_attentions(x)
    width = -(-70 // query_px)
    row = attentions[layer][0, :, query[0] * width + query[1]].numpy()
    np.testing.assert_allclose(found.weights.reshape(shape[0], -1), row, atol=1e-6)


@pytest.mark.parametrize(
    ("pixel", "layer", "message"),
    [((0, 0), 2, "layer: found 2, expected 0 to 1"), ((64, 0), 0, "expected a pixel of the 64x64")],
)
def test_wrong_layer_or_pixel_is_named(pixel, layer, message) -> None:
    encoder = spread(VisionTransformer(**VIT))
    with pytest.raises(UserError, match=message):
        patch_attention(encoder, paddle.randn([1, 3, 64, 64]), pixel, layer)


def test_class_maps_give_the_models_logits_after_the_norm() -> None:
    model = spread(MaskSegmenter(5, VisionTransformer(**VIT), 16, 1, 2))
    x = paddle.randn([1, 3, 48, 64])
    maps = class_maps(model, x)
    assert maps.shape == (5, 3, 4) and np.abs(maps).max() <= 1 + 1e-6
    logits = model.head.mask_norm(paddle.to_tensor(maps.transpose(1, 2, 0)))
    np.testing.assert_allclose(logits.numpy().transpose(2, 0, 1), model(x)[0].numpy(), atol=1e-5)
    with pytest.raises(UserError, match="a LinearSegmenter has no class embeddings"):
        class_maps(LinearSegmenter(5, VisionTransformer(**VIT)), x)


def test_pixel_follows_resizing_and_not_padding() -> None:
    rules = [
        {"type": "Resize", "target_size": [64, 128]},
        {"type": "Padding", "target_size": [96, 160]},
    ]
    image, steps = Preprocess.from_transforms(rules).resize(np.zeros((32, 32, 3), np.uint8))
    assert pixel_in_input((31, 0), steps, image.shape[:2]) == (126, 1)
    assert pixel_in_input((5, 6), [], (32, 32)) == (5, 6)


def test_heat_is_drawn_in_squares_over_what_they_stand_for() -> None:
    image = np.full((40, 48, 3), 100, np.uint8)
    picture = heat_picture(image, np.array([[0.0, 1.0]]), 16, (0.0, 1.0))
    assert picture.shape == image.shape and (image == 100).all()
    assert (picture[16:] == 100).all() and (picture[:, 32:] == 100).all()
    hot, cold = picture[:16, 16:32], picture[:16, :16]
    assert (hot == hot[0, 0]).all() and (cold == cold[0, 0]).all()
    assert hot[0, 0].sum() > cold[0, 0].sum()
    encoder = spread(VisionTransformer(**VIT))
    attention = patch_attention(encoder, paddle.randn([1, 3, 40, 48]), (20, 20))
    assert attention_picture(image, attention, None)[16, 20].tolist() == [255, 0, 0]


CONFIG = """
val_dataset:
  type: CamVid
  dataset_root: none
  transforms: [{type: ResizeByShort, short_size: 64}, {type: Normalize}]
model:
"""
MODELS = {
    "mask": """
  type: MaskSegmenter
  num_classes: 11
  backbone: {type: VisionTransformer, img_size: 64, embed_dim: 24, depth: 2, num_heads: 3}
  h_embed_dim: 16
  h_depth: 1
  h_num_heads: 2
""",
    "segformer": """
  type: SegFormer
  num_classes: 11
  embedding_dim: 16
  backbone:
    {type: MixVisionTransformer_B0, embed_dims: [8, 16, 24, 32], depths: [1, 1, 1, 1],
     num_heads: [1, 2, 3, 4]}
""",
}


@pytest.fixture(params=MODELS)
def job(request, tmp_path):
    """Return the kind of model and the flags of a `visualize` job."""
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.config.building import build_model

    path = tmp_path / "small.yml"
    path.write_text(CONFIG + MODELS[request.param])
    save_weights(build_model(load_config(path)), tmp_path / "model.pdparams")
    image = np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)
    write_image(tmp_path / "street.png", image)
    flags = ["--config", path, "--model_path", tmp_path / "model.pdparams"]
    flags += ["--image_path", tmp_path / "street.png", "--save_dir", tmp_path / "out"]
    return request.param, ["visualize", *map(str, flags)], tmp_path / "out" / "street"


def test_job_writes_the_pictures(job) -> None:
    kind, flags, folder = job
    assert main([*flags, "--patch", "69", "0", "--layer", "1"]) == 0
    names = sorted(path.name for path in folder.iterdir())
    heads = 3 if kind == "mask" else 2
    expected = [f"attention_layer1_head{head}.png" for head in range(heads)]
    assert [name for name in names if "attention" in name] == [
        *expected, "attention_layer1_mean.png",
    ]  # fmt: skip
    assert any(name.startswith("class") for name in names) == (kind == "mask")
    assert cv2.imread(str(folder / expected[0])).shape == (64, 88, 3)


def test_job_reads_images_with_the_value_range(job) -> None:
    _, flags, folder = job
    chosen = ["--layer", "1", "--heads", "1", "--opts"]
    assert main([*flags, *chosen, "val_dataset.value_range=dtype"]) == 0
    path = folder / "attention_layer1_head1.png"
    expected = cv2.imread(str(path)).astype(int)
    street = folder.parents[1] / "street.png"
    assert cv2.imwrite(str(street), cv2.imread(str(street)).astype(np.uint16) * 16)
    path.unlink()
    assert main([*flags, *chosen, "val_dataset.value_range=[0, 4080]"]) == 0
    assert abs(cv2.imread(str(path)).astype(int) - expected).max() <= 1


def test_job_takes_chosen_heads_and_classes(job, capsys) -> None:
    kind, flags, folder = job
    status = main([*flags, "--heads", "1", "--layer", "-1", "--classes", "3", "6"])
    if kind == "segformer":
        assert status == 1
        assert "a SegFormer has no class embeddings" in capsys.readouterr().err
        return
    assert status == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "attention_layer1_head1.png", "attention_layer1_mean.png", "class3_Road.png",
        "class6_SignSymbol.png",
    ]  # fmt: skip


@pytest.mark.parametrize("chosen", [["--patch", "3", "4"], ["--patch", "3", "4", "--classes", "3"]])
def test_job_explains_a_pixel(job, chosen) -> None:
    _, flags, folder = job
    ways = ["--explain", "gradient", "occlusion", "--occlusion_px", "40"]
    assert main([*flags, *chosen, *ways, "--layer", "1", "--heads"]) == 0
    found = [path for path in folder.iterdir() if re.match("(gradient|occlusion)_class", path.name)]
    assert len(found) == 2
    assert all(cv2.imread(str(path)).shape == (64, 88, 3) for path in found)
    assert all("class3_Road" in path.name for path in found if "3" in chosen[3:])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--explain", "gradient", "--classes", "99"], "--classes: found 99, expected ids of 0"),
        (["--explain", "occlusion", "--occlusion_px", "0"], "--occlusion_px: found 0"),
        (["--patch", "70", "0"], "--patch: found y 70, x 0, expected a pixel of the image"),
        (["--heads", "9"], "--heads: found [9]"),
        (["--layer", "9"], "layer: found 9"),
    ],
)
def test_mistakes_of_the_job_are_one_line(job, capsys, more, message) -> None:
    assert main([*job[1], *more]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert "street.png" in error or "occlusion_px" in error
