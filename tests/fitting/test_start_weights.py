"""Start weights: which file is taken, and into which part of the model."""

from __future__ import annotations

import pytest
from small_models import small_mit, small_segformer

from paddleseg_segformer import UserError
from paddleseg_segformer.fitting.options import MODELS, FitOptions
from paddleseg_segformer.fitting.start_weights import put_into, start_weights
from paddleseg_segformer.weights import save_weights


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "home" / "weights"


def options(**changes):
    return FitOptions.of(".", out="/tmp/out", **changes)


def file_in(folder, layer=None):
    folder.mkdir(parents=True)
    save_weights(layer or small_mit(), folder / "model.pdparams")
    return folder / "model.pdparams"


@pytest.mark.parametrize("model", MODELS)
def test_without_a_file_one_line_says_which_file_goes_where(model, home):
    weights = start_weights(options(model=model))
    assert weights.source is None
    name = f"mit_{model}" if model in ("b0", "b5") else None
    assert f"into {home}/{name or ''}" in weights.why and ".tar.gz into" in weights.why


@pytest.mark.parametrize("name", ["mit_b0", "nvidia/mit-b0"])
def test_encoder_in_the_cache_is_taken_by_its_name_and_with_its_licence(name, home):
    file_in(home / name.replace("/", "--"))
    weights = start_weights(options())
    assert (weights.source, weights.is_backbone) == (name, True)
    assert "non-commercial" in weights.why
    assert start_weights(options(model="b1")).source is None
    assert start_weights(options(pretrained="none")).source is None


def test_named_weights_go_into_the_part_that_they_are_of(tmp_path):
    encoder = file_in(tmp_path / "encoder")
    model = file_in(tmp_path / "model", small_segformer())
    for path, part in ((encoder, "backbone"), (model, "model")):
        section = {"type": "SegFormer", "backbone": {"type": "MixVisionTransformer_B0"}}
        put_into(section, start_weights(options(pretrained=str(path))))
        owner = section["backbone"] if part == "backbone" else section
        assert owner["pretrained"] == str(path)
        assert str(section).count("pretrained") == 1


def test_weights_of_a_run_bring_the_constants_that_they_were_trained_with(tmp_path):
    path = file_in(tmp_path / "run", small_segformer())
    assert start_weights(options(pretrained=str(path))).normalize is None  # nothing says them
    content = (
        "model: {type: SegFormer, embedding_dim: 16, backbone: {type: MixVisionTransformer_B0, "
        "embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}}\nval_dataset:\n  type: Dataset\n"
        "  transforms: [{type: Normalize, mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6]}]\n"
    )
    (tmp_path / "run" / "config.yml").write_text(content)
    normalize = start_weights(options(pretrained=str(tmp_path / "run"))).normalize
    assert list(normalize.mean) == [0.1, 0.2, 0.3] and list(normalize.std) == [0.4, 0.5, 0.6]


def test_named_weights_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="nowhere.pdparams"):
        start_weights(options(pretrained="nowhere.pdparams"))


def test_model_without_published_weights_starts_from_random_ones(tmp_path):
    path = tmp_path / "own.yml"
    path.write_text("model: {type: SegFormer, backbone: {type: MixVisionTransformer_B0}}\n")
    weights = start_weights(options(model=str(path)))
    assert weights.source is None and "the model names none" in weights.why
