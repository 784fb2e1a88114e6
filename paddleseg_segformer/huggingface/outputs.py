"""Outputs of models and the image processor: fields by name, by key and by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddle import Tensor


@dataclass
class ModelOutput(Mapping[str, Any]):
    """Fields of one forward pass; those not asked for are None, and have no key or position."""

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in list(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        names = (field.name for field in dataclasses.fields(self))
        return (name for name in names if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class EncoderOutput(ModelOutput):
    """Output of `SegformerModel`.

    Args:
        last_hidden_state: (N, C4, ceil(H / 32), ceil(W / 32)), or its tokens (N, L, C4).
        hidden_states: Four maps (N, C_i, h_i, w_i), each after its stage's norm.
        attentions: Attention weights (N, heads, L, S) of each block.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class LogitsOutput(ModelOutput):
    """Output of a model with a head.

    Args:
        loss: Scalar, where labels were given.
        logits: (N, K, ceil(H / 4), ceil(W / 4)) of a segmentation model, (N, K) of a classifier.
        hidden_states: As in `EncoderOutput`.
        attentions: As in `EncoderOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SegmentationOutput(ModelOutput):
    """Map and scores of one image.

    Args:
        segmentation: Class ids (h, w), int64.
        segmentation_scores: Logits (K, h, w).
    """

    segmentation: Tensor
    segmentation_scores: Tensor


class BatchFeature(dict[str, Any]):
    """A dictionary whose values are attributes too; `model(**features)` takes it."""

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move the tensors as `Tensor.to` does; a number type is for those of floating point."""
        for key, item in self.items():
            if isinstance(item, Tensor):
                moved = item.to(*args, **kwargs)
                self[key] = moved if item.is_floating_point() else item.to(moved.place)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
