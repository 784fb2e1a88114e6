"""The deployments through `Predictor`: dygraph, and an export in each engine."""

from __future__ import annotations

from typing import Any

from benchmarks.deployment.job import Clock, Job, NotHere, Outcome, time_images
from benchmarks.speed.memory import peak_mib
from paddleseg_segformer.predictor import Predictor


def run(job: Job) -> Outcome:
    """Predict all images; options: `backend`, without it dygraph."""
    predictor, engine = _exported(job) if "backend" in job.options else _dygraph(job)
    clock = Clock(predictor.pipeline.network)
    predictor.pipeline.network = clock
    ms, network_ms = time_images(job, lambda image: predictor(image).label, clock.take)
    return Outcome(ms, network_ms, peak_mib(), engine)


def _exported(job: Job) -> tuple[Predictor, str]:
    backend = job.options["backend"]
    predictor = Predictor.from_export(job.export_dir, "cpu", job.threads, job.precision, backend)
    network: Any = predictor.pipeline.network
    return predictor, network.description


def _dygraph(job: Job) -> tuple[Predictor, str]:
    """Return the weights' own model, to be used as deploy.yaml says."""
    import paddle

    from paddleseg_segformer.cpu import prepare_cpu
    from paddleseg_segformer.inference.settings import InferenceSettings
    from paddleseg_segformer.runtimes.deploy_config import DeployConfig

    if job.model_path is None:
        raise NotHere("an export alone has no weights for it; give --model_path")
    prepare_cpu()  # as the command lines do
    predictor = Predictor.from_pretrained(job.model_path, device="cpu")
    deploy = DeployConfig.load(job.export_dir, check_files=False)
    predictor.settings = InferenceSettings.from_dict(deploy.inference)
    return predictor, f"Paddle {paddle.__version__}, cpu"
