# `make demo` and `make test` do everything from a fresh clone: environment, installation, run.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
GRADIO := .venv-gradio
NEWEST := .venv-newest
DOCS := .venv-docs
AUDIT := .venv-audit
NPM := $(shell command -v npm)
ESLINT := $(if $(NPM),deploy/web/node_modules/.installed)

IS_SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
CANDIDATES := $(PYTHON) python3.13 python3.12 python3.11 python3.10
SUITABLE = $(foreach python,$(CANDIDATES),$(shell $(python) -c '$(IS_SUITABLE)' 2>/dev/null && echo $(python)))
FOUND = $(or $(shell $(PYTHON) --version 2>/dev/null),no $(PYTHON))
NO_PYTHON = Python 3.10 to 3.13 with venv is needed (Paddle has no build for others), found $(FOUND). \
    Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13
CHOSEN = $(or $(firstword $(SUITABLE)),$(error $(NO_PYTHON)))

# what the checks install: the extras, and in pyproject.toml the dependency group `dev`
EXTRAS := cpu visualdl paddleseg int8 serve tiff analysis annotations polygons geo fit robustness video
GRADIO_EXTRAS := cpu openvino demo
# its builds for CPU and for CUDA are different files of one version, so it is not in the lock;
# `make test TORCH=` leaves it out, and the tests that need it
TORCH ?= torch==2.13.0

# a process of tests for each core, up to so many as memory allows on small machines
PARALLEL ?= -n auto --maxprocesses 8 --dist worksteal
# `make test ISA=avx2` or `ISA=sse4` holds the libraries of numbers to older instructions
ISA ?=
export TEST_ISA := $(ISA)

# deployment options that `make deploy-test` requires; the others depend on the processor
REQUIRED ?= dygraph paddle cpp-paddle onnxruntime onnxruntime-whole openvino cpp-openvino \
    http gradio browser

.PHONY: demo test check test-programs test-slow test-newest test-matrix deploy-test lint docs audit lock package clean

demo: $(INSTALLED)
	$(BIN)/python -m paddleseg_segformer demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_FLAGS)

# for whoever changes something: lint, types, and the tests that matter most
check: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "check and not slow and not gpu" $(PYTEST_FLAGS)

# the C++ programs and the page in a browser, where compiler, libraries and Chromium are installed
test-programs: $(INSTALLED)
	$(BIN)/python -m pytest -m slow -rs tests/deploy/test_cpp.py tests/deploy/test_web_page.py \
	    tests/deploy/test_image_matrix.py $(PYTEST_FLAGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS)

# the newest release of everything, without the lock
test-newest: $(INSTALLED)
	$(BIN)/python -m venv --clear $(NEWEST)
	$(BIN)/uv pip install --python $(NEWEST)/bin/python --no-python-downloads --group dev \
	    --editable '.[$(subst $(space),$(comma),$(EXTRAS))]'
	$(if $(TORCH),$(NEWEST)/bin/python -m pip install --quiet '$(TORCH)')
	$(NEWEST)/bin/python -m pytest $(PARALLEL) $(PYTEST_FLAGS)

test-matrix: $(INSTALLED)
	$(BIN)/nox $(NOX_FLAGS)

# the C++ programs need CMake, a compiler and system libraries (see deploy/cpp/README.md), the pages
# Node.js with npm and Chromium
deploy-test: $(INSTALLED) $(GRADIO)/installed
	cmake -S deploy/cpp -B build/cpp -DPython3_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/cpp --parallel
	$(BIN)/python tools/compare_engines.py --num_images 1 --require $(REQUIRED) \
	    --gradio_python $(abspath $(GRADIO)/bin/python)
	$(BIN)/python -m pytest -m slow tests/deploy $(PYTEST_FLAGS)
	$(GRADIO)/bin/python -m pytest -m slow tests/deploy/test_gradio_demo.py $(PYTEST_FLAGS)

lint: $(INSTALLED) $(ESLINT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror deploy/cpp/src/*
	$(BIN)/python tools/make_reference.py --check
	$(if $(NPM),npm run --silent --prefix deploy/web lint,@echo "deploy/web: not linted, npm is missing")

# the site opens from disk: nothing in it may be fetched from elsewhere
docs: $(INSTALLED) $(DOCS)/installed
	@test -x $(DOCS)/bin/zensical || { echo "make docs needs Python 3.11 or newer, see PYTHON"; exit 1; }
	$(BIN)/python tools/make_reference.py
	$(DOCS)/bin/zensical build --strict --clean
	! grep -lE '<(script|link|img)[^>]+(src|href)="https?:' build/docs/*.html

# of what the lock names: a bill of materials (CycloneDX), licences, known vulnerabilities; in build/.
# crc32c (of visualdl) is LGPL, whose name holds that of the GPL.
COPYLEFT := GNU General Public License;GNU Affero;AGPL;GPL-2.0;GPL-3.0;GPLv2;GPLv3
audit: $(INSTALLED) $(AUDIT)/installed
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --of JSON -o build/sbom.cdx.json $(BIN)/python
	$(AUDIT)/bin/pip-licenses --python $(BIN)/python --format csv --output-file build/licences.csv \
	    --partial-match --fail-on '$(COPYLEFT)' --ignore-packages crc32c
	$(AUDIT)/bin/python tools/known_vulnerabilities.py requirements/*.txt

# $(call locked,GROUP,SOURCES): writes the newest versions that fit together, for all Pythons
locked = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
    --no-python-downloads --generate-hashes --custom-compile-command 'make lock' \
    --group pyproject.toml:$(1) $(2) --output-file requirements/$(1).txt

lock: $(INSTALLED)
	$(call locked,dev,pyproject.toml $(addprefix --extra ,$(EXTRAS)))
	$(call locked,gradio,pyproject.toml $(addprefix --extra ,$(GRADIO_EXTRAS)))
	$(call locked,docs)
	$(call locked,audit)
	$(call locked,runtime,pyproject.toml --extra runtime)

# what goes to a package index, in dist/
package: $(INSTALLED)
	rm -rf dist
	$(BIN)/uv tool run --from build pyproject-build
	$(BIN)/uv tool run twine check --strict dist/*

clean:
	rm -rf $(VENV) $(GRADIO) $(NEWEST) $(DOCS) $(AUDIT) .nox build dist output .pytest_cache .mypy_cache .ruff_cache

comma := ,
empty :=
space := $(empty) $(empty)

# $(call install,VENV,GROUP): the locked versions and this package. The lock is whole, so nothing is
# resolved anew; paddleseg, whose own metadata asks for an old OpenCV, is in it.
define install
$(1)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/$(2).txt; \
$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endef

# $(call install_locked,VENV,GROUP): the locked versions alone
define install_locked
set -e; \
$(BIN)/python -m venv --clear $(1); \
$(1)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/$(2).txt; \
touch $(1)/installed
endef

$(INSTALLED): requirements/dev.txt pyproject.toml
	@python=$(CHOSEN); set -e; \
	$(BIN)/python -c '$(IS_SUITABLE)' 2>/dev/null || $$python -m venv --clear $(VENV); \
	echo "Installing into $(VENV) with $$($(BIN)/python --version) (once, a few minutes)"; \
	$(call install,$(VENV),dev); \
	$(if $(TORCH),$(BIN)/python -m pip install --quiet '$(TORCH)';) \
	$(BIN)/python -W ignore -c 'import cv2, paddle, paddleseg'; \
	touch $@

# Gradio bounds Pillow to versions whose AntialiasResize differs by grey levels from the newer one's,
# which the C++ programs follow: it gets an environment of its own
$(GRADIO)/installed: requirements/gradio.txt $(INSTALLED)
	@set -e; \
	$(BIN)/python -m venv --clear $(GRADIO); \
	echo "Installing into $(GRADIO) (once)"; \
	$(call install,$(GRADIO),gradio); \
	touch $@

$(DOCS)/installed: requirements/docs.txt $(INSTALLED)
	@$(call install_locked,$(DOCS),docs)

$(AUDIT)/installed: requirements/audit.txt $(INSTALLED)
	@$(call install_locked,$(AUDIT),audit)

deploy/web/node_modules/.installed: deploy/web/package-lock.json
	npm ci --silent --prefix deploy/web
	touch $@
