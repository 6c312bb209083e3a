SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help setup fmt lint client test run demo interop contract bench-check bench-baseline profile clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install PostgreSQL for the tests, if there is none (Debian, Ubuntu)
	@if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || [ -x "$$(pg_config --bindir 2>/dev/null)/initdb" ]; \
	then exit 0; \
	elif command -v apt-get >/dev/null; \
	then $(ROOT) apt-get update -q && DEBIAN_FRONTEND=noninteractive $(ROOT) apt-get install -qy --no-install-recommends postgresql; \
	else echo 'make setup: please install a PostgreSQL server, 14 or newer' >&2; exit 1; fi

fmt: ## format the code
	cargo fmt

lint: ## clippy, every warning an error
	cargo clippy --all-targets --locked -- -D warnings

# What a program that only submits and does jobs must not have to build.
SERVER_PARTS := sqlx|axum|clap|hickory-resolver|tower-http v0\.7|hyper v[^ ]* .*server

client: ## the client and the worker SDK alone: no server part in them, and they compile
	@if cargo tree --no-default-features --features client -e normal --prefix none --locked --format '{p} {f}' \
		| grep -E '^($(SERVER_PARTS))'; \
	then echo 'make client: a server part is in the client build' >&2; exit 1; fi
	cargo check --lib --no-default-features --features client --locked

test: setup ## everything CI checks: format, lint, all tests against real databases, doctests
	cargo fmt --check
	$(MAKE) --no-print-directory lint client
	@if cargo nextest --version >/dev/null 2>&1; \
	then echo 'tests/with-postgres cargo nextest run --locked'; tests/with-postgres cargo nextest run --locked --no-tests=pass; \
	else echo 'tests/with-postgres cargo test --locked'; tests/with-postgres cargo test --locked --lib --bins --tests --examples; fi
	cargo test --doc --locked

run demo: ## a server, a worker and a receiver on this machine, to play with
	cargo run --release -- demo

interop: ## real deliveries, verified by the libraries that receivers use (Python, Node)
	tests/interop/run.sh

contract: ## hold a running server against the published contract
	tests/contract.sh

bench-check: ## count the instructions of the hot paths against benches/baseline.txt; needs valgrind
	benches/check.sh

bench-baseline: ## write benches/baseline.txt anew
	benches/check.sh --write

profile: setup ## write the profile of release builds anew (half an hour); needs llvm-profdata
	tests/with-postgres benches/profile.sh

clean: ## remove what was built
	cargo clean
