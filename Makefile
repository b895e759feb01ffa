# Set-up and checks. `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow check format lint types bench api study study-small clean install

demo: $(READY)
	$(BIN)/algomatch train task=reverse model=2L_attn_only

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) types
	$(MAKE) test

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)
	$(BIN)/ruff check .

# mypy looks for a folder of the import's name; the package's is src/.
types: $(READY)
	mkdir -p $(VENV)/typed && ln -sfn ../../src $(VENV)/typed/algomatch
	MYPYPATH=$(VENV)/typed:tests $(BIN)/mypy -p algomatch
	MYPYPATH=$(VENV)/typed:tests $(BIN)/mypy tests benchmarks docs

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# Both may be interrupted and called again: finished runs are left alone.
study: $(READY)
	$(BIN)/algomatch sweep sweeps/study.yaml
	$(BIN)/algomatch sweep sweeps/study_no_norm.yaml
	$(BIN)/algomatch match runs/study runs/study_no_norm --output runs/study-results
	$(BIN)/algomatch compare runs/study runs/study_no_norm --output runs/study-results
	$(BIN)/algomatch report runs/study runs/study_no_norm -o runs/study-results/report.html

study-small: $(READY)
	$(BIN)/algomatch sweep sweeps/study_small.yaml
	$(BIN)/algomatch match runs/study_small --output runs/study_small-results
	$(BIN)/algomatch compare runs/study_small --output runs/study_small-results
	$(BIN)/algomatch report runs/study_small -o runs/study_small-results/report.html

# The reference of the Python API, as Markdown in build/api. It reads the source, and runs none of it.
api:
	$(PYTHON) docs/api.py

install: $(READY)

# torch first, by its exact version: a range would bring gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
