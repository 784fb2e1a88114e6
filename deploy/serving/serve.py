"""The same as `python tools/serve.py`."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[2] / "tools/serve.py"), run_name="__main__")
