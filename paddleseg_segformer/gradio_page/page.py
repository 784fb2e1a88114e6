"""The page itself, on Gradio. Switching classes, opacity and view does not run the network."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from paddleseg_segformer.data.io import encode_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.gradio_page.model import DemoModel
from paddleseg_segformer.gradio_page.pictures import (
    VIEWS,
    draw,
    present_classes,
    swatches,
    timings_table,
)
from paddleseg_segformer.predictor import Prediction

OPACITY_PERCENT = 60
MAX_FILE_SIZE = "64mb"
KEEP_S = 3600  # how long a visitor's last prediction, and files, are kept
CLASS_LIST = "classes"
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
main.app {width: 100% !important}
#classes label::before {
    content: ""; width: 14px; height: 14px; border-radius: 4px; margin-right: 6px;
    border: 1px solid var(--border-color-primary)
}
.timings {display: grid; grid-template-columns: max-content auto; gap: 2px 14px; margin: 0}
.timings dt {color: var(--body-text-color-subdued)}
.timings dd {margin: 0; font-variant-numeric: tabular-nums}
"""
FONTS = ("system-ui", "sans-serif")  # the computer's own: none is fetched


def make_page(model: DemoModel, examples: Sequence[Path]) -> gr.Blocks:
    """Return the page of a model.

    Args:
        model: Predicts the visitors' images.
        examples: Image files to pick from.
    """
    settings = model.predictor.settings.describe()
    with gr.Blocks(
        title=f"Segmentation: {model.name}", analytics_enabled=False, delete_cache=(KEEP_S, KEEP_S)
    ) as page:
        prediction = gr.State(time_to_live=KEEP_S)
        gr.Markdown(f"# Semantic segmentation\n`{model.name}` in {model.backend}: {settings}")
        with gr.Row():
            with gr.Column(scale=2):
                image = gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Image",
                    elem_id="image",
                    height=300,
                )
                image.preprocess = _path_of  # a subclass would have Gradio write a stub beside it
                gr.Examples([[str(path)] for path in examples], image, label="Examples")
                timings = gr.HTML(elem_id="timings", container=True, padding=True)
            with gr.Column(scale=3):
                picture = gr.Image(
                    label="Prediction",
                    elem_id="picture",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                with gr.Row():
                    view = gr.Radio(VIEWS, value=VIEWS[0], label="View", elem_id="view")
                    opacity = gr.Slider(
                        0, 100, OPACITY_PERCENT, step=1, label="Opacity (%)", elem_id="opacity"
                    )
                classes = gr.CheckboxGroup([], label="Classes", elem_id=CLASS_LIST)
                labels = gr.DownloadButton(
                    "Save labels (PNG)", elem_id="labels", interactive=False, variant="primary"
                )

        def predict(path: str | None, view: str, opacity: float) -> list[Any]:
            return _predict(model, path, view, opacity)

        image.change(
            predict,
            [image, view, opacity],
            [prediction, picture, classes, timings, labels],
            api_name="predict",
            concurrency_id="network",
        )
        for event in (classes.input, opacity.input, view.input):
            event(
                _redraw,
                [prediction, view, classes, opacity],
                picture,
                api_visibility="private",
                concurrency_id="network",  # confidence may need windows once more
                show_progress="hidden",
                trigger_mode="always_last",
            )
    return page


def _path_of(payload: Any) -> str | None:
    """Return the path of an uploaded image: the file as it was, not as Pillow would write it."""
    return None if payload is None else str(payload.path)


def _predict(model: DemoModel, path: str | None, view: str, opacity: float) -> list[Any]:
    """Return the values of all outputs for an image file, or empty ones without an image."""
    if path is None:
        return [None, None, gr.CheckboxGroup([], value=[]), "", _download(None)]
    try:
        prediction, ms = model(path)
    except UserError as error:
        message = str(error).replace(str(path), Path(path).name)
        raise gr.Error(
            message, title="Not an image for this model", print_exception=False
        ) from None
    present = present_classes(prediction.label, prediction.label_set)
    shown = [item.class_id for item in present]
    choices = [(item.title, item.class_id) for item in present]
    size_hw = prediction.label.shape[0], prediction.label.shape[1]
    return [
        prediction,
        draw(prediction, view, shown, opacity),
        gr.CheckboxGroup(choices, value=shown),
        swatches(present, CLASS_LIST) + timings_table(ms, size_hw, model.backend),
        _download(_save(prediction, Path(path).stem)),
    ]


def _redraw(
    prediction: Prediction | None, view: str, shown: list[int], opacity: float
) -> np.ndarray | None:
    return None if prediction is None else draw(prediction, view, shown, opacity)


def _download(path: str | None) -> gr.DownloadButton:
    return gr.DownloadButton(value=path, interactive=path is not None)


def _save(prediction: Prediction, name: str) -> str:
    """Write the label map into Gradio's cache, which it empties by age."""
    content = encode_label(prediction.label, prediction.label_set.colors)
    return save_bytes_to_cache(content, f"{name}_labels.png", get_upload_folder())


def serve(page: gr.Blocks, host: str, port: int, share: bool) -> None:
    """Serve the page until interrupted; print its address.

    Args:
        host: Address to listen on.
        port: 0 for a free one.
        share: Open a public address through Gradio's servers.

    Raises:
        UserError: the port is taken, or the address is not this computer's.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is up
    try:
        _, local, public = page.launch(
            server_name=host,
            server_port=port or _free_port(host),
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            max_file_size=MAX_FILE_SIZE,
            footer_links=["settings"],
            theme=gr.themes.Default(
                primary_hue="blue", font=FONTS, font_mono=("ui-monospace", "monospace")
            ),
            css=CSS,
        )
    except OSError as error:
        raise UserError(
            f"--port {port}: cannot listen on it at {host}; it may be in use. Choose another, or 0 "
            "for a free one."
        ) from error
    print(public or local, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Paddle's would print its stack
    page.block_thread()


def _free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
    return port
