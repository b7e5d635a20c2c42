# One line for each target; the work is in scripts/. Variables a target reads are given on its line:
#   make up PROFILE=sim EDGE_PORT=9080
.DEFAULT_GOAL := help
SHELL := /bin/bash

# Debian's own Python is compiled with profile-guided optimization, one in PATH (pyenv) often is not: the router's CPU per
# request is a fifth less.
PYTHON ?= $(shell /usr/bin/python3.11 -c 'import ensurepip' 2>/dev/null && echo /usr/bin/python3.11 || command -v python3.11 || command -v python3)
PLATFORM_PYTHON := .venv/bin/python

# Only what was given is passed on, so that a running stack's own settings stay in force otherwise.
export PROFILE RUN_DIR ROUTER_CONFIG EDGE_SETTINGS TORCH_INDEX_URL FULL TIERS ARGS PART
export EDGE_PORT EDGE_ADMIN_PORT EDGE_TELEMETRY_PORT RATE_LIMIT_PORT RATE_LIMIT_METRICS_PORT ROUTER_PORT
export ENGINE_A_PORT ENGINE_B_PORT AGENT_A_PORT AGENT_B_PORT REDIS_PORT PROMETHEUS_PORT ALERTMANAGER_PORT
export PICTURES_PORT CONSOLE_PORT NODE_EXPORTER_PORT REDIS_EXPORTER_PORT DCGM_PORT

.PHONY: help up down status logs watch demo test check bench load capacity generate images test-cluster

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## Install what is missing, start the whole stack, show one answered request (PROFILE=sim: engine simulator)
	@$(PYTHON) scripts/start-stack

down: ## Stop the stack; no process and no port of it remains
	@$(PYTHON) scripts/stop-stack

status: ## Show each part's state, port, pid and why it is not ready
	@$(PYTHON) scripts/show-status

logs: ## Follow the logs of all parts (PART=router: of one)
	@$(PYTHON) scripts/follow-logs

watch: ## Show verdicts, backends and the last requests in this terminal, until Ctrl-C
	@.venv/bin/console watch

demo: ## Replay the tour: short, long, sticky and refused requests, each explained
	@$(PYTHON) scripts/give-tour

test: ## Run all tests and list what was skipped and why (ARGS=FILE, FULL=1: long forms, STRICT=1: skip no missing program)
	@$(PYTHON) scripts/run-tests

test-cluster: ## Test the platform and inject faults on the cluster of KUBECONFIG (tests/cluster)
	@$(PYTHON) scripts/test-cluster

check: ## Check format, lint, types and the import rules
	@$(PYTHON) scripts/check-code

bench: ## Measure the router's own cost next to other routers (SCALE=1: over the number of backends)
	@$(PYTHON) scripts/run-measurement bench

load: ## Drive load through the running stack (WORKLOAD= RATE= DURATION= TARGET=)
	@$(PYTHON) scripts/run-measurement load

capacity: ## Find the highest load that still meets the objectives (WORKLOAD=)
	@$(PYTHON) scripts/run-measurement capacity

generate: ## Rewrite every generated file
	@$(PYTHON) scripts/generate-all

images: ## Build the container images and push them to REGISTRY= (TAG=, IMAGES=, GPU=1, PLATFORM=, BUILDER=)
	@scripts/build-images
