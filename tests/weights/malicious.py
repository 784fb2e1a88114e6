"""Objects whose pickles name code: unpickled by a careless reader, they create the canary file."""

from __future__ import annotations

import builtins
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def attacks(canary: Path) -> dict[str, Any]:
    """Return what creates `canary` when it is unpickled without restrictions."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, touch),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(canary)]),
        "builtins.exec": Call(exec, python),
        "builtins.eval": Call(eval, python),
        "builtins.open": Call(open, str(canary), "w"),
        "builtins.getattr": Call(getattr, "weights", "upper"),
        "importlib.import_module": Call(importlib.import_module, "antigravity"),
        "builtins.__import__": Call(builtins.__import__, "antigravity"),
        "nested": {"weight": [Call(os.system, touch)]},
        "sys.settrace": Call(sys.settrace, None),
    }


def raw_attack(canary: Path) -> bytes:
    """Return a pickle in text opcodes, as it is written by hand."""
    return f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()


def second_stage(canary: Path) -> bytes:
    """Return a pickle that unpickles another one."""
    return pickle.dumps(Call(pickle.loads, raw_attack(canary)))
