"""A checkpoint folder of PaddleSeg's is told from ours before anything is read."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.checkpoints import read_checkpoint


def test_checkpoint_of_paddlesegs_says_how_to_start_from_its_weights(tmp_path) -> None:
    folder = tmp_path / "iter_1000"
    folder.mkdir()
    weights = {"weight": paddle.to_tensor(np.ones(3, np.float32))}
    paddle.save(weights, str(folder / "model.pdparams"))
    paddle.save({"weight_moment1_0": weights["weight"]}, str(folder / "model.pdopt"))
    with pytest.raises(UserError, match="PaddleSeg's, which cannot be resumed") as caught:
        read_checkpoint(folder)
    assert f"--opts model.pretrained={folder / 'model.pdparams'}" in str(caught.value)
