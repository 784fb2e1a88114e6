"""`list_models`: published weights that can be named instead of a path."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_segformer.zoo import list_models, local_copy


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    parser.add_argument("--local", action="store_true", help="only those on this machine")


def run(args: Namespace) -> None:
    """Print a line for each."""
    print(f"{'name = alias':<80} {'holds':<8} {'trained on':<29} {'MB':>4}  local  licence")
    for model in list_models():
        path = local_copy(model)
        if args.local and not path:
            continue
        name = " = ".join((model.name, *model.aliases))
        kind = "encoder" if model.is_backbone else "model"
        print(
            f"{name:<80} {kind:<8} {model.trained_on:<29} {model.megabytes:>4}  "
            f"{'yes' if path else 'no':<5}  {model.licence}"
        )
    print("\nSizes are about those of the files. No checksums are published: see zoo.py.")
