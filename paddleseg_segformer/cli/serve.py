"""`serve`: an exported model behind HTTP."""

from __future__ import annotations

import logging
import os
import threading
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from paddleseg_segformer.cli.common import (
    add_device_argument,
    set_up_logging,
)
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.runtimes.engines import BACKENDS, MAX_STREAMS, PRECISIONS
from paddleseg_segformer.serving.settings import ServingSettings, read_api_keys

if TYPE_CHECKING:
    from paddleseg_segformer.predictor import Predictor

logger = logging.getLogger(__name__)

MAX_BATCH = 4  # where there is one stream
END_S = 1.0  # for the last messages
LIMITS = {
    "max_wait_ms": "how long a first image waits for others to join it, ms",
    "max_queue": "the most requests in progress; more are answered with 503 and Retry-After",
    "max_bytes": "the largest image file, bytes",
    "max_pixels": "the largest image, height x width, also after the model's size rules",
    "timeout_s": "from the end of the upload to the answer, s",
    "upload_timeout_s": "for an upload, s",
    "grace_s": "to finish requests in progress after SIGTERM, s",
    "decode_threads": "threads that decode images and encode answers",
    "max_connections": "the most open connections",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("--config", required=True, help="deploy.yaml of the export, or its folder")
    add(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="auto: the fastest that is installed and reads what was exported",
    )
    add_device_argument(parser)
    add("--threads", type=int, default=os.cpu_count(), help="threads of the network on the CPU")
    add(
        "--streams",
        type=int,
        default=0,
        metavar="N",
        help="images that are predicted at the same time, by OpenVINO or ONNX Runtime; they share "
        f"--threads. Default: one for each thread, at most {MAX_STREAMS}. 1: a request that is "
        "alone has its answer soonest, but fewer are answered in a second",
    )
    add(
        "--max_batch",
        type=int,
        help="the most images that are predicted together; default: 1 where there are several "
        f"streams, else {MAX_BATCH}",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of the computation; auto: what export --speed chose, else fp32",
    )
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    add("--port", type=int, default=8000, help="0: any free one")
    defaults = ServingSettings()
    for name, text in LIMITS.items():
        value = getattr(defaults, name)
        add(f"--{name}", type=type(value), default=value, help=text)
    add("--log_requests", action="store_true", help="print a line for each request")
    add(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names that clients may call the service by, beside addresses, localhost and this "
        "machine's name; pages of these hosts may send requests; * for any name",
    )
    add("--ssl_certfile", metavar="FILE", help="PEM file of the certificates: HTTPS")
    add("--ssl_keyfile", metavar="FILE", help="PEM file of the private key, if it is not there too")
    add("--api_keys", metavar="FILE", help="file of keys, a key a line, one of which requests need")


def run(args: Namespace) -> None:
    """Load the model, then answer requests until a signal stops it."""
    set_up_logging()
    settings = ServingSettings(
        **{name: getattr(args, name) for name in ("max_batch", *LIMITS)},
        is_logged=args.log_requests,
        allowed_hosts=tuple(args.allowed_hosts),
        api_keys=read_api_keys(args.api_keys) if args.api_keys else (),
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
    )
    DeployConfig.load(args.config, check_files=False)  # before the server's imports

    from paddleseg_segformer.serving.server import serve
    from paddleseg_segformer.serving.service import Service

    service = Service(partial(_load, args), partial(_check, args), settings)
    predictor = service.start()
    logger.info("%s: %s", service.engine, predictor.settings.describe())
    try:
        serve(service, args.host, args.port)
    finally:
        if service.is_busy:  # in a decoder, for which Python would wait at its end
            end = threading.Timer(END_S, os._exit, [1])
            end.daemon = True
            end.start()


def _load(args: Namespace) -> Predictor:
    """Load the export; batches go through the network as a whole.

    Where there are several streams, a batch would keep all but one waiting.
    """
    from paddleseg_segformer.predictor import Predictor
    from paddleseg_segformer.runtimes.engine_network import EngineNetwork

    predictor = Predictor.from_export(
        args.config,
        args.device,
        args.threads,
        args.precision,
        args.backend,
        streams=args.streams,
    )
    network = predictor.pipeline.network
    assert isinstance(network, EngineNetwork)
    exported = predictor.settings
    max_batch = args.max_batch or (1 if network.options.streams > 1 else MAX_BATCH)
    window_batch = max(exported.window_batch or 1, max_batch)
    predictor.settings = replace(exported, window_batch=window_batch)
    return predictor


def _check(args: Namespace, predictor: Predictor) -> None:
    """Compare the backend's labels with the export's own for its fixture."""
    from paddleseg_segformer.runtimes.self_check import self_check

    if DeployConfig.load(args.config, check_files=False).fixture is None:
        logger.warning("%s: names no fixture to check the backend with", args.config)
        return
    logger.info(self_check(predictor, args.config).line)
