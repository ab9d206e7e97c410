# Every target sets up .venv by itself; nothing but Python >= 3.11 with pip has to be there.
PYTHON ?= python3
RATIO ?= 0.35
VENV := .venv
BIN := $(VENV)/bin
DATA ?= .demo/data
unexport PYTHONDONTWRITEBYTECODE # tests start many processes; each would compile all modules anew
PROCESSES := 3 # one more than cores of a small machine, as some tests wait for others

.PHONY: help venv zoo demo test coverage lint types format up train clean
.DEFAULT_GOAL := help

help: ## Show this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/installed ## Make the virtual environment and install everything into it

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

zoo: $(VENV)/installed ## Install the networks that benchmarks.coverage runs
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[zoo]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps facenet-pytorch==2.6.0 # asks for an old torch

demo: $(VENV)/installed ## Prune a ResNet-20 to RATIO (0.35) of its measured latency, end to end
	$(BIN)/secateur demo --ratio $(RATIO)

test: $(VENV)/installed ## Run every test, linters, types and import contracts included
	$(BIN)/python -m pytest -q -n $(PROCESSES) --durations=15

coverage: $(VENV)/installed ## The same under branch coverage, which takes more time
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(PROCESSES) --durations=15
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --fail-under=90

lint: $(VENV)/installed ## Check style and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed ## Check types
	$(BIN)/mypy

format: $(VENV)/installed ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: $(VENV)/installed ## Start the service on this machine
	$(BIN)/secateur up

train: $(VENV)/installed ## Train the checkpoint of the demo anew (about half an hour)
	$(BIN)/python -m examples.fetch_fashion_mnist --out $(DATA)
	$(BIN)/python -m examples.train_resnet20 --data $(DATA) \
		--out examples/checkpoints/resnet20_fashion_mnist.safetensors

clean: ## Remove the virtual environment and what the demo left
	rm -rf $(VENV) .demo .coverage .coverage.*
