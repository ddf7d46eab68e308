# make demo and make test set up .venv by themselves; repeated calls reuse it.
SHELL := /bin/bash
PYTHON ?= $(firstword $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p; done))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint unit outages slow bench proto clean

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/python examples/train_digits.py --out runs/digits_cnn.safetensors
	$(BIN)/autoprune search examples/digits.yaml --run $(DEMO)
	rm -f runs/knee.onnx
	$(BIN)/autoprune export $(DEMO) knee --to onnx --out runs/knee.onnx

test: lint unit

unit: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow and not ray" tests
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "ray and not slow" tests

# What takes minutes because it waits for clusters, servers and databases to fail.
outages: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and ray" tests
	$(BIN)/python -m pytest -m slow tests/e2e/test_outages.py

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow tests

proto: $(STAMP)
	$(BIN)/python -m cluster.proto.generate

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.controller
	$(BIN)/python -m benchmarks.rung0
	$(BIN)/python -m benchmarks.carve
	$(BIN)/python -m benchmarks.repair
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.quantization
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.int8
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.export

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
