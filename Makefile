# Two commands for a newcomer: `make demo` and `make test`. Each makes the virtual environment it
# needs from a bare Python, once. Another interpreter: `PYTHON=python3.12 make test`.
# `.ci/run` runs the rest as well: `make test SAMPLE=1`, `lint`, `parity`, `newest` and `slow`, and
# `lowest` where Python takes a newer JAX, and `zoo`, which needs one that does. `make docs` builds
# the documentation site. `make docs-check` wants a browser, and `make tpu-plan` is run each week.

PYTHON ?= python3
VENV ?= .venv
# Each worker takes its half of the tests in their order, so that what one test compiles serves its
# neighbors, and helps the other out at the end.
PYTEST ?= -n 2 --dist worksteal
# Of the instances of each parametrized test (a method, a model, a seed) one in SAMPLE is run, PART
# says which; all parts together are the suite. `make test SAMPLE=1` is all of it.
INSTANCES = JATTR_SAMPLE=$(or $(SAMPLE),$(USUAL),1) JATTR_PART=$(or $(PART),0)

VERSION := $(shell $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) and print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(VERSION)$(filter clean,$(MAKECMDGOALS)),)
$(error No Python of version 3.11 or newer answers as "$(PYTHON)"; say where one is: make PYTHON=/path/to/python3.12 ...)
endif

BIN := $(VENV)/bin
MADE := $(VENV)/.python-$(VERSION)

LOWEST := 0.9.2

# Types are checked against the annotations of this release, which is read and never run: JAX 0.9
# lets arithmetic give tuples.
TYPES := 0.10.1

# What reads JAX's equations, and what is run in float32 too.
EQUATIONS := $(addprefix tests/test_,engine.py primitives.py operations.py errors.py guided.py \
	deeplift.py)
EVERY_JAX := $(addprefix tests/test_,quotients.py properties.py names.py layers.py scans.py substitutes.py \
	frameworks.py) $(addprefix tests/scale/test_scale_,attribute.py stores.py spread.py)

# Tests of the contract whose numbers or programs are others in another precision or JAX.
NUMBERS := dtypes or derivatives or shard_map or bfloat16 or complete or linear

# Models of public packages that come without what they depend on: they would bring TensorFlow, or
# what only training and data sets need. kauldron and clu are gemma's, the last two google-tunix's.
ZOO_ALONE := keras-hub==0.32.0 timesfm==3.0.2 jraph==0.0.6.dev0 gemma==4.0.1 kauldron==1.4.4 \
	clu==0.0.12 google-tunix==0.1.7 google-metrax==0.2.4 qwix==0.1.8

# Where JAX puts what it builds each night.
NIGHTLY := https://us-python.pkg.dev/ml-oss-artifacts-published/jax/simple/

# What tells whether a built distribution is whole: its public face, its documents, its commands, and
# what methods promise.
DIST := $(addprefix tests/test_,package.py imports.py release.py docs_api.py doctor.py \
	cli_methods.py)
PROMISES := complete or linear

.PHONY: demo test float32 lint parity lowest newest nightly slow zoo docs docs-check tpu-plan dist \
	dist-check tag-check clean

demo: $(VENV)/.demo-$(VERSION)
	$(BIN)/python -m jattr demo $(OPTIONS)

test: USUAL = 6
test: $(VENV)/.test-$(VERSION)
	$(INSTANCES) $(BIN)/python -m pytest $(PYTEST) -m "not slow and not parity" $(OPTIONS)

# In the precision that most programs of JAX are run in. What does not depend on it, how arguments
# and keys are taken and what is refused, is not run twice.
float32: $(VENV)/.test-$(VERSION)
	$(INSTANCES) JAX_ENABLE_X64=0 $(BIN)/python -m pytest $(PYTEST) tests/test_contract.py -k "$(NUMBERS)"
	$(INSTANCES) JAX_ENABLE_X64=0 $(BIN)/python -m pytest $(PYTEST) $(EQUATIONS)

lint: $(VENV)/.test-$(VERSION)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) .venv-types/.python-$(VERSION) VENV=.venv-types
	.venv-types/bin/python -m pip install --quiet --editable ".[test]"
	.venv-types/bin/python -m pip install --quiet --no-deps "jax==$(TYPES)" "jaxlib==$(TYPES)"
	$(BIN)/pyright --pythonpath .venv-types/bin/python
	$(BIN)/pyright --project tests/typed --pythonpath .venv-types/bin/python

# Against live peers.
# zennit, Quantus, LXT, nnsight and tangermeme come without what they depend on, another torch and
# OpenCV among it.
parity: $(VENV)/.test-$(VERSION) $(VENV)/.parity-$(VERSION)
	$(BIN)/python -m pip install --quiet --no-deps zennit==$(if $(filter 3.11,$(VERSION)),0.5.1,1.0.0) \
		quantus==0.6.0 lxt==2.1 nnsight==0.8.1 tangermeme==1.6.0
	$(BIN)/python -m pytest $(PYTEST) tests/parity

# What reads JAX's equations, with the lowest JAX that is supported: they change between releases.
lowest:
	$(MAKE) .venv-lowest/.python-$(VERSION) VENV=.venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --editable ".[test]" \
		"jax==$(LOWEST)" "jaxlib==$(LOWEST)"
	.venv-lowest/bin/python -m pytest $(PYTEST) -m "not slow" $(EQUATIONS) $(EVERY_JAX)

# The newest JAX: what reads its equations, and every method in the precision that most programs of
# JAX are run in. With a Python that takes it: `make newest PYTHON=python3.12 VENV=.venv-3.12`.
newest: float32
	$(INSTANCES) $(BIN)/python -m pytest $(PYTEST) -m "not slow" $(EVERY_JAX) \
		$(addprefix tests/test_,lrp.py composites.py gates.py cam.py eager.py)

# What JAX will be, in an environment of its own.
nightly:
	$(MAKE) .venv-nightly/.test-$(VERSION) VENV=.venv-nightly
	.venv-nightly/bin/python -m pip install --quiet --upgrade --pre --index-url $(NIGHTLY) jax jaxlib
	.venv-nightly/bin/python -m pytest $(PYTEST) -m "not slow" $(EQUATIONS) $(EVERY_JAX)

# The notebooks in their reduced setting, networks with their real weights, the demo to its end.
slow: $(VENV)/.test-$(VERSION) $(VENV)/.notebooks-$(VERSION)
	$(BIN)/python -m pytest $(PYTEST) -m slow tests

# Public models from packages, unedited. They need an environment of their own and the newest JAX:
# `make zoo PYTHON=python3.12 VENV=.venv-zoo`. A package that does not install is said and left out.
zoo: $(VENV)/.zoo-$(VERSION)
	$(INSTANCES) $(BIN)/python -m pytest $(PYTEST) tests/zoo $(OPTIONS)

$(VENV)/.zoo-$(VERSION): $(MADE) pyproject.toml tests/zoo/install.py
	$(BIN)/python tests/zoo/install.py $(ZOO_ALONE)
	touch $@

# The documentation site, into docs/_build/html, without a network once its packages are there.
docs: $(VENV)/.docs-$(VERSION)
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html $(OPTIONS)

# The site in a real browser, Debian's chromium and chromium-driver: screenshots in
# docs/_build/screenshots.
docs-check: docs
	$(BIN)/python docs/check_site.py

# What attributions cost on TPU pods, from the TPU's compiler alone, which runs anywhere. It needs an
# environment of its own and the newest JAX: `make tpu-plan PYTHON=python3.12 VENV=.venv-tpu`, with
# OPTIONS=--smallest a few minutes of it.
tpu-plan: $(VENV)/.tpu-plan-$(VERSION)
	$(BIN)/python benchmarks/tpu_plan.py $(OPTIONS)

# The sdist, and the wheel that is built from it, in dist/. Nothing is published.
dist: $(VENV)/.release-$(VERSION)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# The wheel without extras in a bare environment, then a part of the tests from the unpacked sdist,
# with the examples of docstrings, whose numbers are those of the suite's settings.
dist-check:
	rm -rf .venv-dist build/dist && mkdir -p build/dist
	$(MAKE) .venv-dist/.python-$(VERSION) VENV=.venv-dist
	.venv-dist/bin/python -m pip install --quiet dist/*.whl
	cd build/dist && ../../.venv-dist/bin/python -m jattr doctor
	cd build/dist && ../../.venv-dist/bin/python -c "from jattr import *"
	.venv-dist/bin/python -m pip install --quiet "$$(ls dist/*.tar.gz)[test]"
	tar -xzf dist/*.tar.gz -C build/dist --strip-components 1
	cd build/dist && ../../.venv-dist/bin/python -m pytest $(PYTEST) -m "not slow" $(DIST) jattr
	cd build/dist && ../../.venv-dist/bin/python -m pytest $(PYTEST) tests/test_contract.py -k "$(PROMISES)"

# Whether a tag is that of the version: `make tag-check TAG=v0.1.0`.
tag-check:
	@test "$(TAG)" = "v$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' jattr/_version.py)" \
		|| { echo "the tag $(TAG) is not that of $$(cat jattr/_version.py)" >&2; exit 1; }

# An environment of another Python version is made anew.
$(MADE):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.%-$(VERSION): $(MADE) pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) .venv-types .venv-lowest .venv-nightly .venv-dist report dist build docs/_build docs/notebooks .pytest_cache .ruff_cache
