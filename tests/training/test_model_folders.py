"""What a training run leaves is a model folder: prediction needs nothing else."""

from __future__ import annotations

import cv2
import numpy as np
from small_runs import train

from paddleseg_segformer import Predictor


def test_best_model_and_checkpoints_predict_by_their_folder(folder):
    opts = ["--opts", "val_dataset.classes=[low, middle, high]"]
    assert train(folder, "out", "--iters", "4", "--do_eval", "--save_interval", "4", *opts) == 0
    image = cv2.imread(str(folder / "val0.png"))[:, :, ::-1]
    labels = []
    for name in ("best_model", "iter_4"):
        saved = folder / "out" / name
        predictor = Predictor.from_pretrained(saved)
        assert predictor.label_set.classes == ("low", "middle", "high")
        by_config = Predictor.from_config(saved / "config.yml", saved / "model.pdparams")
        labels.append(predictor(image).label)
        np.testing.assert_array_equal(labels[-1], by_config(image).label)
    np.testing.assert_array_equal(*labels)  # the same iteration
