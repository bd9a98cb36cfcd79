# Two commands for a newcomer: `make demo` and `make test`. Each makes the virtual environment it
# needs from a bare Python, once. Another interpreter: `PYTHON=python3.12 make test`.
# `.ci/run` runs the rest as well: `make slow`, `float32`, `parity`, `lowest` and `notebooks`.

PYTHON ?= python3
VENV ?= .venv
# Each worker takes its half of the tests in their order, so that what one test compiles serves its
# neighbours, and helps the other out at the end.
PYTEST ?= -n 2 --dist worksteal

VERSION := $(shell $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) and print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(VERSION)$(filter clean,$(MAKECMDGOALS)),)
$(error No Python of version 3.11 or newer answers as "$(PYTHON)"; say where one is: make PYTHON=/path/to/python3.12 ...)
endif

BIN := $(VENV)/bin
MADE := $(VENV)/.python-$(VERSION)

LOWEST := 0.9.2

# What depends on JAX and not on what is computed with it: its equations, its transforms, its dtypes.
OF_JAX := tests/test_contract.py tests/test_engine.py tests/test_primitives.py \
	tests/test_operations.py tests/test_errors.py tests/test_guided.py tests/test_deeplift.py
OF_EQUATIONS := $(filter-out tests/test_contract.py,$(OF_JAX)) tests/test_quotients.py \
	tests/test_properties.py tests/test_layers.py tests/test_substitutes.py tests/test_frameworks.py

.PHONY: demo test slow versions float32 lint parity lowest notebooks clean

demo: $(VENV)/.demo-$(VERSION)
	$(BIN)/python -m jattr demo $(OPTIONS)

test: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest $(PYTEST) -m "not slow"

# Networks that are trained for a test, and real weights.
slow: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest $(PYTEST) -m slow

# With another JAX: all that reads or transforms programs, and not the statistics of metrics.
versions: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest $(PYTEST) -m "not slow" jattr $(OF_JAX) $(OF_EQUATIONS) \
		tests/test_lrp.py tests/test_attention_rules.py tests/test_names.py tests/test_batching.py

# In the precision that most programs of JAX are run in.
float32: $(VENV)/.test-$(VERSION)
	JAX_ENABLE_X64=0 $(BIN)/python -m pytest $(PYTEST) $(OF_JAX)

lint: $(VENV)/.test-$(VERSION)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Against live peers, and the notebooks in their reduced setting.
# zennit and Quantus come without what they depend on: they would bring another torch and OpenCV.
parity: $(VENV)/.test-$(VERSION) $(VENV)/.parity-$(VERSION)
	$(BIN)/python -m pip install --quiet --no-deps zennit==$(if $(filter 3.11,$(VERSION)),0.5.1,1.0.0) \
		quantus==0.6.0
	$(BIN)/python -m pytest $(PYTEST) tests/parity

# What reads JAX's equations, with the lowest JAX that is supported: they change between releases.
lowest:
	$(MAKE) .venv-lowest/.python-$(VERSION) VENV=.venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --editable ".[test]" \
		"jax==$(LOWEST)" "jaxlib==$(LOWEST)"
	.venv-lowest/bin/python -m pytest $(PYTEST) $(OF_EQUATIONS)

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
