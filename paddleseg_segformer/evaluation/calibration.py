"""Calibration: whether a confidence of 80 % is right in 80 % of the pixels, and what makes it so.

Temperatures divide the logits before the softmax: one for all pixels, or one for each predicted
class. The order of the classes at a pixel stays, so labels do too. All figures come from a random
sample of pixels, and those after calibration from images that the temperatures were not fitted on
(the two halves of the images in turn).

Legend: n sampled pixels, K classes, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BINS = 15
MAX_SAMPLE_PIXELS = 200_000
MAX_SAMPLE_VALUES = 1 << 23  # n K float32: 32 MiB
_MIN_CLASS_PIXELS, _MIN_CLASS_IMAGES = 500, 5  # else a class gets the temperature of all
_LIMITS = 0.1, 10.0  # of temperatures
_CHUNK = 1 << 14  # pixels at a time
METHODS = {
    "none": "as the network gives it",
    "one": "one temperature",
    "per_class": "one temperature for each predicted class",
}


class PixelSample:
    """Log probabilities and labels of random pixels of images.

    Args:
        num_images: Images that will be added; each gives as many pixels.
        num_classes: K.
    """

    def __init__(self, num_images: int, num_classes: int) -> None:
        total = min(MAX_SAMPLE_PIXELS, MAX_SAMPLE_VALUES // num_classes)
        self.per_image = max(1, total // max(num_images, 1))
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def choose(self, label: np.ndarray, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of labelled pixels of the next image, the same in every run."""
        candidates = np.flatnonzero(label.ravel() != ignore_index)
        rng = np.random.default_rng(len(self._labels))
        count = min(self.per_image, len(candidates))
        chosen = candidates[rng.choice(len(candidates), count, replace=False)]
        return np.divmod(chosen, label.shape[1])

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Take log probabilities (n, K) and labelled ids (n,) of the next image."""
        self._scores.append(scores)
        self._labels.append(labels.astype(np.int64))

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the log probabilities (n, K) and labelled ids (n,) of all images."""
        return np.concatenate(self._scores), np.concatenate(self._labels)

    def calibration(self) -> Calibration | None:
        """Return the calibration fitted on the sample; None where it has no pixel."""
        images = np.repeat(np.arange(len(self._labels)), [len(item) for item in self._labels])
        return calibrate(*self.pixels(), images) if len(images) else None


@dataclass(frozen=True)
class Quality:
    """How well confidence is calibrated.

    Args:
        ece: Expected calibration error: mean of |accuracy - confidence| over bins of confidence.
        classwise_ece: The same of each class's probability, mean over classes.
        brier: Brier score: mean squared error of the probabilities, summed over classes; 0 to 2.
        nll: Mean negative log likelihood of the labelled class in nats.
        bins: Share of the pixels, accuracy and mean confidence of each bin, (3, B); an empty bin
            is NaN in the last two.
        coverage: Shares of the pixels that are kept, the most confident first, (101,).
        risk: Share of wrong pixels among them, (101,).
        threshold: The lowest confidence among them, (101,).
    """

    ece: float
    classwise_ece: float
    brier: float
    nll: float
    bins: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray

    def kept(self, max_risk: float) -> tuple[float, float, float] | None:
        """Return threshold, coverage and risk of the most pixels with a risk of at most this.

        None where no threshold reaches it.
        """
        found = np.flatnonzero(self.risk <= max_risk)
        if not len(found):
            return None
        last = found[-1]
        return float(self.threshold[last]), float(self.coverage[last]), float(self.risk[last])

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, without the curves."""
        return {
            "ece": self.ece,
            "classwise_ece": self.classwise_ece,
            "brier": self.brier,
            "nll": self.nll,
        }


@dataclass(frozen=True)
class Calibration:
    """Temperatures fitted on a sample, and its quality with each method.

    Args:
        qualities: By `METHODS`.
        temperatures: By method, fitted on all images.
        num_pixels: n.
        num_images: Images that they come from.
    """

    qualities: dict[str, Quality]
    temperatures: dict[str, tuple[float, ...]]
    num_pixels: int
    num_images: int

    @property
    def best(self) -> str:
        """Return the method with the smallest negative log likelihood on unseen images.

        One that makes the calibration error on them larger is left out: on few images the
        likelihood of a few sure mistakes can outweigh all else.
        """
        most = self.qualities["none"].ece
        names = [name for name, quality in self.qualities.items() if quality.ece <= most]
        return min(names, key=lambda name: self.qualities[name].nll)


def calibrate(scores: np.ndarray, labels: np.ndarray, images: np.ndarray) -> Calibration:
    """Fit temperatures and measure what they bring.

    Args:
        scores: Logits or log probabilities, (n, K).
        labels: Labelled ids, (n,).
        images: Number of the image that each pixel is of, (n,).
    """
    temperatures = {name: _fitted(name, scores, labels, images) for name in METHODS}
    used = {name: np.ones(len(labels), np.float32) for name in METHODS}
    predicted = scores.argmax(axis=1)
    halves = images % 2
    is_split = len(np.unique(halves)) == 2  # of a single image nothing is unseen
    for half in (0, 1) if is_split else (halves[0],):
        is_measured = halves == half
        is_fitted_on = ~is_measured if is_split else is_measured
        part = scores[is_fitted_on], labels[is_fitted_on], images[is_fitted_on]
        for name in METHODS:
            fitted = _fitted(name, *part) or (1.0,)
            values = np.broadcast_to(np.array(fitted, np.float32), scores.shape[1])
            used[name][is_measured] = values[predicted[is_measured]]
    qualities = {name: _quality(scores, labels, divisors) for name, divisors in used.items()}
    return Calibration(qualities, temperatures, len(labels), len(np.unique(images)))


def _fitted(
    method: str, scores: np.ndarray, labels: np.ndarray, images: np.ndarray
) -> tuple[float, ...]:
    """Return a method's temperatures as `InferenceSettings` takes them."""
    if method == "none":
        return ()
    of_all = fit_temperature(scores, labels)
    if method == "one":
        return (of_all,)
    predicted = scores.argmax(axis=1)
    temperatures = []
    for class_id in range(scores.shape[1]):
        own = predicted == class_id
        is_enough = own.sum() >= _MIN_CLASS_PIXELS
        is_enough = is_enough and len(np.unique(images[own])) >= _MIN_CLASS_IMAGES
        temperatures.append(fit_temperature(scores[own], labels[own]) if is_enough else of_all)
    return tuple(temperatures)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the smallest negative log likelihood, to four digits.

    It is convex in the inverse temperature, and found by Newton's method. Where no error holds
    confidence back, it ends at 0.1.

    Args:
        scores: (n, K).
        labels: (n,).
    """
    inverse = 1.0
    for _ in range(50):
        slope = curvature = 0.0
        for start in range(0, len(labels), _CHUNK):
            z = scores[start : start + _CHUNK].astype(np.float64)
            p = _softmax(inverse * z)
            mean = (p * z).sum(axis=1)
            own = z[np.arange(len(z)), labels[start : start + _CHUNK]]
            slope += float((mean - own).sum())
            curvature += float(((p * (z - mean[:, None]) ** 2).sum(axis=1)).sum())
        new = inverse - slope / max(curvature, 1e-12)
        new = float(np.clip(new, inverse / 2, inverse * 2))  # far away it would overshoot
        new = float(np.clip(new, 1 / _LIMITS[1], 1 / _LIMITS[0]))
        if abs(new - inverse) < 1e-6 * inverse:
            break
        inverse = new
    return float(f"{1 / inverse:.4g}")


def _quality(scores: np.ndarray, labels: np.ndarray, divisors: np.ndarray) -> Quality:
    """Return the quality of softmax(scores / divisors)."""
    num_pixels, num_classes = scores.shape
    confidence, is_right = np.empty(num_pixels), np.empty(num_pixels, bool)
    squares = likelihood = 0.0
    # for each class and bin of its probability: pixels, sum of probabilities, labelled so
    sums = np.zeros((3, num_classes * NUM_BINS))
    for start in range(0, num_pixels, _CHUNK):
        rows = slice(start, start + _CHUNK)
        z, own = scores[rows].astype(np.float64) / divisors[rows, None], labels[rows]
        p = _softmax(z)
        confidence[rows], is_right[rows] = p.max(axis=1), p.argmax(axis=1) == own
        of_label = p[np.arange(len(p)), own]
        squares += float((p**2).sum() - 2 * of_label.sum() + len(p))
        likelihood -= float(np.log(np.maximum(of_label, np.finfo(float).tiny)).sum())
        cells = np.arange(num_classes) * NUM_BINS + bins_of(p)
        is_label = np.zeros(p.shape)
        is_label[np.arange(len(p)), own] = 1
        for total, values in zip(sums, (np.ones_like(p), p, is_label), strict=True):
            total += np.bincount(cells.ravel(), values.ravel(), len(total))
    gaps = np.abs(sums[2] - sums[1]).reshape(num_classes, NUM_BINS).sum(axis=1) / num_pixels
    bins = _reliability(confidence, is_right)
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~is_right[order])
    last = np.maximum(np.ceil(np.linspace(0, 1, 101) * num_pixels).astype(int), 1) - 1
    return Quality(
        ece=float(np.nansum(bins[0] * np.abs(bins[1] - bins[2]))),
        classwise_ece=float(gaps.mean()),
        brier=squares / num_pixels,
        nll=likelihood / num_pixels,
        bins=bins,
        coverage=(last + 1) / num_pixels,
        risk=wrong[last] / (last + 1),
        threshold=confidence[order][last],
    )


def _reliability(confidence: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Return share, accuracy and mean confidence of each bin, (3, B)."""
    index = bins_of(confidence)
    counts = np.bincount(index, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        return np.stack(
            [
                counts / len(confidence),
                np.bincount(index, is_right, NUM_BINS) / counts,
                np.bincount(index, confidence, NUM_BINS) / counts,
            ]
        )


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the bin of each probability: B of equal width."""
    return np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)


def _softmax(z: np.ndarray) -> np.ndarray:
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)
