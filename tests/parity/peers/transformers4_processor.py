"""The image processor of transformers 4: `python SCRIPT FOLDER` with its settings and inputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import SegformerImageProcessor
from transformers import __version__ as version

assert version.startswith("4."), version

folder = Path(sys.argv[1])
inputs = np.load(folder / "inputs.npz")
settings = json.loads((folder / "settings.json").read_text())
processor = SegformerImageProcessor(**settings)
features = processor(inputs["image"], inputs["label"], return_tensors="np")
outputs = SimpleNamespace(logits=torch.from_numpy(inputs["logits"]))
labels = processor.post_process_semantic_segmentation(outputs, [tuple(inputs["target_size"])])
np.savez(folder / "outputs.npz", map=labels[0].numpy(), **features)
