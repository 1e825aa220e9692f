# The two that matter: `make demo` shows the whole chain, `make test` runs everything that must pass before a commit.
# Both install what they need (Debian packages) and say why. They need git, make, Rust >= 1.88 and root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build images demo test test-full faults bench clean

CARGO ?= cargo
export CARGO
# Absolute, because the lab changes directories.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Not target/lab, where cargo puts the programs of the profile `lab`.
export SANKIT_LAB_DIR ?= $(CARGO_TARGET_DIR)/lab-runs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

deps: ## Install the Debian packages that are missing, and say what for
	@scripts/deps

build: deps ## Build the programs and the lab
	$(CARGO) build --profile lab -p sankit-examples -p sankit-tests --bins

images: build ## Make the guests' kernels and file systems (kept in the lab's cache)
	"$(CARGO_TARGET_DIR)/lab/lab" images

demo: images ## The whole chain in three virtual machines: moves, power cuts, every block judged
	@scripts/demo

test: ## Everything that must pass: static checks, tests, kernels, demo (at most 45 minutes)
	@scripts/test

test-full: ## As test, and every crate's kernel tests on all kernels in both kinds of guest
	@scripts/test --full

faults: images ## Planted faults: the demo's judge must find each of them
	@scripts/faults

bench: images ## Comparisons with the tools of Debian (CRATE=name for one)
	$(CARGO) run --profile lab -p sankit-tests --bin bench -- --programs "$(CARGO_TARGET_DIR)/lab" $(CRATE)

clean: ## Remove all that was built (guest images stay in the lab's cache)
	$(CARGO) clean
