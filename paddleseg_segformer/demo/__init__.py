"""A page to try a model on images, on Gradio: `python -m paddleseg_segformer.demo --model DIR`."""
