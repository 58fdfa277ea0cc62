# Every target makes its environment when it is missing and installs into it what it needs.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin
FAST := -m pytest -q -rs --numprocesses auto --maxprocesses 8 --dist worksteal
SLOW := kills clusters slurm compilers packaging assets notebooks ray# what they are and how long they take: pyproject.toml

.PHONY: help demo search test test-all $(SLOW:%=test-%) slurm-programs test-gpu gpu-wheels test-oldest lint clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

.venv/product: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

.venv/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/product

.venv/search: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[index,photos]'
	@touch $@ .venv/product

.venv-oldest/dev: pyproject.toml
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install -q --disable-pip-version-check uv
	$(OLDEST)/uv pip install -q --python $(OLDEST)/python --resolution lowest-direct -e '.[dev]'
	@touch $@

demo: .venv/product  ## install and run the embedded example (about 3 minutes on 2 cores)
	$(BIN)/python run.py

search: .venv/search  ## index the pictures of IMAGES=<folder>, then search: QUERY="…", or line by line
	@test -n "$(IMAGES)" || { echo "Say where the pictures are: make search IMAGES=<folder>"; exit 2; }
	$(BIN)/edje index "$(IMAGES)" --into photos.edje
	@$(BIN)/edje search photos.edje $(if $(QUERY),"$(QUERY)")

test: .venv/dev  ## install with the development extra and run the fast tests
	$(BIN)/python $(FAST)

test-all: $(SLOW:%=test-%) test-gpu  ## the tests that are slow by nature, part by part

$(SLOW:%=test-%): test-%: .venv/dev
	@grep -E '^ *"$*: ' pyproject.toml
	$(BIN)/python -m pytest -q -rs -m $*

test-slurm: slurm-programs

slurm-programs:  ## Debian's packages of Slurm, where root can install them; without, test-slurm skips
	@test "$$(id -u)" != 0 || { slurmctld -V && slurmd -V && srun -V && munged -V; } >/dev/null 2>&1 \
		|| { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
			slurmctld slurmd slurm-client munge >/dev/null; } \
		|| echo "Slurm could not be installed"

test-gpu: .venv/dev  ## checks and figures of a GPU, tiny without one (experiments/speed/README.md)
	PYTHON=$(BIN)/python bash experiments/speed/gpu.sh

gpu-wheels: .venv/dev  ## what a machine with a GPU may lack for them, into .whl
	rm -rf .whl
	$(BIN)/pip wheel -q --disable-pip-version-check --no-deps -w .whl -r experiments/speed/gpu-wheels.txt

# Old releases warn about newer ones of what they depend on, so warnings are no errors here.
test-oldest: .venv-oldest/dev  ## the fast tests with the lowest versions that pyproject.toml allows
	$(OLDEST)/python $(FAST) -W default

lint: .venv/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove caches of tools, never runs or stores
	rm -rf .mypy_cache .ruff_cache .pytest_cache
