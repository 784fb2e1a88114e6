"""Checkpoints as mmengine's runner writes them: the message hub holds objects of its own class."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_segformer.converting import prepare
from paddleseg_segformer.models import BACKBONES, SegFormerMM
from paddleseg_segformer.weights import open_checkpoint, save_weights

torch = pytest.importorskip("torch")


class HistoryBuffer:
    """Its state names its own methods, which pickle spells as a call of getattr."""

    def __init__(self) -> None:
        self._log_history = np.array([1.0, 0.5])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}

    def mean(self) -> float:
        raise AssertionError("called")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = SegFormerMM(3, BACKBONES["MixVisionTransformer_B0"](depths=(1, 1, 1, 1)), 16)
    save_weights(model, tmp_path / "own.pdparams")
    tensors = prepare(tmp_path / "own.pdparams", "mmseg").tensors
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for named in (HistoryBuffer, HistoryBuffer.mean):
        monkeypatch.setattr(named, "__module__", module.__name__)
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = {
        "meta": {"dataset_meta": {"classes": ("a", "b", "c"), "palette": [[1, 2, 3]] * 3}},
        "state_dict": {name: torch.from_numpy(array) for name, array in tensors.items()},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
    }
    torch.save(content, tmp_path / "iter_10.pth")
    assert b"__builtin__\ngetattr" in (tmp_path / "iter_10.pth").read_bytes()
    return tmp_path / "iter_10.pth"


def test_message_hub_is_passed_over(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "mmseg" and checkpoint.classes == ["a", "b", "c"]
    assert not checkpoint.missing and not checkpoint.unexpected
