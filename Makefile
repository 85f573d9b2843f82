# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN = .venv/bin
INSTALLED = .venv/.installed
NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))'

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

demo: $(INSTALLED)  ## install, then run the main job: sessions, streams, questions, a latency plot
	$(BIN)/python -m workbench.demo

lab: $(INSTALLED)  ## open JupyterLab on the first tutorial
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_first_tick.ipynb

test: $(INSTALLED)  ## everything: lint, imports, types, tests, tutorial notebooks
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest
	$(MAKE) notebooks

notebooks: $(INSTALLED)  ## run the tutorials and compare their outputs
	OMP_WAIT_POLICY=passive $(BIN)/pytest -p no:python --nbval --nbval-current-env --nbval-cell-timeout 120 \
	  --nbval-sanitize-with notebooks/sanitize.cfg notebooks

bench: $(INSTALLED)  ## measure latency against context growth (about ten minutes, idle machine)
	$(BIN)/python -m workbench.bench latency --stateless-repeats 1

pictures: $(INSTALLED)  ## take pictures of the dashboard into out/pictures, and the two of the README (needs Chromium)
	$(BIN)/python -m workbench.notebook.screenshot out/pictures
	cp out/pictures/dashboard-light-1400.png data/pictures/dashboard.png
	cp out/pictures/questions-light.png data/pictures/questions.png

$(INSTALLED): pyproject.toml constraints.txt $(wildcard kernels/workbench_kernels/native/*.cpp kernels/workbench_kernels/native/*.h)
	@test -x $(BIN)/pip && $(BIN)/python $(NEW_ENOUGH) || $(PYTHON) $(NEW_ENOUGH) \
	  || { echo "expected Python 3.11 or newer, got $$($(PYTHON) --version); say PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/pip && $(BIN)/python $(NEW_ENOUGH) || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.PHONY: help demo lab test notebooks bench pictures
