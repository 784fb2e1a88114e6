"""What can be wrong with a data set: every kind of finding, and the findings of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from paddleseg_segformer.errors import UserError

EXAMPLES = 3  # shown of each kind
SEVERITIES = ("error", "warning", "note")


class Fault(UserError):
    """A file of a data set that cannot be used.

    Args:
        kind: A key of `KINDS`.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Kind(NamedTuple):
    """A kind of finding.

    Args:
        severity: "error" where the run would stop or be meaningless, else "warning" or "note".
        sentence: What it means, and the remedy.
    """

    severity: str
    sentence: str


KINDS: Mapping[str, Kind] = {
    name: Kind(severity, sentence)
    for name, severity, sentence in (
        ("file-missing", "error", "Files that are listed do not exist: correct the list."),
        ("file-empty", "error", "Files are empty: replace them or remove them from the list."),
        ("image-unreadable", "error", "Images cannot be decoded: replace or remove them."),
        ("image-cut", "error", "Images are cut off: replace or remove them."),
        ("image-bands", "error", "Images have another number of bands than img_channels."),
        ("image-not-finite", "error", "Images hold NaN or infinite values: replace the values."),
        (
            "image-few-bits",
            "error",
            "16-bit images use few of their bits: say what they mean by value_range, such as "
            "[0, 4095] for 12 bits.",
        ),
        (
            "image-range",
            "error",
            "Values lie far outside the range that Normalize is for, such as 0..1 where 0..255 is "
            "meant: set value_range, or scale the images, or mean and std.",
        ),
        ("label-unreadable", "error", "Labels cannot be read as class ids: replace or convert."),
        ("label-size", "error", "Labels differ in size from their image: make them equal."),
        ("label-id", "error", "Labels hold ids that are no class: correct labels or num_classes."),
        (
            "label-color",
            "error",
            "Labels are colour images: convert them to class ids, or list the colours in "
            "label_colors.",
        ),
        (
            "label-binary",
            "error",
            "Labels of two classes hold 0 and 255 alone: say label_values [0, 255] where 255 is "
            "class 1, or [0, 1] where it is for pixels without a class.",
        ),
        (
            "label-lossy",
            "error",
            "Labels are stored with loss (JPEG, WebP), which makes ids that nobody drew: export "
            "them again as PNG.",
        ),
        ("train-unlabelled", "error", "No pixel of the training labels has a class."),
        (
            "train-one-class",
            "error",
            "All labelled pixels of the training set have one class: there is nothing to learn.",
        ),
        (
            "lists-equal",
            "error",
            "Training and validation set are the same samples: split them.",
        ),
        (
            "image-in-two-splits",
            "error",
            "Images of the validation set are in the training set: remove them from one.",
        ),
        (
            "normalize-differs",
            "error",
            "Training and validation images are normalised differently: make them equal.",
        ),
        (
            "value-range-differs",
            "error",
            "Training and validation images have another value_range: make them equal.",
        ),
        (
            "sizes-mixed",
            "error",
            "The transforms leave training images of different sizes, which no batch can hold: end "
            "them in RandomPaddingCrop, or set batch_size to 1.",
        ),
        ("transform-fails", "error", "The training transforms fail: correct them."),
        ("normalize-missing", "warning", "No transform normalises the images: add Normalize."),
        (
            "normalize-far",
            "warning",
            "Mean or spread of the images is far from mean and std of Normalize (by more than two "
            "std, or a factor of four): check both.",
        ),
        (
            "class-not-trained",
            "warning",
            "Classes occur in the validation set but never in the training set: their IoU will "
            "be 0.",
        ),
        (
            "class-not-scored",
            "warning",
            "Classes occur in the training set but never in the validation set, which says nothing "
            "of them.",
        ),
        ("class-absent", "warning", "Classes never occur: check ids and names, or remove them."),
        (
            "class-shares-differ",
            "warning",
            "Shares of pixels differ more than tenfold between the data sets: split them anew.",
        ),
        ("label-ignored", "warning", "Labels without a labelled pixel teach nothing."),
        ("label-constant", "warning", "Labels hold a single class everywhere: look at them."),
        ("ignored-share", "warning", "More than half of the pixels have no class."),
        (
            "label-repeated",
            "warning",
            "One label file is listed for several images: check the list.",
        ),
        (
            "image-similar",
            "warning",
            "Images of the validation set nearly equal images of the training set: the score will "
            "flatter. Split by scene.",
        ),
        (
            "video-in-two-splits",
            "warning",
            "Frames of one video are in both data sets: the score will flatter. Split by video.",
        ),
        ("image-repeated", "warning", "Images come twice, in other files or with other labels."),
        ("sample-repeated", "warning", "Samples are listed more than once."),
        (
            "name-repeated",
            "warning",
            "Images differ in their suffix alone: check that both are meant.",
        ),
        ("list-short", "warning", "A data set has a single sample."),
        (
            "image-turned",
            "warning",
            "Images are turned as their EXIF says, while labels are not: check that they fit.",
        ),
        (
            "image-small",
            "warning",
            "Images are smaller than the crop, which is padded: lower crop_size or enlarge them.",
        ),
        ("image-constant", "warning", "Images hold a single colour: look at them."),
        ("image-alpha", "warning", "Images have transparent pixels, but alpha is not used."),
        ("image-grey", "note", "Grey images are mixed with colour images."),
    )
}


class Findings:
    """The findings of an audit: every item of each kind."""

    def __init__(self) -> None:
        self._items: dict[str, list[str]] = {}

    def add(self, kind: str, *items: str) -> None:
        """Add items, such as a path or a path and a reason, to a kind."""
        if kind not in KINDS:
            raise KeyError(kind)
        if items:
            self._items.setdefault(kind, []).extend(items)

    def update(self, other: Findings) -> None:
        """Add all items of others."""
        for kind, items in other._items.items():
            self.add(kind, *items)

    def of(self, kind: str) -> list[str]:
        """Return the items of a kind."""
        return self._items.get(kind, [])

    def to_list(self) -> list[dict[str, Any]]:
        """Return one entry per kind that was found, errors first, as plain data."""
        found = [kind for kind in KINDS if kind in self._items]
        found.sort(key=lambda kind: SEVERITIES.index(KINDS[kind].severity))
        return [
            {
                "kind": kind,
                "severity": KINDS[kind].severity,
                "sentence": KINDS[kind].sentence,
                "count": len(self._items[kind]),
                "examples": self._items[kind][:EXAMPLES],
            }
            for kind in found
        ]
