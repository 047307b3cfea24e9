# Needs make, a POSIX shell and Python >= 3.11 with pip; uv is used where it is installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# RUNTIME is what a demo needs, DEV what the checks need on top. A stamp is as old as the last installation.
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
LOCK := $(wildcard requirements.lock)
PYTEST_WORKERS ?= 2
COVERAGE_MIN ?= 95

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types contracts shape rendered language format docs bench archive-bench clean bench-report bench-walk bench-parts bench-scaling audit bench-telemetry \
	drills drills-mutation drill-full chaos fuzz soak takeover scale-out-test list-plans pictures trace-picture chat-pictures crash-content invariants invariants-mutation

help: ## What there is to make
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | \
		while IFS= read -r line; do printf '  %-16s %s\n' "$${line%%:*}" "$${line#*## }"; done

demo: $(RUNTIME) ## Explore a site and watch it: SITE=https://... for one of yours, KEEP=1 to leave the service up
	@$(BIN)/runwire demo $(if $(SITE),--site '$(SITE)') $(if $(KEEP),--keep)

test: $(DEV) ## Everything that has to be right: all checks, all tests, coverage
	@$(MAKE) --no-print-directory -j2 check
	sh scripts/system-programs.sh
	$(BIN)/coverage erase
# Nothing is run twice: a test that fails now and then is a defect, of the test or of the product.
	$(BIN)/coverage run -m pytest --numprocesses=$(PYTEST_WORKERS) -m "not drill" $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERAGE_MIN)
# The drills have the machine for themselves: their alerts are about time.
	$(BIN)/python -m pytest -q -n0 -p no:randomly -m drill tests/drills

drills: $(DEV) ## Break the real service under real Prometheus and Alertmanager, alert by alert
	sh scripts/system-programs.sh
	$(BIN)/python -m pytest -p no:randomly -m drill $(if $(DRILLS_REPORT),--drills-report) tests/drills $(PYTEST_ARGS)

drills-mutation: $(DEV) ## Leave the rules out: the drills must fail, alert by alert; ALERTS="SequenceGap ..." for some
	PYTHONPATH=tests $(BIN)/python -m drills.mutation $(ALERTS)

drill-full: $(DEV) ## One drill as in production: a killed publisher, the pages, and nothing lost (7 minutes)
	$(BIN)/python -m pytest -q tests/drills/full_scale.py

check: lint types contracts shape rendered language

rendered: $(DEV) ## What is rendered from alerts/thresholds.yaml and the code is as it would be rendered now
	$(BIN)/runwire ops render --check
	$(BIN)/python scripts/render_docs.py --check

lint: $(DEV) ## Style and syntax
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m compileall -q src tests

types: $(DEV) ## Types of the source and the tests
	$(BIN)/mypy

language: $(DEV) ## Prose that a reader would stumble over
	$(BIN)/python scripts/check_language.py

shape: $(DEV) ## No module over 400 lines, no class over 250; REPORT=1 prints the counts
	$(BIN)/python scripts/check_shape.py $(if $(REPORT),--report)

contracts: $(DEV) ## Who may import whom
	$(BIN)/lint-imports

audit: $(DEV) ## Known vulnerabilities in what the locks pin; needs the network, so `make test` leaves it out
	@$(INSTALL) 'pip-audit>=2.9'
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock -r requirements-image.lock

format: $(DEV) ## Put the source into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DEV) ## Write the parts of docs/ that are made from the code
	$(BIN)/runwire ops render
	$(BIN)/python scripts/render_docs.py
	$(BIN)/python scripts/render_datadog.py

chaos: $(DEV) ## Every kind of fault under load, for MINUTES=10; REPORT=1 writes docs/reliability.md
	sh scripts/system-programs.sh
	PYTHONPATH=tests $(BIN)/python -m chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report)

fuzz: $(DEV) ## Fuzz every reader of foreign bytes, each for SECONDS=60
	@for target in $$(PYTHONPATH=tests $(BIN)/python -c "from fuzz.targets import TARGETS; print(*TARGETS)"); do \
		echo "fuzzing $$target ..." >&2; \
		PYTHONPATH=tests $(BIN)/python -m fuzz $$target -max_total_time=$(or $(SECONDS),60) -max_len=4096 -timeout=10 || exit 1; \
	done

soak: $(DEV) ## Load and faults for MINUTES=30: memory, descriptors, connections and tables stay flat; REPORT=1 writes
	sh scripts/system-programs.sh
	PYTHONPATH=tests $(BIN)/python -m chaos.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report)

takeover: $(DEV) ## From SIGKILL of a worker to its run's next event, KILLS=50 times; REPORT=1 writes docs/reliability.md
	KILLS=$(or $(KILLS),50) REPORT=$(REPORT) $(BIN)/python -m pytest -q -n0 -p no:randomly tests/crash/test_takeover.py

trace-picture: $(DEV) ## Kill a worker in the middle of a run and draw the trace: docs/img/trace.png
	sh scripts/system-programs.sh
	PYTHONPATH=tests $(BIN)/python scripts/trace_picture.py

chat-pictures: $(DEV) ## Chat, reload in the middle of an answer, and take pictures: docs/img/chat*.png
	sh scripts/system-programs.sh pngquant
	PYTHONPATH=tests:scripts $(BIN)/python scripts/chat_pictures.py

list-plans: $(DEV) ## How lists of RUNS=10000000 runs are read, for every combination of filters: 10 GB, 15 minutes
	$(BIN)/python scripts/list_plans.py --runs $(or $(RUNS),10000000) $(if $(PLANS),--plans)

pictures: $(DEV) ## Draw the dashboards, as a service under load fills them: ten minutes; WORDS=draw draws the last ones again
	sh scripts/system-programs.sh pngquant
	PYTHONPATH=tests:scripts $(BIN)/python -m pictures $(WORDS)

scale-out-test: $(DEV) ## Two thousand clients of three API, two worker and two publisher processes, and everything fails once
	sh scripts/system-programs.sh
	$(BIN)/python -m pytest -q -p no:randomly tests/crash/full_scale_out.py

crash-content: $(DEV) ## 200 runs write parts for 300 readers, twelve in a browser, and processes die: SEED=1, RUNS=200
	sh scripts/system-programs.sh
	SEED=$(or $(SEED),1) RUNS=$(or $(RUNS),200) $(BIN)/python -m pytest -q -p no:randomly tests/crash/full_content.py

invariants: $(DEV) ## Random histories of events and of content against their models, EXAMPLES=300 of each, SEED=...
	$(if $(SEED),RUNWIRE_INVARIANTS_SEED=$(SEED)) RUNWIRE_INVARIANTS_EXAMPLES=$(or $(EXAMPLES),300) \
		RUNWIRE_BYTES_EXAMPLES=$(or $(EXAMPLES),300) \
		$(BIN)/python -m pytest -q -n$(PYTEST_WORKERS) -p no:randomly tests/invariants

invariants-mutation: $(DEV) ## Put defects into a copy of the source: random histories must find each; MUTANTS="early-end ..." for some
	$(if $(SEED),RUNWIRE_INVARIANTS_SEED=$(SEED)) $(if $(EXAMPLES),EXAMPLES=$(EXAMPLES)) PYTHONPATH=tests \
		$(BIN)/python -m invariants.mutants $(MUTANTS)

bench: $(DEV) ## Measure this machine: everything docs/performance.md names, beside what else it can do
	$(BIN)/python -m benchmarks

bench-report: $(RUNTIME) ## Write docs/performance.md's tables and pictures from benchmarks/results/
	$(BIN)/python -m benchmarks.rendering

bench-walk: $(DEV) ## Measure walking runs beside LangGraph, DBOS and Restate, and write the table of docs/performance.md
	$(BIN)/python -m benchmarks --only walk --seconds 3 --rounds 3 --json benchmarks/results/walk.json
	$(BIN)/python -m benchmarks.rendering

bench-parts: $(DEV) ## Measure parts beside events, Durable Streams and Redis Streams, and write the table of docs/performance.md
	$(BIN)/python -m benchmarks --only parts many-runs --seconds 5 --rounds 3 --json benchmarks/results/parts.json
	$(BIN)/python -m benchmarks.rendering

archive-bench: $(DEV) ## Measure this machine: a million events into the archive, and out of PostgreSQL
	$(BIN)/python -m benchmarks.archive

bench-scaling: $(DEV) ## What an event and a delivery cost each part of a deployment over NATS, and what that predicts
	$(BIN)/python -m benchmarks.scaling

bench-telemetry: $(RUNTIME) ## Measure what telemetry costs: CPU per event with it off, by part and on
	$(BIN)/python -m benchmarks.telemetry --parts

clean: ## Remove what was made here, the virtual environment too
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov dist build
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "runwire needs Python 3.11 or later: make PYTHON=python3.11" >&2; exit 1; }
ifdef UV
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

ifdef UV
INSTALL := VIRTUAL_ENV=$(VENV) uv pip install --quiet
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

$(RUNTIME): pyproject.toml hatch_build.py $(wildcard src/runwire/*/*.c) $(LOCK) | $(BIN)/python
	@echo "installing runwire into $(VENV) ..." >&2
ifneq ($(LOCK),)
	@$(INSTALL) --require-hashes -r requirements.lock
endif
	@$(INSTALL) -e '.[embedded]'
	@touch $@

$(DEV): pyproject.toml $(RUNTIME)
	@echo "installing what the checks need ..." >&2
	@$(BIN)/python scripts/dev_requirements.py > $(VENV)/dev-requirements.txt
	@$(INSTALL) -r $(VENV)/dev-requirements.txt
	@touch $@
