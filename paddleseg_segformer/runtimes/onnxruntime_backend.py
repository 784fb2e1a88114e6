"""ONNX Runtime as the network of the inference pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.runtimes.engine_network import EngineNetwork

LOG_ERRORS = 3  # level of messages; warnings are about constants that it folds


class ONNXRuntimeNetwork(EngineNetwork):
    """An exported network, run by ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def _load(self, paths: list[Path]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # calls share the session's pool, to which each adds the thread that it comes from
        options.intra_op_num_threads = self.options.threads - self.options.streams + 1
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_ERRORS
        options.enable_mem_pattern = False  # it would keep a plan for every input size ever seen
        # threads that wait busily take the processor from reading images and drawing labels
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(paths[0]), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common base
            reason = " ".join(str(error).split())
            raise UserError(
                f"{paths[0]}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason}). "
                "Export the model again, or use another version."
            ) from None
        self._input = self._session.get_inputs()[0].name

    def _run(self, x: np.ndarray) -> np.ndarray:
        output: np.ndarray = self._session.run(None, {self._input: x})[0]
        return output
