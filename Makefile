# What to say next: make help

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?=
MOUNTPOINT ?= $(HOME)/wqfs
OPTIONS ?=
ARGS ?=
UPGRADE ?=
PAGES ?=
SOAK ?= 3600
SEED ?= 1

VENV_PYTHON := .venv/bin/python
SETUP := PYTHON='$(PYTHON)' bash scripts/setup.sh

.DEFAULT_GOAL := help
.PHONY: help run test test-slow demo bench soak lint docs setup lock install uninstall clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: export MOUNTPOINT := $(MOUNTPOINT)
run: export OPTIONS := $(OPTIONS)
run: setup ## mount at MOUNTPOINT=~/wqfs with OPTIONS= (as after -o), until Ctrl-C
	@bash scripts/run.sh

test: setup ## every test but the slow ones; ARGS= goes to pytest
	$(VENV_PYTHON) -m pytest tests -m "not slow" $(ARGS)

# pytest ends with 5 when it found no test.
test-slow: ## the slow tests: packaging, long runs
	@WITH_SYSTEMD=1 WITH_CONTAINERS=1 WITH_KERNELS=1 $(SETUP)
	$(VENV_PYTHON) -m pytest tests -m slow $(ARGS) || [ $$? -eq 5 ]

demo: setup ## mount in a temporary folder, ship some events, read them back
	@bash scripts/demo.sh

bench: setup ## measure wqfs beside its peers
	$(VENV_PYTHON) -m bench $(ARGS)

soak: setup ## load of every kind with kills in between for SOAK=3600 seconds, SEED=; writes bench/SOAK.md
	$(VENV_PYTHON) -m bench.soak --seconds $(SOAK) --seed $(SEED) $(ARGS)

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict

docs: setup ## write into README and docs/ what the code knows; PAGES= and what their commands print
	$(VENV_PYTHON) -m scripts.reference_tables
	$(VENV_PYTHON) -m scripts.commands_page
	$(VENV_PYTHON) -m scripts.scenario_pages
	$(if $(PAGES),$(VENV_PYTHON) -m scripts.pages $(PAGES))

setup: ## the Debian packages that are missing, and .venv from requirements.lock
	@$(SETUP)

lock: setup ## requirements*.lock from pyproject.toml; UPGRADE=1 for the newest versions
	UPGRADE='$(UPGRADE)' bash scripts/lock.sh

install: ## commands, man pages, units under PREFIX=/usr/local; DESTDIR= for packagers
	@PYTHON='$(PYTHON)' bash scripts/install.sh install '$(PREFIX)' '$(DESTDIR)'

uninstall: ## remove exactly what install put under PREFIX= (and DESTDIR=)
	@bash scripts/install.sh uninstall '$(PREFIX)' '$(DESTDIR)'

clean: ## remove .venv and all that was built
	rm -rf .venv .venv.lock build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
