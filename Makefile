# Everything a newcomer needs; each target makes the environment it runs in.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run in as many processes as there are cores, each with one thread.
JOBS ?= auto

.PHONY: demo test quality format install clean

demo: install
	$(BIN)/musegen demo --out runs/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS)

quality: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.install

$(VENV)/.install: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,quality]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
