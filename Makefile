# Everything there is to do with this checkout. `make help` explains the targets.

SHELL := /bin/bash
UV := hack/uv.sh
PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
# Where `make install` and `make demo` work: native (a cluster built here), kind, or current (your kubeconfig's).
CLUSTER ?= native
STATE_DIR ?= .cluster
# How wide the fan-out of `make test-scale` is.
ITEMS ?= 10000
export CLUSTER STATE_DIR

.DEFAULT_GOAL := help

.PHONY: help
help: ## Explain the targets.
	@echo "Perdure: durable agent workflows for Kubernetes"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  CLUSTER=native|kind|current chooses the cluster of install and demo (now: $(CLUSTER))."

.venv/.synced: pyproject.toml sdk/pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet
	@touch $@

.PHONY: venv
venv: .venv/.synced ## Make the virtual environment in .venv.

.PHONY: lint
lint: venv ## Check style, types, layers, and that generated files are fresh.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m perdure.api.codegen.crds --check
	$(PYTHON) -m perdure.api.codegen.reference --check
	$(PYTHON) -m perdure.domain.glossary --check

.PHONY: lint-words
lint-words: venv ## Find words that the project has replaced by the field's own; WORDS=folders for some, a count for each.
	$(PYTHON) hack/lint/words.py $(WORDS)

.PHONY: format
format: venv ## Format the code and mend what can be mended.
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: crds
crds: venv ## Generate the CRDs from the models.
	$(PYTHON) -m perdure.api.codegen.crds

.PHONY: docs
docs: venv ## Generate the reference and the tables of phases and reasons.
	$(PYTHON) -m perdure.api.codegen.reference
	$(PYTHON) -m perdure.domain.glossary

.PHONY: test-unit
test-unit: venv ## Test the pure parts (milliseconds each).
	$(PYTEST) tests/unit

.PHONY: test-simulated
test-simulated: venv ## Test the control loop on a virtual clock, with faults.
	$(PYTEST) tests/simulated

simulate: SEEDS ?= 1000
simulate: JOBS ?= 2
.PHONY: simulate
simulate: venv ## Try SEEDS (1000) worlds in which everything goes wrong; SEED=123 replays one, TELL=1 tells of it.
	@$(PYTHON) -m tests.simulated.storm $(if $(SEED),--seed $(SEED) $(if $(TELL),--tell),--seeds $(SEEDS) --jobs $(JOBS))

.PHONY: test-integration
test-integration: venv tools-light ## Test against real Postgres, NATS and kube-apiserver.
	$(PYTEST) tests/integration

.PHONY: test-cluster
test-cluster: venv ## Test on a real cluster: the chart installed, pods and processes killed.
	$(PYTEST) tests/cluster --ignore tests/cluster/faults

.PHONY: test-scale
test-scale: venv ## Run a forEach of ITEMS (10000) items on simulated nodes; what must stay small stays small.
	PERDURE_SCALE_ITEMS=$(ITEMS) $(PYTEST) tests/scale

.PHONY: test-faults
test-faults: venv ## Disturb a run of FAULT_ITEMS (50) agents in every way there is, REPEAT (1) times each; FAULTS=names for some.
	FAULTS=$${FAULTS:-all} FAULT_ITEMS=$${FAULT_ITEMS:-50} REPEAT=$${REPEAT:-1} $(PYTEST) tests/cluster/faults -v

.PHONY: test-kills
test-kills: venv ## Kill the operator KILLS (100) times at random moments of 100 runs on simulated nodes; SEED=n for the same ones.
	KILLS=$${KILLS:-100} $(PYTEST) tests/integration/kills -s

.PHONY: test-checkpoints
test-checkpoints: venv tools-light ## Save COUNT (20000) checkpoints while every process is killed in turn; none may be lost.
	COUNT=$${COUNT:-20000} $(PYTEST) tests/integration/operator/test_acknowledged.py -s

.PHONY: test
test: lint test-unit test-simulated test-integration test-cluster ## Run every tier. Needs nothing prepared; builds Kubernetes once (about 10 minutes).

.PHONY: bench
bench: venv ## Measure, and write JSON to .bench; `make bench-B2` for one, ARGS=--small to try. Nothing asserts a time.
	$(PYTHON) -m tests.bench $(ARGS)

.PHONY: bench-profile
bench-profile: venv ## Show where the operator's CPU goes under the load of B2.
	$(PYTHON) -m tests.bench.profiling $(ARGS)

bench-%: venv
	$(PYTHON) -m tests.bench $* $(ARGS)

.PHONY: tools-light
tools-light:
	@python3 hack/cluster build --only light

.PHONY: cluster
cluster: ## Build (once) and boot a real Kubernetes; its kubeconfig is .cluster/kubeconfig.
	python3 hack/cluster up --state-dir $(STATE_DIR)

.PHONY: cluster-down
cluster-down: ## Take the cluster down and leave nothing behind.
	python3 hack/cluster down --state-dir $(STATE_DIR)

.PHONY: image
image: ## Build the container images.
	python3 hack/cluster/image_builder all

.PHONY: install
install: ## Build the images and install the chart, with Postgres and NATS, into the cluster.
	python3 hack/install.py

.PHONY: demo
demo: ## Show the main job end to end: an agent is killed, its replacement goes on from its checkpoint.
	python3 hack/demo

.PHONY: demo-down
demo-down: ## Remove what the demo made, the cluster included.
	python3 hack/demo down

.PHONY: clean
clean: ## Remove caches and the virtual environment.
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
