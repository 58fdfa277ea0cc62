# Every target makes its environment when it is missing and installs into it what it needs.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin
PORT ?= 8000
NAMED = $(shell basename "$$(cd "$(IMAGES)" 2>/dev/null && pwd || echo "$(IMAGES)")")
INDEX = $(if $(IMAGES),$(NAMED),shapes).edje
FAST := -m pytest -q -rs --numprocesses auto --maxprocesses 8 --dist worksteal
SLOW := kills clusters slurm compilers packaging assets serving browser notebooks sweeps ray docs# what they are and how long they take: pyproject.toml
OR := $(subst ,, or )
TOGETHER := $(subst $(subst ,, ),$(OR),$(filter-out clusters slurm,$(SLOW)))

.PHONY: help demo search docs test test-all test-together $(SLOW:%=test-%) slurm-programs chromium test-gpu gpu-wheels test-oldest lint clean

# Processes that tests start load the modules' bytecode, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

EXTRAS_OF_dev := [dev]
EXTRAS_OF_search := [photos,serve]
EXTRAS_OF_docs := [docs]
.venv/product .venv/dev .venv/search .venv/docs: .venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.$(EXTRAS_OF_$*)'
	@touch $@ .venv/product

.venv-oldest/dev: pyproject.toml
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install -q --disable-pip-version-check uv
	$(OLDEST)/uv pip install -q --python $(OLDEST)/python --resolution lowest-direct -e '.[dev]'
	@touch $@

demo: .venv/product  ## install and run the embedded example (3 to 4 minutes on 2 cores)
	$(BIN)/python run.py

search: SHELL := /bin/bash
search: .SHELLFLAGS := -o pipefail -c
search: .venv/search  ## the search page over IMAGES=<folder>, or the shapes; QUERY="…" answers here
ifdef IMAGES
	$(BIN)/edje index "$(IMAGES)" --into "$(INDEX)"
else
	@$(BIN)/python -c "from edje.data.shapes.shapes_source import ShapesSource as Shapes; Shapes( \
		root='cache/search', train_images=0, val_images=0, image_side=384).render()"
	$(BIN)/edje index cache/search/images --into shapes.edje --reranker shapes
endif
ifdef QUERY
	@$(BIN)/edje search "$(INDEX)" "$(QUERY)"
else
	@$(BIN)/edje serve "$(INDEX)" --port $(PORT) | while read -r line; do \
		echo "$$line"; test -z "$$DISPLAY$$WAYLAND_DISPLAY" || \
		{ [[ $$line == *" at http://"* ]] && $(BIN)/python -m webbrowser "$${line##* }"; } || true; done
endif

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/docs  ## the documentation as a site: site/index.html
	$(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; with its search: $(BIN)/python -m http.server -d site"

test: .venv/dev  ## install with the development extra and run the fast tests
	$(BIN)/python $(FAST)

test-all: test-together test-clusters test-slurm test-gpu  ## the tests that are slow by nature

test-together: .venv/dev chromium  ## those of them that leave a core to others, on all cores
	$(BIN)/python $(FAST) -m "$(TOGETHER)"

$(SLOW:%=test-%): test-%: .venv/dev
	@grep -E '^ *"$*: ' pyproject.toml
	$(BIN)/python -m pytest -q -rs $(BESIDE) -m $*

# Runs of several processes wait for one another: two files of them fill two cores.
test-clusters: BESIDE := --numprocesses 2 --dist loadfile

test-slurm: slurm-programs

slurm-programs:  ## Debian's packages of Slurm, where root can install them; without, test-slurm skips
	@test "$$(id -u)" != 0 || { slurmctld -V && slurmd -V && srun -V && munged -V; } >/dev/null 2>&1 \
		|| { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
			slurmctld slurmd slurm-client munge >/dev/null; } \
		|| echo "Slurm could not be installed"

test-browser: chromium

chromium:  ## Debian's Chromium, where root can install it; without one, test-browser skips
	@test "$$(id -u)" != 0 || command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium \
			>/dev/null; } \
		|| echo "Chromium could not be installed"

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
