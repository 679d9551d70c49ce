# Two commands matter: `make quickstart` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup quickstart test lint types suite slow test-gpu bench-gpu fuzz crash-test index-test clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# Its torchvision is of CUDA, beside which no PyTorch for CPUs works; the test of FID does without.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps torch-fidelity
	@# It wants an older ml_dtypes; the tests need its description of Triton's config.pbtxt alone.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps tritonclient
	@touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/compress run recipes/quickstart.yaml

# All four, one after another whatever -j says, and how long each took.
test: $(STAMP)
	@for part in lint types suite slow; do \
		started=$$(date +%s); $(MAKE) --no-print-directory $$part || exit 1; \
		echo "$$part took $$(($$(date +%s) - started)) s"; \
	done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Both workers use both processors: PyTorch's threads must neither be more nor spin while they wait for each other.
suite slow: export OMP_NUM_THREADS ?= 1
suite slow: export GOMP_SPINCOUNT ?= 3000

# Every function by itself. Traces of PyTorch's exporter stay in .pytest_cache for the next time.
suite: $(STAMP)
	$(BIN)/pytest -n 2 -m "not slow and not index"

# Whole recipes, every published format, the fuzzer's mutations: two thirds of the time, for a twentieth of the tests.
slow: $(STAMP)
	$(BIN)/pytest -n 2 -m slow

# On a machine with a GPU, with the packages of docs/devices.md; BIN is the folder of its python.
test-gpu:
	$(BIN)/python -m pytest -m gpu -rs

# What PyTorch and exported engines reach there, into build/gpu; the graphs are made first, on the CPU.
bench-gpu:
	mkdir -p build/gpu
	$(BIN)/python benchmarks/gpu.py --json build/gpu/pytorch.json
	$(BIN)/python benchmarks/gpu_engines_make.py build/gpu/engines
	PYTHONPATH=. $(BIN)/python benchmarks/gpu_engines.py build/gpu/engines --json build/gpu/engines.json

# make fuzz COUNT=50000 SEED=1: mutations of everything that users hand in; the files of those that fail are in build/fuzz.
COUNT := 50000
SEED := 0
fuzz: $(STAMP)
	PYTHONPATH=tests/hostile $(BIN)/python -m fuzz --count $(COUNT) --seed $(SEED)

# An hour or two on 2 cores: `compress run` and `compress train` are killed 200 times, resumed and compared.
crash-test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/crash.py --points 200

# Minutes, and a package index: every documented installation is resolved, and the Dockerfile's steps run in a folder.
index-test: $(STAMP)
	$(BIN)/pytest -m index tests/test_packages.py tests/test_docker.py

clean:
	rm -rf .venv .compress runs build *.egg-info
