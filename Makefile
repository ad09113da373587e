# Three commands do everything from a fresh clone: `make demo`, `make test` and `make docs`.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-page docs clean

demo: $(VENV)/.demo
	$(BIN)/dojang slim digits-cnn --data digits -o out/demo --force

test: $(VENV)/.test
	scripts/check

test-page: $(VENV)/.test
	scripts/test-page

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

$(VENV)/.python:
	python3 -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo,dev,docs]'
	touch $@ $(VENV)/.demo $(VENV)/.docs

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) out build
