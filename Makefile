# The environment builds itself in .venv: `make test` is all that a fresh clone needs.
# Another interpreter: make venv PYTHON=python3.12

.DEFAULT_GOAL := help
.PHONY: venv test proto pictures lint types pyright check demo clean help

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; break; }; done)
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
MLFLOW := 3.17.2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.installed

venv: $(STAMP)  ## Build .venv with the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "fedward needs Python 3.11, 3.12 or 3.13; name one: make venv PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c '$(SUPPORTED)' || { echo "fedward needs Python 3.11, 3.12 or 3.13; run make clean first" >&2; exit 1; }
	@echo "Installing PyTorch $(TORCH) ..."; \
	if [ "$$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null; then \
		$(PIP) install -q --no-deps 'torch==$(TORCH)'; \
	else \
		$(PIP) install -q --no-deps 'torch==$(TORCH)+cpu' 2>/dev/null || \
		$(PIP) install -q --no-deps 'torch==$(TORCH)' --index-url https://download.pytorch.org/whl/cpu || \
		$(PIP) install -q --no-deps 'torch==$(TORCH)'; \
	fi
	@echo "Installing fedward and the rest ..."
	@$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

# A real MLflow for the tests of tracking, aside: it cannot be installed beside Flower's pins. Where
# it cannot be had, these tests are skipped, with that as the reason.
.venv-mlflow/.stamp:
	@echo "Installing MLflow $(MLFLOW), for tests ..."
	@$(PYTHON) -m venv .venv-mlflow
	@.venv-mlflow/bin/python -m pip --disable-pip-version-check install -q 'mlflow==$(MLFLOW)' || \
		echo "no MLflow: its tests will be skipped" >&2
	@touch $@

test: export OMP_NUM_THREADS := 1
test: export FEDWARD_MLFLOW = $(shell ls $(CURDIR)/.venv-mlflow/bin/mlflow 2>/dev/null)
test: venv .venv-mlflow/.stamp  ## Run the tests in parallel (more options: make test ARGS="-k ledger")
	$(BIN)/pytest -n auto --dist=worksteal $(ARGS)

proto: venv  ## Renew the code of the control socket and of the inference protocol from their .proto
	$(BIN)/python -m grpc_tools.protoc -Ifedward/client=client --python_out=.typing --pyi_out=.typing --grpc_python_out=.typing fedward/client/control.proto
	$(BIN)/python -m grpc_tools.protoc -Ifedward/clinic/serving=clinic/serving --python_out=.typing --pyi_out=.typing fedward/clinic/serving/inference.proto

pictures: venv  ## Take the pictures in docs/pictures anew; it needs Chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 --renew-pictures tests/deployment/test_pages.py tests/clinic/test_report_print.py tests/clinic/serving/test_page.py tests/test_pictures.py

lint: venv  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## Check types: the packages, then the tests
	$(BIN)/mypy
	$(BIN)/mypy tests

pyright: venv  ## A second opinion on the types (fetches Node.js on first use)
	$(BIN)/pyright

check: lint types test  ## Everything that a change must pass

demo: venv  ## Train the example study: four pretended hospitals on this machine
	@rm -rf runs/demo
	$(BIN)/fedward simulate examples/breast-cancer.toml --out runs/demo

clean:  ## Remove what was built; runs/ stays
	rm -rf .venv .venv-mlflow build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
