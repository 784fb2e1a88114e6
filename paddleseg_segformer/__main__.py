"""`python -m paddleseg_segformer JOB ...`."""

import sys

from paddleseg_segformer.cli import main

sys.exit(main())
