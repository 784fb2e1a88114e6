# `make demo` and `make test` do everything from a fresh clone: environment, installation, run.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# Gradio bounds Pillow to versions whose AntialiasResize differs by grey levels from the newer one's,
# which the C++ programs follow: it gets an environment of its own
GRADIO := .venv-gradio

IS_SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))
CANDIDATES := $(PYTHON) python3.12 python3.11 python3.10
SUITABLE = $(foreach python,$(CANDIDATES),$(shell $(python) -c '$(IS_SUITABLE)' 2>/dev/null && echo $(python)))
FOUND = $(or $(shell $(PYTHON) --version 2>/dev/null),no $(PYTHON))
NO_PYTHON = Python 3.10, 3.11 or 3.12 with venv is needed (numpy < 2 has no build for newer ones), \
    found $(FOUND). Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12

# ways to run a model that `make deploy-test` counts on; the others depend on the processor
REQUIRED_WAYS ?= dygraph paddle cpp-paddle onnxruntime onnxruntime-whole openvino cpp-openvino \
    http gradio browser

.PHONY: demo test test-slow deploy-test lint clean

demo: $(INSTALLED)
	$(BIN)/python -m paddleseg_segformer demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS)

# the C++ programs need CMake, a compiler and system libraries (see deploy/cpp/README.md), the pages
# Node.js with npm and Chromium
deploy-test: $(INSTALLED) $(GRADIO)/installed
	cmake -S deploy/cpp -B build/cpp -DPython3_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/cpp --parallel
	$(BIN)/python tools/compare_engines.py --num_images 1 --require $(REQUIRED_WAYS) \
	    --gradio_python $(abspath $(GRADIO)/bin/python)
	$(BIN)/python -m pytest -m slow tests/deploy $(PYTEST_FLAGS)
	$(GRADIO)/bin/python -m pytest -m slow tests/deploy/test_gradio_demo.py $(PYTEST_FLAGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(GRADIO) build dist output *.egg-info .pytest_cache .mypy_cache .ruff_cache

# $(call use_headless_opencv,PYTHON): paddleseg depends on opencv-python, which needs the system's
# libGL.so.1. The headless build of the same version offers the same cv2 without it, and takes its
# place.
define use_headless_opencv
version=$$($(1) -c 'import importlib.metadata as m; print(m.version("opencv-python"))'); \
	$(1) -m pip uninstall -qq --yes opencv-python opencv-python-headless; \
	$(1) -m pip install --quiet --no-deps "opencv-python-headless==$$version"
endef

$(INSTALLED): setup.py pyproject.toml
	@python=$(or $(firstword $(SUITABLE)),$(error $(NO_PYTHON))); set -e; \
	$(BIN)/python -c '$(IS_SUITABLE)' 2>/dev/null || $$python -m venv --clear $(VENV); \
	echo "Installing into $(VENV) with $$($(BIN)/python --version) (once, a few minutes)"; \
	$(BIN)/python -m pip install --quiet --editable '.[dev]'; \
	$(call use_headless_opencv,$(BIN)/python); \
	$(BIN)/python -W ignore -c 'import cv2, paddle, paddleseg'; \
	touch $@

$(GRADIO)/installed: setup.py $(INSTALLED)
	@set -e; \
	$(BIN)/python -m venv --clear $(GRADIO); \
	echo "Installing into $(GRADIO) (once)"; \
	$(GRADIO)/bin/python -m pip install --quiet --editable '.[openvino,demo]' playwright pytest; \
	$(call use_headless_opencv,$(GRADIO)/bin/python); \
	touch $@
