# make demo: set up and run the main job on built-in captions. make test: set up and run the quick checks, in minutes.
# make test-all: the tests that are not quick. make docs: the site, into site/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes of one thread each; what uses Ray stays in one of them. One that dies ends the run.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --max-worker-restart=0
NOT_QUICK := not battery and (cluster or own_service or long or hypothesis)

# What is imported is compiled once, not by each of the many processes of a job.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint types contracts pytest docs clean tools

demo: $(VENV)/.data
	$(BIN)/t5enc demo demo

# mypy takes a core while the others take the other one.
test: $(VENV)/.test
	$(MAKE) --no-print-directory --jobs=2 types lint contracts pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

contracts: $(VENV)/.test
	$(BIN)/lint-imports

pytest: $(VENV)/.test
	$(PYTEST) $(PYTEST_ARGS)

test-all: $(VENV)/.test
	T5ENC_TEST_PROFILE=all $(PYTEST) -m '$(NOT_QUICK)' $(PYTEST_ARGS)

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# Each environment holds the one before it, so that `make -j` never installs two things at once.
$(VENV)/.data: $(VENV)/.torch
	$(call install,data)

$(VENV)/.test: $(VENV)/.data
	$(call install,test)

$(VENV)/.docs: $(VENV)/.test
	$(call install,docs)

# Torch comes by pip, which knows of this machine's builds (one for CPUs, say); uv finds it there and leaves it.
$(VENV)/.torch: pyproject.toml constraints.txt | tools
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv \
		|| echo "no uv: pip installs the rest, which takes minutes longer"
	touch $@

# All of one extra: by uv where it is there and reaches the packages, else by pip.
define install
$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[$(1)]" \
	|| $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(1)]"
touch $@
endef

tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "missing: Python 3.11 or newer (PYTHON=$(PYTHON) is `$(PYTHON) --version 2>&1`)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "missing: Python's venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
		|| echo "no C++ compiler: Flex attention on the CPU is off and its tests are skipped; all else works"

clean:
	rm -rf $(VENV) demo site build dist *.egg-info
