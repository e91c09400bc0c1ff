# Every target calls one command; what it does is in xtask/ and in the `hypha` binary itself.
SHELL := /bin/sh
HYPHA := $(or $(CARGO_TARGET_DIR),target)/release/hypha
ROUTING ?= vxlan
NODES ?= 3
LAB ?= demo
SECONDS ?= 60

.PHONY: help setup build lab lab-down test test-kernels test-conformance bench fuzz check fmt ui clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need (library sources, bpf-linker, packages, cargo tools)
	@cargo xtask setup

build: ## Build target/release/hypha and target/release/hypha-cni
	@cargo xtask build

lab: ## Start a lab of nodes with sample pods and print the connectivity matrix (ROUTING=vxlan|native, NODES=3, LAB=demo)
	@cargo xtask build --purpose lab
	@$(HYPHA) lab up --name $(LAB) --nodes $(NODES) --routing $(ROUTING) --sample --test

lab-down: ## Stop the lab and remove everything it made
	@$(HYPHA) lab down --name $(LAB)

test: ## Set up and run every check and test
	@cargo xtask ci

test-kernels: ## Run the programs and the matrix on other kernels in virtual machines (slow)
	@cargo xtask build --purpose kernels
	@cargo xtask test-kernels

test-conformance: ## Join the lab to Kubernetes' own servers and test that (slow; builds them once)
	@cargo xtask test-conformance

bench: ## Measure data path and control path against kernel networking and the goals (target/bench/summary.json)
	@cargo xtask build --purpose bench
	@cargo run --quiet --release --package hypha-bench
	@cargo bench --package hypha-tables

fuzz: ## Feed every parser of outside input with what libFuzzer makes up, a minute each (SECONDS=60)
	@cargo xtask fuzz --seconds $(SECONDS)

check: ## Look at the sources only: format, clippy, tidy, dependencies
	@cargo xtask check

fmt: ## Format every source file
	@cargo fmt --all
	@cargo fmt --manifest-path bpf/Cargo.toml

ui: ## Build the page of flows anew into ui/dist (needs Node; building Hypha does not)
	@cargo xtask ui

clean: ## Remove what was built here (not the tools in the cache)
	@cargo clean
