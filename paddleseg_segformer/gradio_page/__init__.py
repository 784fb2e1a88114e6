"""A page to try a model: `python -m paddleseg_segformer.gradio_page --model DIR`."""
