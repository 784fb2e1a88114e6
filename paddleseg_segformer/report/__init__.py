"""Reports: a model's figures, errors, calibration and curves as one page, with its tables beside.

`write_report` is for a training run's folder; `val --report` writes the same for any model.
"""

from paddleseg_segformer.report.findings import Findings
from paddleseg_segformer.report.write import Report, Subject, write_findings, write_report

__all__ = ["Findings", "Report", "Subject", "write_findings", "write_report"]
