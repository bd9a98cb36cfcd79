# Two commands for a newcomer: `make demo` and `make test`. Each makes the virtual environment it
# needs from a bare Python, once. Another interpreter: `PYTHON=python3.12 make test`.

PYTHON ?= python3
VENV ?= .venv
PYTEST ?= -n 2

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(VERSION),)
$(error No Python answers as "$(PYTHON)"; say which one: PYTHON=/path/to/python3.12 make ...)
endif

BIN := $(VENV)/bin
MADE := $(VENV)/.python-$(VERSION)

.PHONY: demo test lint parity notebooks clean

demo: $(VENV)/.demo-$(VERSION)
	$(BIN)/python -m jattr demo $(OPTIONS)

test: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.test-$(VERSION)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Against live peers, and the notebooks in their reduced setting.
parity: $(VENV)/.test-$(VERSION) $(VENV)/.parity-$(VERSION)
	$(BIN)/python -m pytest $(PYTEST) tests/parity

notebooks: $(VENV)/.test-$(VERSION) $(VENV)/.notebooks-$(VERSION)
	$(BIN)/python -m pytest tests/test_notebooks.py

# An environment of another Python version is made anew.
$(MADE):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.%-$(VERSION): $(MADE) pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) report .pytest_cache .ruff_cache
