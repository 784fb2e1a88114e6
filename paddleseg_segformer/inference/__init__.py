"""Inference: one pipeline for evaluation, prediction and deployment."""
