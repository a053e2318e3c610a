# Needs make and Python 3.11 or newer; everything else goes into $(VENV).
# Another Python beside the first: make test PYTHON=~/.pyenv/versions/3.13.0/bin/python VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "; print "make <target> [PYTHON=python3] [VENV=.venv] [ARGS=...]\n"} \
		/^[a-z-]+:.*## / {printf "  %-8s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.has-demo ## Run the demo: a Flask application, and a worker beside it that sends its mails
	@$(BIN)/python examples/signup/demo.py $(ARGS)

.PHONY: check
check: lint type docs test ## Run all that CI runs: lint, type, docs, test

.PHONY: lint
lint: $(VENV)/.has-lint ## Check the format and the style of the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: type
type: $(VENV)/.has-lint $(VENV)/.has-test ## Check the types of the package and of its public names
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

.PHONY: docs
docs: $(VENV)/.has-docs ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -n -W --keep-going -b html docs docs/_build/html

# The tests start many processes: without bytecode each would compile neoq again, and pytest all tests.
test faults: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: $(VENV)/.has-test $(VENV)/.has-demo ## Run the tests; some of them: make test ARGS="-k cron"
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

.PHONY: faults
faults: $(VENV)/.has-test ## Kill workers and servers under load, and count the jobs; takes minutes
	$(BIN)/python -m pytest -m faults $(ARGS)

.PHONY: bench
bench: $(VENV)/.has-bench ## Measure neoq beside its peers
	@$(BIN)/python benchmarks/run.py $(ARGS)

.PHONY: format
format: $(VENV)/.has-lint ## Format the code, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: dist
dist: $(VENV)/.has-test ## Build the wheel and the sdist into dist/
	rm -rf build dist
	$(BIN)/python -m build

.PHONY: clean
clean: ## Remove what was built, the caches and $(VENV)
	rm -rf build dist docs/_build neoq.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find neoq tests docs examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	if [ -f "$(VENV)/.made" ]; then rm -rf "$(VENV)"; fi

# The package with one of its extras; again only when the metadata changed.
$(VENV)/.has-%: setup.cfg pyproject.toml setup.py $(VENV)/.made | python
	@echo "installing neoq[$*] into $(VENV)"
	@$(PIP) install --editable '.[$*]'
	@touch $@

$(VENV)/.made: | python
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# A Python that is too old is refused; so is a PYTHON that is not the one $(VENV) was made with.
.PHONY: python
python:
	@if [ ! -f "$(VENV)/.made" ]; then \
		command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; neoq needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
			{ echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); neoq needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }; \
	elif [ "$(origin PYTHON)" != file ] && [ "$$($(PYTHON) --version 2>&1)" != "$$($(BIN)/python --version 2>&1)" ]; then \
		echo "make: $(VENV) was made with another Python ($$($(BIN)/python --version 2>&1)); give this one its own: make PYTHON=$(PYTHON) VENV=.venv-other" >&2; exit 1; \
	fi
