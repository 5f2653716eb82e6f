# Preread: every command a person needs, each of which prepares what it needs itself.

SHELL := /bin/sh
PYTHON ?= python3
UV ?= uv
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
LOCK := --universal --generate-hashes --no-emit-index-url --no-header --quiet --python-version 3.11
LOCK += --constraint requirements/constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test docs prove fleet-proof bench bench-page run fuzz corpus lint type wheel wheelhouse check-wheel check-pythons try-host sbom audit tags release lock clean clean-demo

help: ## say what can be made
	@echo "Preread: a first read of every chest X-ray, where it is taken."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter for .venv (3.11, 3.12 or 3.13)."

demo: $(VENV)/.runtime ## install the worker, drop real and drawn films into it, show what it answers
	@$(PY) deploy/demo.py

test: $(VENV)/.dev ## install the development tools and run the whole suite
	@$(PY) -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

prove: $(VENV)/.dev ## kill and starve a real worker in temporary folders, print what was found (LONG=1: all of it, an hour)
	@$(PY) -m tests.prove $(if $(LONG),--long) $(ARGS)

fleet-proof: $(VENV)/.dev ## kill a fleet's processes at random over 100,000 small films, and measure 1, 2 and 4 (ARGS="--files N"; hours)
	@$(PY) -m tests.prove.fleet $(ARGS)

bench: $(VENV)/.dev ## measure the worker against its floor and the usual way, on an idle machine (ARGS=--write keeps it, ARGS=--check compares)
	@$(PY) -m tests.bench $(ARGS)

bench-page: $(VENV)/.dev ## measure a signed-in doctor's page while strangers attack it (ARGS=--write keeps the table in docs/explanation/measured.md)
	@$(PY) -m tests.bench.attack $(ARGS)

run: $(VENV)/.runtime ## run the worker in the foreground on ./preread.toml's folders, else on ./inbox (Ctrl-C stops it)
	@mkdir -p inbox
	@$(VENV)/bin/preread db upgrade
	@if [ -e preread.toml ]; then $(VENV)/bin/preread run; else $(VENV)/bin/preread run --root inbox; fi

fuzz: $(VENV)/.dev ## take 20,000 damaged films through a whole worker; kept findings, if any, are named (some minutes)
	@PYTHONPATH=. $(PY) tests/programs/fuzz.py

docs: $(VENV)/.dev ## build the documentation into build/docs; a broken link, an orphan page or a request to another host fails
	@$(PY) -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/docs
	@echo "build/docs/index.html"

lint: $(VENV)/.dev ## ruff (rules and format), the import contracts and the project's own rules (tests/lint)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) -m tests.lint

type: $(VENV)/.dev ## mypy, strict
	@$(PY) -m mypy

corpus: $(VENV)/.runtime ## assess any folder of DICOM files and compare with DCMTK: make corpus DIR=...
	@test -n "$(DIR)" || { echo "make corpus DIR=FOLDER: the folder that holds the DICOM files" >&2; exit 2; }
	@$(PY) -m tests.corpus "$(DIR)"

wheel: $(VENV)/.runtime ## build the wheel into dist/
	@rm -f dist/preread-*.whl
	@$(PY) -m hatchling build -t wheel

wheelhouse: wheel ## pack dist/preread-*.tar: all that a machine without network needs to install and upgrade
	@rm -f dist/preread-*.tar
	@sh deploy/wheelhouse.sh $(PY) dist/preread-*.whl dist

check-wheel: wheelhouse ## install from that tar, without network, outside the tree, and use it there
	@sh deploy/check_wheel.sh $(PY) dist/preread-*.tar

check-pythons: wheel ## try the wheel with every other supported Python that is here; name those that are not
	@sh deploy/check_pythons.sh $(PY) dist/preread-*.whl

try-host: wheelhouse ## boot a Debian host without network from that tar and try its units there (root, debootstrap, systemd-container)
	@sh deploy/try_host.sh $(PY) dist/preread-*.tar

sbom: $(VENV)/.dev ## list what a worker installs, with hashes and the libraries inside wheels: dist/preread.cdx.json (CycloneDX)
	@mkdir -p dist
	@$(PY) -m deploy.sbom dist/preread.cdx.json

audit: $(VENV)/.dev ## ask the network for vulnerabilities of what a worker installs (1: known, 3: could not ask about all)
	@$(PY) -m deploy.audit

tags: $(VENV)/.runtime ## make the tags that RELEASES names, and check those that are there
	@$(PY) -m deploy.tags

release: $(VENV)/.dev ## build and sign the version in pyproject.toml from the commit in RELEASES: make release KEY=preread.key
	@test -n "$(KEY)" || { echo "make release KEY=FILE: the secret key (minisign -G -s preread.key -p preread.pub)" >&2; exit 2; }
	@sh deploy/release.sh $(PY) "$(KEY)"

lock: ## write requirements/*.txt anew from pyproject.toml (needs uv)
	$(UV) pip compile pyproject.toml $(LOCK) --upgrade --extra demo --extra train --group dev -o requirements/dev.txt
	$(UV) pip compile pyproject.toml $(LOCK) -c requirements/dev.txt --extra demo --extra train --group build -o requirements/train.txt
	$(UV) pip compile pyproject.toml $(LOCK) -c requirements/dev.txt --extra demo --group build -o requirements/demo.txt
	$(UV) pip compile pyproject.toml $(LOCK) -c requirements/dev.txt --extra fleet -o requirements/fleet.txt
	$(UV) pip compile pyproject.toml $(LOCK) -c requirements/dev.txt -o requirements/runtime.txt

clean-demo: ## remove the folders that `make demo` made, and no other
	@for folder in demo/[0-9]*-[0-9]*-*; do \
		if grep -qsxF "database_url = \"sqlite:///$(CURDIR)/$$folder/preread.db\"" "$$folder/preread.toml"; then \
			rm -rf "$$folder" && echo "removed $$folder"; fi; done; rmdir demo 2>/dev/null || true

clean: ## remove what was built and cached (never .venv, a database, an inbox or a demo's folder: make clean-demo)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find worker model_training migrations tests deploy -type d -name __pycache__ -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "Preread needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# The stamps are newer than what they were made from, so a second `make` installs nothing.
$(VENV)/.runtime: $(PY) requirements/demo.txt pyproject.toml
	@echo "installing what the worker needs (locked, with hashes) ..."
	@$(PIP) install -qq --require-hashes --only-binary :all: -r requirements/demo.txt
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(PY) requirements/dev.txt pyproject.toml
	@echo "installing what development needs (locked, with hashes; TensorFlow is large) ..."
	@$(PIP) install -qq --require-hashes --only-binary :all: -r requirements/dev.txt
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.runtime
