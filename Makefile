# One virtual environment, the tested versions, and the few things one does here.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo app test test-slow docs check fmt

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dreambooth]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: .venv/installed

.venv/installed-app: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[app]'
	touch $@

app: .venv/installed-app
	$(BIN)/python app/app.py

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/vectorfit train \
		--instance_dir examples/teapot --base_model starter --output_dir runs/demo
	$(BIN)/vectorfit generate --vectors runs/demo --compare \
		--prompt "a photo of sks teapot in the snow" --prompt "sks teapot on the beach" \
		--prompt "sks teapot on top of a purple rug in a forest" --prompt "a photo of a teapot"
	@echo "picture      runs/demo/generated/comparison.png: photos, the base, the subject"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py

fmt: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
