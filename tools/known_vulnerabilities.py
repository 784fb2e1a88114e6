"""Audit locked requirements for known vulnerabilities; needs pip-audit (`make audit`).

pip-audit asks a public service. Where that cannot be reached, or knows nothing of a package, this
says what was not checked; it ends with 1 for vulnerabilities alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

COMMAND = ("-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json")
TIMEOUT_S = "15"


def main(argv: Sequence[str] | None = None) -> int:
    """Audit each file; return 1 where a locked version has a known vulnerability."""
    description = "audit locked requirements for known vulnerabilities (needs pip-audit)"
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("files", nargs="+", metavar="FILE", help="requirements with hashes")
    status = 0
    for file in parser.parse_args(argv).files:
        command = [sys.executable, *COMMAND, "--timeout", TIMEOUT_S, "--requirement", file]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError, TypeError):
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
            print(f"{file}: vulnerabilities not checked, the service did not answer ({reason})")
            continue
        skipped = [item["name"] for item in packages if "skip_reason" in item]
        if len(skipped) == len(packages):
            print(f"{file}: vulnerabilities not checked, the service knows none of its packages")
            continue
        found = [
            f"{file}: {item['name']} {item['version']}: {', '.join(sorted(ids))}"
            for item in packages
            if (ids := {vulnerability["id"] for vulnerability in item.get("vulns", ())})
        ]
        checked = f"{len(packages) - len(skipped)} of {len(packages)} packages checked"
        print("\n".join([*found, f"{file}: {checked}, {len(found)} with known vulnerabilities"]))
        if skipped:
            print(f"{file}: not checked, the service does not know them: {', '.join(skipped)}")
        status = 1 if found else status
    return status


if __name__ == "__main__":
    sys.exit(main())
