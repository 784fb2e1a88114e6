"""An export in every Python surface, in a process that cannot import Paddle, PaddleSeg or PyTorch.

    python runtime_program.py FOLDER BACKEND IMAGE DESTINATION
    python runtime_program.py job JOB FLAGS ...

The first writes the label maps of all surfaces as `.npz`; the second runs one job. Nothing but the
package, its base dependencies, an engine and what the service needs is imported.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from paddleseg_segformer.cli import main as run_job

ABSENT = ("paddle", "paddleseg", "torch")
sys.modules.update(dict.fromkeys(ABSENT))  # importing them fails


def main(folder: str, backend: str, image: str, destination: str) -> None:
    from paddleseg_segformer import Predictor
    from paddleseg_segformer.gradio_page.model import load

    out = Path(destination).with_suffix("")
    flags = ["--image_path", image, "--save_dir"]
    assert run_job(["infer", "--config", folder, "--backend", backend, *flags, f"{out}/infer"]) == 0
    assert run_job(["predict", "--export_dir", folder, *flags, f"{out}/predict"]) == 0
    predictor = Predictor.from_export(folder, backend=backend, self_check=True)
    np.savez(
        destination,
        from_export=predictor(image).label,
        infer=written(out / "infer", image),
        predict=written(out / "predict", image),
        demo=load(folder, backend, None, 1)(image).prediction.label,
        serve=served(folder, backend, image),
    )
    assert not any(map(sys.modules.get, ABSENT))


def written(folder: Path, image: str) -> np.ndarray:
    """Return the label map that a job wrote."""
    with Image.open(folder / "pseudo_color_prediction" / f"{Path(image).stem}.png") as file:
        return np.asarray(file)


def served(folder: str, backend: str, image: str) -> np.ndarray:
    """Return the label map that the HTTP service answers with."""
    command = [sys.executable, __file__, "job", "serve", "--config", folder, "--backend", backend]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        url = next(
            found[1] for line in process.stdout if (found := re.search(r"on (http\S+)", line))
        )
        content = Path(image).read_bytes()
        request = urllib.request.Request(f"{url}/predict", content, {"Content-Type": "image/png"})
        for _ in range(300):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return np.asarray(Image.open(io.BytesIO(answer.read())))
            except urllib.error.HTTPError as error:
                assert error.code == 503  # it still checks itself
                time.sleep(0.1)
        raise AssertionError("never ready")
    finally:
        process.terminate()
        process.communicate(timeout=60)


if __name__ == "__main__":
    sys.exit(run_job(sys.argv[2:]) if sys.argv[1] == "job" else main(*sys.argv[1:]))
