# Two commands to know: `make run` and `make test`. Each brings what is missing; `make help` lists the rest.
# ARGS go to the program behind a target: make test ARGS="--test sim", make run ARGS="--flow status".

ARGS ?=
SEEDS ?= 1000000
ROUNDS ?= 200
TARGET ?= all
SECONDS ?= 3600
JOBS ?=
MINUTES ?= 30
SEED ?=
CHANGES ?=
MODES ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-cdc golden-cdc lint bench bench-cdc sim chaos soak fuzz build down status

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Kafka, PostgreSQL, topics, tables and the program; Ctrl-C drains and stops it
	@scripts/run $(ARGS)

test: ## every test, against a real Kafka and a real PostgreSQL of its own
	@scripts/test $(ARGS)

test-cdc: ## the cdc flow behind a real Debezium connector: make test-cdc CHANGES=200000 SEED=1 MODES=text,bare
	@$(if $(CHANGES),SLUICEGATE_CDC_CHANGES=$(CHANGES)) $(if $(SEED),SLUICEGATE_CDC_SEED=$(SEED)) \
		$(if $(MODES),SLUICEGATE_CDC_MODES=$(MODES)) scripts/test --test cdc $(ARGS)

golden-cdc: ## what the connector sends, beside tests/golden/cdc; with UPDATE_EXPECT=1 it is written there
	@SLUICEGATE_CDC_GOLDEN=1 scripts/test --test cdc golden -- --test-threads=1

lint: ## rustfmt, clippy with warnings denied, cargo-deny, the dashboards by Grafana's schema
	@scripts/lint

bench: ## the pipeline beside raw COPY and its peers, latency, footprint; ARGS=--help lists more (growth, 10 M rows)
	@scripts/bench $(ARGS)

bench-cdc: ## change events a second beside Debezium's JDBC sink: make bench-cdc ARGS="--changes 2000000"
	@scripts/bench --parts cdc $(ARGS)

sim: ## the engine in the simulator, under more seeds: make sim SEEDS=1000000
	SLUICEGATE_SIM_SEEDS=$(SEEDS) cargo test --locked --release --test sim -- --nocapture

chaos: ## the crash matrix, longer: make chaos ROUNDS=1000 SEED=1
	@SLUICEGATE_CHAOS_ROUNDS=$(ROUNDS) $(if $(SEED),SLUICEGATE_CHAOS_SEED=$(SEED)) scripts/chaos

soak: ## a steady load with faults in turn, memory taken all the while: make soak MINUTES=30 SEED=1
	@SLUICEGATE_SOAK_MINUTES=$(MINUTES) $(if $(SEED),SLUICEGATE_SOAK_SEED=$(SEED)) scripts/soak

fuzz: ## the fuzz targets, each for an hour: make fuzz SECONDS=3600 JOBS=2, make fuzz TARGET=gate SECONDS=60
	@$(if $(JOBS),SLUICEGATE_FUZZ_JOBS=$(JOBS)) scripts/fuzz $(TARGET) $(SECONDS)

build: ## the release binary: target/release/sluicegate
	cargo build --locked --release

down: ## stop the Kafka and PostgreSQL of `make run`; their data stays in .run
	@scripts/services down

status: ## what of them runs, and where
	@scripts/services status
