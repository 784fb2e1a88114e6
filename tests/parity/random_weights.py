"""Random weights under which a wrong name, transpose, order or epsilon changes the output."""

from __future__ import annotations

import numpy as np

VARIANTS = {  # width of stage 1's heads, depths, width of the published head
    "B0": (32, (2, 2, 2, 2), 256),
    "B2": (64, (3, 4, 6, 3), 768),
    "B5": (64, (3, 6, 40, 3), 768),
}


def random_values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return float32 values for one weight of PyTorch's layout, by what its name says it is."""
    noise = rng.standard_normal(shape)
    if name.endswith("running_var"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    if len(shape) > 1:
        return (noise / np.prod(shape[1:]) ** 0.5).astype(np.float32)
    is_scale = name.endswith("weight")
    return (is_scale + 0.2 * noise).astype(np.float32)


def randomize(module, seed: int = 0) -> None:  # a torch.nn.Module
    """Give every weight and statistic of a PyTorch module random values; evaluation mode."""
    import torch

    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(torch.from_numpy(random_values(name, tuple(tensor.shape), rng)))
    module.eval()


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, in standard deviations of what is expected."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / expected.std())
