"""What the scripts of all peers do: write a random model with its outputs, read ours back.

A script runs in a process of its own, with the peer's packages in the way:
`python SCRIPT write FOLDER VARIANT` or `python SCRIPT read FOLDER VARIANT`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_weights import randomize

Outputs = dict[str, torch.Tensor]


def run(
    build: Callable[[str], Any],
    save: Callable[[Any, Path], None],
    load: Callable[[Any, Path], Any],
    outputs_of: Callable[[Any, torch.Tensor], Outputs],
) -> None:
    """Do one job.

    Args:
        build: Makes the peer's model of a variant.
        save: Writes it the peer's own way, into a folder.
        load: Loads our file in a folder, strictly; returns the model.
        outputs_of: The outputs to compare for one input, by name.
    """
    job, folder, variant = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    inputs = np.load(folder / "inputs.npz")
    model = build(variant)
    if job == "write":
        randomize(model)
        save(model, folder)
    else:
        model = load(model, folder)
        model.eval()
    results = {}
    with torch.no_grad():
        for size, x in inputs.items():
            for name, value in outputs_of(model, torch.from_numpy(x)).items():
                results[f"{size} {name}"] = value.numpy()
    np.savez(folder / f"{job}.npz", **results)
