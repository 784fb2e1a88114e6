"""The command line of `python -m paddleseg_segformer.gradio_page`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from paddleseg_segformer.components import import_components
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, one_line
from paddleseg_segformer.runtimes.engines import BACKENDS


def main(argv: Sequence[str] | None = None) -> int:
    """Open the page; return the exit status (1 with a one-line message for a user's mistake)."""
    try:
        with explained():
            run(make_parser().parse_args(argv))
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m paddleseg_segformer.gradio_page",
        description="Open a page in the browser to try a model on images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        help="folder of an export, model folder, or weights with their config",
    )
    add(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or .py file of your own that registers the model's components",
    )
    add(
        "--backend",
        choices=BACKENDS,
        help="backend of an export; without it: the fastest that is installed and reads it",
    )
    add("--device", help="cpu, gpu, gpu:1; without it: the GPU where Paddle has one, else the CPU")
    add("--cpu_threads", type=int, default=os.cpu_count(), help="threads of an export on the CPU")
    add("--examples", type=Path, help="folder of example images; without it: drawn street scenes")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    add("--port", type=int, default=7860, help="port to listen on; 0: any free one")
    add("--share", action="store_true", help="open a public address through Gradio's servers")
    return parser


def run(args: argparse.Namespace) -> None:
    """Load the model and serve the page until interrupted.

    Raises:
        UserError: the model, a flag or the folder of examples is wrong.
        MissingDependency: Gradio or a backend is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported
    from paddleseg_segformer.gradio_page.model import load
    from paddleseg_segformer.gradio_page.page import make_page, serve
    from paddleseg_segformer.gradio_page.pictures import example_images

    for source in args.imports:
        import_components(source)
    model = load(args.model, args.backend, args.device, args.cpu_threads)
    page = make_page(model, example_images(args.examples))
    serve(page, args.host, args.port, args.share)


if __name__ == "__main__":
    sys.exit(main())
