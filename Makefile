# Set-up and checks. `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow check format lint rooms types bench api tables study study-small clean install

demo: $(READY)
	$(BIN)/algomatch train task=reverse model=2L_attn_only

# Files are read and written as UTF-8, whatever the locale.
test slow: export PYTHONUTF8 = 1

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) rooms
	$(MAKE) types
	$(MAKE) test

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What docs, README and sweep files say of settings, tasks, measures and architectures.
tables: $(READY)
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/rooms.py

lint: $(READY)
	$(BIN)/ruff check .

# Which room may import which: the contracts in pyproject.toml.
rooms: $(READY)
	$(BIN)/lint-imports --no-logo

# mypy looks for a folder of the import's name; the package's is src/.
types: $(READY)
	mkdir -p $(VENV)/typed && ln -sfn ../../src $(VENV)/typed/algomatch
	MYPYPATH=$(VENV)/typed:tests $(BIN)/mypy -p algomatch
	MYPYPATH=$(VENV)/typed:tests $(BIN)/mypy tests benchmarks docs

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# Both may be interrupted and called again: finished runs are left alone.
STUDIED = task=reverse task=reverse_fixed task=sort task=hist task=double_hist task=most_freq task=sort_freq
EXPLAINED = $(foreach t,reverse sort hist,$(foreach m,1L 2L 4L,runs/study/*-$(t)-$(m)-seed[0-2]))
# Steps that depend on the position and the length alone are seen only where lengths are mixed.
BY = --methods eap_ig --kinds
REST = $(foreach t,reverse_fixed sort hist double_hist most_freq sort_freq,runs/study/*-$(t)-*)

study: $(READY)
	$(BIN)/algomatch sweep sweeps/study.yaml
	$(BIN)/algomatch sweep sweeps/study_no_norm.yaml
	echo $(STUDIED) | xargs -n 1 -P 2 $(BIN)/algomatch controls
	$(BIN)/algomatch match runs/study runs/study_no_norm --no-sides --output runs/study-results
	$(BIN)/algomatch circuit runs/study/*-reverse-* runs/study_no_norm/*-reverse-* $(BY) resample_across
	$(BIN)/algomatch circuit $(REST) runs/study_no_norm/*-sort-* $(BY) resample_within
	$(BIN)/algomatch explain $(EXPLAINED)
	$(BIN)/algomatch report runs/study runs/study_no_norm -o runs/study-results/report.html \
		--tables runs/study-results/tables

study-small: $(READY)
	$(BIN)/algomatch sweep sweeps/study_small.yaml
	echo $(wordlist 1,2,$(STUDIED)) | xargs -n 1 -P 2 $(BIN)/algomatch controls
	$(BIN)/algomatch match runs/study_small --no-sides --output runs/study_small-results
	$(BIN)/algomatch circuit runs/study_small/*-reverse-* $(BY) resample_across
	$(BIN)/algomatch circuit runs/study_small/*-reverse_fixed-* $(BY) resample_within
	$(BIN)/algomatch report runs/study_small -o runs/study_small-results/report.html \
		--tables runs/study_small-results/tables
	$(BIN)/python benchmarks/study.py docs/study runs/study_small-results/tables

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
