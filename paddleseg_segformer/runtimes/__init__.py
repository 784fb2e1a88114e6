"""Exported networks: `deploy.yaml`, the backends that run them, the check of a backend."""
