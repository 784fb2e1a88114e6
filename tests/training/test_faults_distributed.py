"""Faults in one of several processes: all of them decide alike."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from small_runs import assert_equal_weights, log, poison, weights
from test_distributed import launch, train_arguments


@pytest.mark.slow
def test_processes_skip_and_replace_together_and_resume_exactly(folder):
    poison(folder)
    (folder / "train5.png").write_bytes(b"not an image")
    flags = ("--on_nonfinite", "skip", "--on_bad_sample", "skip", "--save_interval", "3")
    flags = (*flags, "--iters", "9", "--resume_model", "auto", "--do_eval")
    assert launch(folder, 2, *train_arguments(folder, "whole", *flags))[0] == 0
    shutil.copytree(folder / "whole", folder / "parts")
    for late in ("iter_6", "iter_9"):
        shutil.rmtree(folder / "parts" / late)
    (folder / "parts" / "iter_6").mkdir()  # damaged: found by the first, passed over by all
    status, output = launch(folder, 2, *train_arguments(folder, "parts", *flags))
    assert status == 0, output
    assert re.search(r"iter_6 is damaged and was skipped", output)
    assert re.search(r"resumed from \S+iter_3 at iter 3", output)
    assert_equal_weights(folder, "whole", "parts", "iter_9")
    assert all(np.isfinite(value).all() for value in weights(folder, "parts", "iter_9").values())
    ends = [log(folder, out)[-2] for out in ("whole", "parts")]
    for name in ("Train/num_skipped_steps", "Train/num_replaced_samples"):
        assert ends[0][name] == ends[1][name] > 0, name
