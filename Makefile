# Every target calls a real program; `make help` lists them. PYTHON=python3.12 picks another Python.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 3
CONTAINERS := up doctor ctl logs ps down upgrade backup restore destroy smoke images-lock
.DEFAULT_GOAL := help
.PHONY: help install demo demo-stop local local-stop local-service $(CONTAINERS) test-compose test test-fast lint types lock clean-env

help: ## this list
	@grep -E '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: # the environment in .venv; instant when it is up to date
	@$(PYTHON) -m infra.local.install $(if $(filter demo,$(MAKECMDGOALS)),--demo)

demo: install ## train a small model on sample data, from an empty machine to verified versions
	@$(BIN)/python -m infra.local.demo
local: install ## the same servers and services for your own work, data in data/local
	@$(BIN)/python -m infra.local up --home data/local
local-service: install ## a systemd unit that starts it at boot: make local-service ARGS=install|uninstall|status
	@$(BIN)/python -m infra.local.unit $(or $(ARGS),status) --home data/local
demo-stop: install ## stop the demo; its data stay in data/demo
local-stop: install ## stop the servers and services of `make local`; the data stay
demo-stop local-stop:
	@$(BIN)/python -m infra.local down --home data/$(@:-stop=)

up: ## everything in containers: checks this host, makes secrets, builds, starts, says where it is
doctor: ## is this host ready for them, and do they run? each line says what to do
ctl: ## any command of `duramen`: make ctl ARGS='versions list'
logs: ## follow what they say: make logs ARGS=trainer
ps: ## which containers there are
down: ## stop and remove the containers; every volume stays
upgrade: ## build, close the open segment, back the bus up, start, check
backup: ## keep queue and ledgers in data/compose/bus-backups (versions have backups of their own)
restore: ## a version into data/compose/restored: make restore ARGS=v003; the bus: ARGS=bus
destroy: ## ask, then delete every model that was trained in them
smoke: ## the whole path in containers of its own on this host, with its GPU; deleted at the end
images-lock: ## pull the images of others and write their digests into infra/compose/images.lock
$(CONTAINERS):
	@$(PYTHON) -m infra.compose $@ $(ARGS)

test-compose: install ## the containers on a real engine, with a tiny model
	@DURAMEN_TEST_COMPOSE=yes $(BIN)/python -m pytest tests/compose -x $(ARGS)
test: install ## all tests, with real servers
test-fast: install ## those that take less than a second each, without servers
test test-fast:
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
	  $(if $(filter test-fast,$@),-m "not slow") $(ARGS)
lint: install ## style, format, import rules, figures, the settings' page, the bus configuration
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
	@$(BIN)/python .ci/figures.py && $(BIN)/python -m infra.local.settings_page --check && \
	  $(BIN)/python -m infra.local.check_conf
types: install ## mypy, strict
	@$(BIN)/mypy
lock: install ## resolve requirements.lock anew, for Python 3.11 to 3.13, without torch
	@$(BIN)/uv pip compile pyproject.toml --universal --all-extras --python-version 3.11 \
	  --generate-hashes --no-emit-package torch --no-header --annotation-style line --upgrade \
	  --output-file requirements.lock --quiet
clean-env: ## remove the environment (never any data)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
