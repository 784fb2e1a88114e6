"""Random models of transformers: their files give their outputs here, and ours give ours there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from random_weights import VARIANTS, randomize, relative_difference

from paddleseg_segformer import huggingface as ours

theirs = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SIZES_HW = [(64, 64), (97, 131), (512, 512)]
HEADS = {"B0": 19, "B2": 150, "B5": 150}  # classes
SEGMENTATION, CLASSIFIER = "SegformerForSemanticSegmentation", "SegformerForImageClassification"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def their_model(variant: str, kind: str, **fields: Any) -> Any:
    width, depths, head_width = VARIANTS[variant]
    dims = [width * heads for heads in (1, 2, 5, 8)]
    config = theirs.SegformerConfig(
        hidden_sizes=dims, depths=list(depths), decoder_hidden_size=head_width, **fields
    )
    model = getattr(theirs, kind)(config)
    randomize(model)
    return model


def outputs_of(model: Any, other: Any, hw: tuple[int, int], **flags: Any) -> tuple[Any, Any]:
    """Return the outputs of our model and of theirs for one image."""
    x = np.random.randn(1, 3, *hw).astype(np.float32)
    with torch.no_grad(), paddle.no_grad():
        return model(paddle.to_tensor(x), **flags), other(torch.from_numpy(x), **flags)


def compare(model: Any, other: Any, hw: tuple[int, int]) -> float:
    found, expected = outputs_of(model, other, hw)
    assert 0.05 < float(expected.logits.std()) < 50
    return relative_difference(found.logits.numpy(), expected.logits.numpy())


slow_b5 = pytest.param("B5", SIZES_HW, marks=pytest.mark.slow)


@pytest.mark.parametrize(("variant", "sizes_hw"), [("B0", SIZES_HW), ("B2", SIZES_HW[:2]), slow_b5])
def test_their_segmentation_model_here_and_ours_there(
    variant: str, sizes_hw: list[tuple[int, int]], tmp_path: Path
) -> None:
    other = their_model(variant, SEGMENTATION, num_labels=HEADS[variant])
    other.save_pretrained(tmp_path / "theirs")
    model = ours.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "theirs")
    for hw in sizes_hw:
        assert compare(model, other, hw) < 1e-5, hw
    model.save_pretrained(tmp_path / "ours")
    back, loading = theirs.SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert back.config.num_labels == HEADS[variant]
    state = other.state_dict()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    back.eval()
    assert compare(model, back, (64, 64)) < 1e-5


@pytest.mark.parametrize("is_map", [True, False])
def test_their_classifier_here_and_ours_there(is_map: bool, tmp_path: Path) -> None:
    names = {index: f"kind {index}" for index in range(11)}
    other = their_model("B0", CLASSIFIER, id2label=names, reshape_last_stage=is_map)
    other.save_pretrained(tmp_path / "theirs")
    model = ours.SegformerForImageClassification.from_pretrained(tmp_path / "theirs")
    assert model.config.id2label == names
    for hw in SIZES_HW[:2]:
        assert compare(model, other, hw) < 1e-5, hw
    found, expected = outputs_of(model, other, (64, 96), output_hidden_states=True)
    for state, other_state in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert relative_difference(state.numpy(), other_state.numpy()) < 1e-5
    model.save_pretrained(tmp_path / "ours")
    back, loading = theirs.SegformerForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values()), loading
    back.eval()
    assert back.config.id2label == names and back.config.reshape_last_stage is is_map
    assert compare(model, back, (64, 64)) < 1e-5


def test_their_encoder_here_and_ours_there(tmp_path: Path) -> None:
    other = their_model("B0", "SegformerModel")
    other.save_pretrained(tmp_path / "theirs")
    model = ours.SegformerModel.from_pretrained(tmp_path / "theirs")
    found, expected = outputs_of(model, other, (97, 131))
    found, expected = found.last_hidden_state.numpy(), expected.last_hidden_state.numpy()
    assert relative_difference(found, expected) < 1e-5
    model.save_pretrained(tmp_path / "ours")
    back, loading = theirs.SegformerModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values()), loading


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our and their B0 with the same weights; theirs computes attention so that it can show it."""
    folder = tmp_path_factory.mktemp("pair")
    other = their_model("B0", SEGMENTATION, num_labels=7)
    other.save_pretrained(folder)
    other.set_attn_implementation("eager")
    return ours.SegformerForSemanticSegmentation.from_pretrained(folder), other


def test_hidden_states_and_attentions_are_theirs(pair: tuple[Any, Any]) -> None:
    flags = {"output_hidden_states": True, "output_attentions": True}
    found, expected = outputs_of(*pair, (97, 131), **flags)
    for name, count, bound in (("hidden_states", 4, 1e-5), ("attentions", 8, 5e-5)):
        own, other = getattr(found, name), getattr(expected, name)
        assert len(own) == len(other) == count
        for one, another in zip(own, other, strict=True):
            assert relative_difference(one.numpy(), another.numpy()) < bound


def test_gradients_of_attentions_are_theirs(pair: tuple[Any, Any]) -> None:
    x = np.random.randn(1, 3, 97, 131).astype(np.float32)
    found = pair[0](paddle.to_tensor(x), output_attentions=True)
    expected = pair[1](torch.from_numpy(x), output_attentions=True)
    for weights, others in zip(found.attentions, expected.attentions, strict=True):
        weights.retain_grads()
        others.retain_grad()
    found.logits.square().mean().backward()
    expected.logits.square().mean().backward()
    for weights, others in zip(found.attentions, expected.attentions, strict=True):
        assert relative_difference(weights.grad.numpy(), others.grad.numpy()) < 1e-4


@pytest.mark.parametrize("kind", [SEGMENTATION, CLASSIFIER, "SegformerModel"])
def test_numbers_of_weights_are_theirs(kind: str) -> None:
    config = {"num_labels": 5, "hidden_sizes": [8, 16, 20, 32], "decoder_hidden_size": 16}
    other = getattr(theirs, kind)(theirs.SegformerConfig(**config))
    model = getattr(ours, kind)(ours.SegformerConfig(**config))
    assert model.num_parameters() == other.num_parameters()


def test_segmentation_loss_is_theirs(pair: tuple[Any, Any]) -> None:
    labels = np.random.choice([*range(7), 255], (1, 64, 96))
    x = np.random.randn(1, 3, 64, 96).astype(np.float32)
    expected = pair[1](torch.from_numpy(x), labels=torch.from_numpy(labels)).loss.detach()
    found = pair[0](paddle.to_tensor(x), labels=paddle.to_tensor(labels)).loss
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_binary_loss_is_theirs(tmp_path: Path) -> None:
    other = their_model("B0", SEGMENTATION, num_labels=1)
    other.save_pretrained(tmp_path)
    model = ours.SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    labels = np.random.choice([0, 1, 255], (1, 64, 96))
    x = np.random.randn(1, 3, 64, 96).astype(np.float32)
    expected = other(torch.from_numpy(x), labels=torch.from_numpy(labels)).loss.detach()
    found = model(paddle.to_tensor(x), labels=paddle.to_tensor(labels)).loss
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (4, np.array([1, 3])),
        (4, np.array([[0, 1, 1, 0], [1, 0, 0, 0]], np.float32)),
        (1, np.array([0.5, -1.0], np.float32)),
    ],
)
def test_classification_losses_are_theirs(num_labels: int, labels: np.ndarray, tmp_path) -> None:
    other = their_model("B0", CLASSIFIER, num_labels=num_labels)
    other.save_pretrained(tmp_path)
    model = ours.SegformerForImageClassification.from_pretrained(tmp_path)
    x = np.random.randn(2, 3, 64, 64).astype(np.float32)
    expected = other(torch.from_numpy(x), labels=torch.from_numpy(labels)).loss.detach()
    found = model(paddle.to_tensor(x), labels=paddle.to_tensor(labels)).loss
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
