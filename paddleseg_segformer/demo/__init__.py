"""The older name of `paddleseg_segformer.gradio_page`."""
