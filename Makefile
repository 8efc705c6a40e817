# make demo [FOR=20] [PORT=9400]   run a small shop with classic faults; print its hotspots
# make test [ARGS=...]             build the package, install it, and test the installed package, in
#                                  as many processes as there are cores: on two cores, 20 s to set up
#                                  if pip has what it installs in its cache, and 85 s to test
# make test-all [ARGS=...]         the same with the tests that take long: those marked long, and those
#                                  marked once, which need not run on every Python: 170 s to test
# make lint                        check style, types and layers
# make bench [ARGS=...]            measure the tables in the README
# make soak [ARGS='workers ...']   run minutes of full load, then compare the metrics with the truth
#                                  (ARGS=--help says more)
# make dashboards                  write the generated files under grafana/ and deploy/ again
# make clean                       remove what make has made
#
# Everything is installed into VENV, which is made with the first PYTHON that is 3.11 or newer.
# WHEEL=FILE tests a wheel that is already built. AIOMETRICS_NO_EXTENSIONS=1 leaves out the C
# recorder.

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

BIN := $(abspath $(VENV))/bin
# Modules are compiled when they are imported; most of those installed never are.
INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check install --no-compile
RECORDER := $(if $(filter-out 0 false no off,$(AIOMETRICS_NO_EXTENSIONS)),python,c)
INSTALLED := $(VENV)/.installed-$(RECORDER)
SOURCES := pyproject.toml setup.py MANIFEST.in README.md prometheus.yml $(wildcard rules/*.yml) \
	grafana/kustomization.yaml \
	$(shell find aiometrics grafana/dashboards deploy/kubernetes -name __pycache__ -prune -o -print 2>/dev/null)

BUILD = $(BIN)/python -m build --outdir $(VENV)/dist >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }; \
	grep 'building extension .* failed' $(VENV)/build.log || true

.PHONY: demo test test-all soak lint bench dashboards clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/python -P -m aiometrics demo $(if $(FOR),--for $(FOR)) $(if $(PORT),--port $(PORT))

# Tests run in tests/, from where no import can reach the sources. A process that is done takes over
# half of what another has left, so that the tests of one file, which share what is expensive to
# start, mostly stay together.
PYTEST = cd tests && $(BIN)/pytest -n auto --dist worksteal

test: $(INSTALLED) $(VENV)/.group-test
	$(PYTEST) -m 'not long and not once' $(ARGS)

test-all: $(INSTALLED) $(VENV)/.group-test
	$(PYTEST) $(ARGS)

soak: $(INSTALLED) $(VENV)/.group-test
	$(BIN)/python -m tests.soak $(or $(ARGS),tasks)

lint: $(INSTALLED) $(VENV)/.group-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy aiometrics tests grafana setup.py
	cd benchmarks && $(BIN)/mypy --config-file ../pyproject.toml .
	$(BIN)/lint-imports
	cd tests && $(BIN)/pytest -q test_layers.py

bench: $(INSTALLED) $(VENV)/.group-bench
	$(BIN)/python benchmarks $(ARGS)

dashboards: $(VENV)/.group-dashboards
	$(BIN)/python -m grafana.generate

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv was found: install one" \
		"(Debian: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade 'pip>=25.1'

# The wheel is built from the sdist, which tests the sdist too. The stamp of the other recorder is
# removed, since one installation replaces the other.
$(INSTALLED): $(or $(WHEEL),$(SOURCES) $(VENV)/.group-build) | $(BIN)/python
	rm -rf $(VENV)/dist $(VENV)/.installed-*
	$(if $(WHEEL),,$(BUILD))
	$(INSTALL) --force-reinstall --no-deps $(or $(WHEEL),$(VENV)/dist/*.whl)
	$(INSTALL) 'aiometrics-exporter[demo]'
	touch $@

$(VENV)/.group-%: pyproject.toml | $(BIN)/python
	$(INSTALL) --group $*
	touch $@
