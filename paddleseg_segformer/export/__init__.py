"""Export: a trained model as a static graph with its `deploy.yaml`, verified."""

from paddleseg_segformer.export.folder import check_save_dir, export_model

__all__ = ["check_save_dir", "export_model"]
