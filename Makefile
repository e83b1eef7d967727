# `make demo` and `make test` set everything up by themselves; all they need is Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
COMPILED := .venv/.compiled
# Compiling and linting go side by side.
MAKEFLAGS += -j2

.PHONY: setup demo test lint clean

setup: $(COMPILED)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "matchcut needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(COMPILED): $(READY) # so that the first call is as fast as the next
	$(BIN)/python -c 'import torch; from matchcut.matching import affinity, refine; \
		x = torch.ones(1, 32, 4, 4); y = torch.ones(1, 32, 8, 8); refine(affinity(x, x), y, [y], y[:, 0] > 0)'
	@touch $@

demo: $(COMPILED)
	$(BIN)/matchcut track examples/bunny.mp4 --mask examples/bunny_first.png -o out/demo --overlay --overwrite

test: $(COMPILED) lint
	$(BIN)/pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv out build src/*.egg-info
