"""Export: a trained model for each backend with its `deploy.yaml`, verified."""

from paddleseg_segformer.export.folder import check_save_dir, export_model
from paddleseg_segformer.export.onnx_graph import check_formats
from paddleseg_segformer.export.quantization import Quantization, Samples

__all__ = ["Quantization", "Samples", "check_formats", "check_save_dir", "export_model"]
