# One-line names for `cargo xtask`, which does the work. Needs rustup's cargo, nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup build demo test kernels fuzz soak conformance bench lint clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building, testing and the demo need
	@cargo xtask setup

build: ## build the release binaries
	@cargo xtask setup --build
	@cargo xtask build

demo: ## build, then run a cluster in network namespaces (root)
	@cargo xtask setup --build
	@cargo xtask demo

test: setup ## everything that continuous integration checks
	@cargo xtask ci

kernels: ## the same programs, cases and a cluster on every supported kernel (KERNEL=6.1)
	@cargo xtask setup --build
	@cargo xtask kernels $(KERNEL)

fuzz: ## hunt for inputs that break anything, a minute each (TIME=600 TARGET=packet)
	@cargo xtask fuzz $(if $(TIME),--time $(TIME)) $(TARGET)

soak: ## kill and exchange the agent under traffic, 200 and 20 times; pods come, go and are rolled (root)
	@cargo xtask setup --build
	@cargo xtask soak

conformance: ## every policy case with real packets, on its nodes (root; ONLY=cidr JSON=file)
	@cargo xtask setup --build
	@cargo xtask conformance $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON))

bench: ## measure packets, pods, the agent and pod-to-pod speed (root; GATE=1 holds it to its goals)
	@cargo xtask setup --build
	@cargo xtask bench $(if $(GATE),--gate)

lint: setup ## format, clippy, licences, dependency rules, docs
	@cargo xtask lint

clean: ## remove build results (`cargo xtask clean --cache`: the toolchain cache too)
	@cargo xtask clean
