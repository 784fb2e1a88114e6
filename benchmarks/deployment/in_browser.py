"""The static page on ONNX Runtime Web, in a browser without a window."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.deployment.job import Job, NotHere, Outcome
from benchmarks.speed.memory import PROCESSES, peak_mib
from paddleseg_segformer.errors import UserError


def run(job: Job) -> Outcome:
    """Choose all images on the page; times are the page's own, in whole ms."""
    from benchmarks.deployment import browser

    with ExitStack() as stack:
        try:
            url = stack.enter_context(browser.served_page(job.export_dir))
            page = stack.enter_context(browser.browser_page())
        except UserError as error:
            raise NotHere(str(error)) from None
        page.goto(url)
        browser.wait_until_ready(page)
        for _ in range(job.warmup):
            browser.label_on_page(page, Path(job.images[0]))
        results = [browser.label_on_page(page, Path(image)) for image in job.images]
        engine = page.inner_text("#model-status").rpartition("classes. ")[2]
        engine = f"{engine}, Chromium {page.context.browser.version}"
        peak = max(peak_mib(process) for process in _descendants("self"))
    for index, result in enumerate(results):
        job.save(index, result.label)
    ms, network_ms = (median(item.ms[step] for item in results) for step in ("total", "network"))
    return Outcome(ms, network_ms, peak, engine)


def _descendants(process: int | str) -> list[int]:
    """Return the processes that a process and its children have started (Linux)."""
    parent = int((PROCESSES / str(process) / "stat").read_text().split()[0])
    children = defaultdict(list)
    for stat in PROCESSES.glob("[0-9]*/stat"):
        try:
            number, _, fields = stat.read_text().partition(" ")
        except OSError:  # it has ended meanwhile
            continue
        children[int(fields.rpartition(")")[2].split()[1])].append(int(number))
    found, waiting = [], [parent]
    while waiting:
        new = children[waiting.pop()]
        found += new
        waiting += new
    return found
