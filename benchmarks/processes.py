"""Processes that answer commands, one JSON line each: the work of one case, alone in its memory."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerFailed(Exception):
    """A process said why it cannot go on, or died."""


class Worker:
    """A process that answers commands.

    Args:
        module: Run by `python -m`; it calls `answer_commands`.
        values: Its first argument, as JSON.
        threads: Of numerical libraries.
        log: File of what it prints.
        limit_s: Longest time that one answer may take.
    """

    def __init__(
        self, module: str, values: dict[str, Any], threads: int, log: Path, limit_s: float
    ) -> None:
        self._limit_s = limit_s
        self._log = log
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        with open(log, "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", module, json.dumps(values)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # so that `close` reaches what it has started itself
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a command.

        Raises:
            WorkerFailed: it failed, died, or took too long.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._limit_s):
                raise WorkerFailed(f"no answer to {do!r} within {self._limit_s:g} s")
        line = process.stdout.readline()
        if not line:
            raise WorkerFailed(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        if status == -9:
            return "killed by the system: probably out of memory"
        return f"died with status {status}: {lines[-1] if lines else 'without a word'}"

    def close(self) -> None:
        """End the process, and those that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def answer_commands(
    make: Callable[[dict[str, Any]], Mapping[str, Callable[..., dict[str, Any]]]],
) -> None:
    """Answer a `Worker`'s commands until it has no more.

    Args:
        make: Gives, for the values of the command line, a function for each command.
    """
    # libraries print as they like: answers get a channel of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands = make(json.loads(sys.argv[1]))
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = commands[arguments.pop("do")](**arguments)
        except Exception as error:  # any engine's: it is this case's result
            lines = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {lines[-1].strip()}"}
            traceback.print_exc()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
