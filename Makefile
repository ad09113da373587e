# Two commands do everything from a fresh clone: `make demo` and `make test`.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test clean

demo: $(VENV)/.demo
	$(BIN)/dojang slim digits-cnn --data digits -o out/demo --force

test: $(VENV)/.test
	scripts/check

$(VENV)/.python:
	python3 -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) out
