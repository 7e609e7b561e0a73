# make demo: set up and run the main job on built-in captions. make test: set up and run every check.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types contracts pytest clean tools

demo: tools $(VENV)/.data
	$(BIN)/t5enc demo demo

test: lint types contracts pytest

lint: tools $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: tools $(VENV)/.test
	$(BIN)/mypy

contracts: tools $(VENV)/.test
	$(BIN)/lint-imports

pytest: tools $(VENV)/.test
	$(BIN)/python -m pytest

# One environment serves both: .test holds all that .data does.
$(VENV)/.data: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[data]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@ $(VENV)/.data

tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "missing: Python 3.11 or newer (PYTHON=$(PYTHON) is `$(PYTHON) --version 2>&1`)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "missing: Python's venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
		|| echo "no C++ compiler: Flex attention on the CPU is off and its tests are skipped; all else works"

clean:
	rm -rf $(VENV) demo build dist *.egg-info
