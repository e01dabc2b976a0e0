# What one does with a checkout; `make` alone lists it. Settings: PYTHON=python3.12 VENV=/path ARGS="--objective rtd"
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install pretrain glue show test quality style benchmark clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with the tested versions; done again when they or setup.cfg change

pretrain: $(STAMP) ## pretrain a tiny BERT on the embedded corpus; ARGS="..." are passed on
	$(BIN)/python -m pretrain_zoo.scripts.pretrain $(ARGS)

GLUE_MODEL := runs/modernbert-tiny-mlm
glue: $(STAMP) ## pretrain, fine-tune on three offline tasks, compare with random weights; ARGS="..." are passed on
	[ -f $(GLUE_MODEL)/results.json ] || $(BIN)/python -m pretrain_zoo.scripts.pretrain
	$(BIN)/python -m pretrain_zoo.scripts.run_glue --model_name_or_path $(GLUE_MODEL) --task_name probes \
		--random_baseline --pooling mean --learning_rate 1e-3 --num_train_epochs 4 $(ARGS)

show: $(STAMP) ## build/objectives.html: what each objective does to a text; ARGS='--text "My own."' are passed on
	$(BIN)/python -m pretrain_zoo.scripts.show --html build/objectives.html $(ARGS)

test: export OMP_NUM_THREADS = 1
test: export TOKENIZERS_PARALLELISM = false
test: export HF_HUB_OFFLINE = 1
test: $(STAMP) ## run the tests on two processes; PYTEST_ARGS="..." are passed on
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

quality: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP) ## time collators and training steps; ARGS="..." are passed on
	$(BIN)/python -m pretrain_zoo.scripts.benchmark $(ARGS)

clean: ## remove builds and caches (not .venv, not runs)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# constraints.txt pins torch too, so that pip keeps to the tested release (CPU or CUDA build alike).
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@python=$(BIN)/python; [ -x $$python ] || python=$$(command -v $(PYTHON)) || \
		{ echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	$$python -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "%s is Python %d.%d, and 3.11 or newer is needed: make PYTHON=python3.11 (remove $(VENV) first if it is there)" % (sys.executable, v[0], v[1]))'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	@touch $@
