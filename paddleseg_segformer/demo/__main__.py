"""The older name of `python -m paddleseg_segformer.gradio_page`."""

import sys

from paddleseg_segformer.gradio_page.__main__ import main

if __name__ == "__main__":
    print("paddleseg_segformer.demo is now paddleseg_segformer.gradio_page", file=sys.stderr)
    sys.exit(main())
