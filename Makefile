.PHONY: help install train test lint format clean
help:  ## Show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
install:  ## Install with the tests' needs, in the versions that were tested
	pip install -c constraints.txt -e '.[test]'
train:  ## The main job: a U-Net on phantoms
	python scripts/train.py optimizer=adam
test:  ## All tests
	pytest
lint:  ## Lint and types
	ruff check . && ruff format --check . && mypy
format:  ## Format and fix
	ruff check --fix . && ruff format .
clean:  ## Remove runs and caches, not data
	rm -rf outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis
