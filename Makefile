# Every command of this repository. `make help` lists the targets.

SHELL := /bin/bash
UV := hack/uv.sh
PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
# The cluster of `make install` and `make demo`: native (built here), kind, or current (that of your kubeconfig).
CLUSTER ?= native
STATE_DIR ?= .cluster
# Items of the forEach of `make test-scale`.
ITEMS ?= 10000
# Versions of Python under which `make test-python` runs the unit tests.
PYTHONS ?= 3.11 3.13
# What `make test` has of the tiers that take long: faults of the matrix and the agents of each, items of a forEach, inputs
# of the fuzzer.
CI_FAULTS := operator-killed,postgres-killed,agent-killed-after-checkpoint,node-drained
CI_FAULT_ITEMS := 6
CI_ITEMS := 300
CI_INPUTS := 10000
export CLUSTER STATE_DIR

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets.
	@echo "Perdure: durable agent workflows for Kubernetes"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  CLUSTER=native|kind|current selects the cluster of install and demo (now: $(CLUSTER))."

.venv/.synced: pyproject.toml sdk/pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet
	@touch $@

.PHONY: venv
venv: .venv/.synced ## Create the virtual environment .venv from uv.lock.

.PHONY: check
check: venv ## Inner loop: ruff, mypy and the tests of the pure core, with seconds; TESTS=paths for other tests.
	@$(PYTHON) hack/check.py $(TESTS)

# The parts of `lint` run at the same time; each prints its output when it has ended.
.PHONY: lint lint-style lint-types lint-layers lint-generated lint-words
lint: venv ## Check style, types, import layers, words of prose, and that generated files are fresh.
	@$(MAKE) --no-print-directory --jobs 5 --output-sync=target --keep-going \
	    lint-style lint-types lint-layers lint-generated lint-words

lint-style:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

lint-types:
	.venv/bin/mypy

lint-layers:
	.venv/bin/lint-imports

lint-generated:
	$(PYTHON) -m hack.docs.crds --check
	$(PYTHON) -m hack.docs.policy --check
	$(PYTHON) -m hack.docs.reference --check
	$(PYTHON) -m hack.docs.semantics --check
	$(PYTHON) -m hack.docs.events --check
	$(PYTHON) -m hack.docs.limits --check
	$(PYTHON) hack/version.py

lint-words: venv ## Check prose for words that have a better word, with a count per folder; WORDS=folders for some.
	$(PYTHON) hack/lint/words.py $(WORDS)

.PHONY: format
format: venv ## Format the code and apply the fixes of ruff.
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: crds
crds: venv ## Generate the CustomResourceDefinitions, and the admission policy of step kinds, from the models.
	$(PYTHON) -m hack.docs.crds
	$(PYTHON) -m hack.docs.policy

.PHONY: docs
docs: venv ## Generate the reference, the pages of events and limits, and the tables of phases and reasons in docs/.
	$(PYTHON) -m hack.docs.reference
	$(PYTHON) -m hack.docs.semantics
	$(PYTHON) -m hack.docs.events
	$(PYTHON) -m hack.docs.limits

.PHONY: test-unit
test-unit: venv ## Unit tests, in as many processes as there are cores.
	$(PYTEST) -n auto --dist worksteal tests/unit

.PHONY: test-python
test-python: ## Unit tests under each of PYTHONS (3.11 3.13), which uv downloads where the machine has none.
	@for version in $(PYTHONS); do \
	    echo "==> unit tests under Python $$version"; \
	    UV_PROJECT_ENVIRONMENT=.venv-$$version $(UV) sync --frozen --quiet --python $$version && \
	    .venv-$$version/bin/pytest -n auto --dist worksteal -p no:cacheprovider tests/unit || exit 1; \
	done

.PHONY: test-simulated
test-simulated: venv ## Control loop tests in simulation: virtual clock, injected faults.
	$(PYTEST) tests/simulated

simulate: SEEDS ?= 1000
simulate: JOBS ?= 2
.PHONY: simulate
simulate: venv ## Run SEEDS (1000) seeded fault-injection simulations; SEED=n replays one, TRACE=1 prints its history.
	@$(PYTHON) -m tests.simulated.storm $(if $(SEED),--seed $(SEED) $(if $(TRACE),--trace),--seeds $(SEEDS) --jobs $(JOBS))

fuzz: INPUTS ?= 1000000
.PHONY: fuzz
fuzz: venv ## Fuzz expressions, manifests, results, requests and tokens with INPUTS (1000000) inputs.
	@$(PYTHON) -m tests.fuzz --inputs $(INPUTS)

.PHONY: test-integration
test-integration: venv tools-light ## Integration tests against a real Postgres, NATS and kube-apiserver.
	$(PYTEST) tests/integration

.PHONY: test-cluster
test-cluster: venv ## End-to-end tests on a real cluster: the chart, kills, and some of the fault matrix.
	FAULTS=$${FAULTS:-$(CI_FAULTS)} FAULT_ITEMS=$${FAULT_ITEMS:-$(CI_FAULT_ITEMS)} \
	    $(PYTEST) tests/cluster --ignore tests/cluster/hostile

.PHONY: test-scale
test-scale: venv ## Run a forEach of ITEMS (10000) items on simulated nodes and check the sizes that must stay bounded.
	PERDURE_SCALE_ITEMS=$(ITEMS) $(PYTEST) tests/scale

.PHONY: test-faults
test-faults: venv ## Inject every fault into a run of FAULT_ITEMS (50) agents, REPEAT (1) times each; FAULTS=names for some.
	FAULTS=$${FAULTS:-all} FAULT_ITEMS=$${FAULT_ITEMS:-50} REPEAT=$${REPEAT:-1} $(PYTEST) tests/cluster/faults -v

.PHONY: test-hostile
test-hostile: venv ## A hostile tenant for HOSTILE_SECONDS (600), next to another whose chains must go on; HOSTILE_SEED=n repeats.
	HOSTILE_SECONDS=$${HOSTILE_SECONDS:-600} $(PYTEST) tests/cluster/hostile -s

.PHONY: test-kills
test-kills: venv ## Kill the operator KILLS (100) times at random during 100 runs on simulated nodes; SEED=n repeats.
	KILLS=$${KILLS:-100} $(PYTEST) tests/integration/kills -s

.PHONY: test-checkpoints
test-checkpoints: venv tools-light ## Save COUNT (20000) checkpoints while each process is killed in turn; none may be lost.
	COUNT=$${COUNT:-20000} $(PYTEST) tests/integration/operator/test_acknowledged.py -s

.PHONY: test test-tiers
test: test-tiers lint test-unit test-simulated test-integration ## Lint and every tier of tests; builds Kubernetes once (about 10 minutes).
	@$(MAKE) --no-print-directory fuzz INPUTS=$(CI_INPUTS)
	@$(MAKE) --no-print-directory test-scale ITEMS=$(CI_ITEMS)
	@$(MAKE) --no-print-directory test-cluster

test-tiers:
	@echo "make test runs:"
	@echo "  lint          style, types, layers, words, freshness of generated files"
	@echo "  unit          pure code and parts, milliseconds each"
	@echo "  simulated     the control loop on a virtual clock, with faults between any two awaits"
	@echo "  integration   real Postgres, NATS and kube-apiserver"
	@echo "  fuzz          $(CI_INPUTS) inputs (make fuzz: a million)"
	@echo "  scale         a forEach of $(CI_ITEMS) items on simulated nodes (make test-scale: $(ITEMS))"
	@echo "  cluster       kubelet, containerd and the chart; of the fault matrix: $(CI_FAULTS)"
	@echo "                with $(CI_FAULT_ITEMS) agents each (make test-faults: all faults, 50 agents)"
	@echo "Targets of their own, not part of it: simulate, test-faults, test-hostile, test-kills, test-checkpoints,"
	@echo "  test-python, bench"

.PHONY: bench
bench: venv ## Run the benchmarks, JSON to .bench; `make bench-B2` for one, ARGS=--small for a trial.
	$(PYTHON) -m tests.bench $(ARGS)

.PHONY: bench-profile
bench-profile: venv ## Profile the operator's CPU under the load of B2.
	$(PYTHON) -m tests.bench.profiling $(ARGS)

bench-%: venv
	$(PYTHON) -m tests.bench $* $(ARGS)

.PHONY: tools-light
tools-light:
	@python3 hack/cluster build --only light

.PHONY: cluster
cluster: ## Build Kubernetes (once) and boot a cluster; its kubeconfig is .cluster/kubeconfig.
	python3 hack/cluster up --state-dir $(STATE_DIR)

.PHONY: cluster-down
cluster-down: ## Stop the cluster and remove everything that belongs to it.
	python3 hack/cluster down --state-dir $(STATE_DIR)

.PHONY: image
image: ## Build the container images.
	python3 hack/cluster/image_builder all

.PHONY: install
install: ## Build the images and install the chart, with Postgres and NATS, into the cluster.
	python3 hack/install.py

.PHONY: demo
demo: ## End-to-end demo: an agent is killed, its replacement resumes from the last checkpoint.
	python3 hack/demo

.PHONY: demo-down
demo-down: ## Remove everything that the demo created, the cluster included.
	python3 hack/demo down

.PHONY: clean
clean: ## Remove caches and the virtual environment.
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
