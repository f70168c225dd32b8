PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint docs clean

demo: $(STAMP)
	$(BIN)/hwsmpq quickstart -o runs/quickstart

test: lint
	tools/install_browser.sh
	$(BIN)/python -m pytest -rs --timeout=600 --numprocesses=logical --maxprocesses=4 --dist=loadfile \
		--no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet
	@echo "open site/start.html"

clean:
	rm -rf .venv runs build dist site .pytest_cache .mypy_cache .ruff_cache
	find hwsmpq tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@
