# Each target makes the environment it needs. PYTHON is the interpreter that environments are made with.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.PHONY: demo demo-full paper test test-slow test-hard test-hard-vllm test-loop test-vllm test-loaders lint format clean

.venv/pip:
	$(PYTHON) -m venv .venv
	$(PIP) install "pip>=25.1"
	touch $@

# What `make demo` needs: the light install, and transformers on top of PyTorch.
.venv/demo: .venv/pip pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --group demo --editable .
	touch $@

.venv/dev: .venv/pip pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --group dev --editable .
	touch $@ .venv/demo

# The loop in miniature: a dataset from the shipped tiny checkpoint, without network, GPU or key.
demo: .venv/demo
	$(BIN)/specs-data demo

# The closed loop: GRPO-zero, build, DPO + SFT, GRPO, with evaluation between.
demo-full: .venv/dev
	$(BIN)/specs-data demo --full

# The paper in miniature: three cold starts, five seeds, the Generalization Factor by step, the ablation, GRPO from each
# cold start. What is done stays: the same command goes on.
paper: .venv/dev
	$(BIN)/python benchmarks/miniature.py

test: .venv/dev
	$(BIN)/python -m pytest -n 2 -m "not slow" --ignore tests/elsewhere

# Tests that take minutes.
test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow --ignore tests/elsewhere --ignore tests/hard --ignore tests/test_demo_full.py

# Kills, damage, full disks, hostile pictures and problems, faulty plug-ins and servers: all trials, with a table.
test-hard: .venv/dev
	$(BIN)/python -m pytest tests/hard

# Builds with the real vLLM that are killed, and go on.
test-hard-vllm: .venv/dev
	.ci/vllm-env
	.venv-vllm/bin/python -m pytest -m slow tests/elsewhere/vllm_engine

# The closed loop, which trains for a quarter of an hour.
test-loop: .venv/dev
	$(BIN)/python -m pytest tests/test_demo_full.py

# The real vLLM, on the CPU, in an environment of its own.
test-vllm: .venv/dev
	.ci/vllm-env
	$(BIN)/python tests/elsewhere/smollm/make.py .cache/smollm2
	.venv-vllm/bin/python -m pytest -m "not slow" tests/elsewhere/vllm_engine

# The real loaders of LLaMA-Factory and ms-swift, in environments of their own.
test-loaders: .venv/dev
	.ci/loaders-env
	$(BIN)/python -m pytest tests/elsewhere/loaders

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
