"""YAML configs: loading, typed checks and building."""

from paddleseg_segformer.config.schema import Config, TestConfig, load_config

__all__ = ["Config", "TestConfig", "load_config"]
