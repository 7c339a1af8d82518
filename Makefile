# Postern. What a newcomer needs: make run, make test.

GO      ?= go
BIN     := bin/postern
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Where the lab of `make run` lives, and its options.
LAB_DIR  ?= lab
LAB_ARGS ?=

CHAOS_TIME ?= 10m
SEEDS      ?= 10000
FROM       ?= 1
CHAOS_ARGS ?=
BENCH_ARGS ?=
FUZZ_TIME  ?= 2m
# Packages in which goroutines share most; all others have little to race for.
RACE := ./internal/node/... ./internal/cluster/... ./internal/mailbox/... ./internal/active/... ./internal/access/... ./internal/directory/... \
	./internal/transport ./internal/transport/deliver ./internal/transport/guard ./internal/transport/queue ./internal/transport/remote ./internal/transport/safetynet ./internal/transport/shadow

export CGO_ENABLED = 0

.PHONY: all build run test unit race e2e maintenance peers netns sites e2e-health faults lint vet bench bench-reseed chaos chaos-long chaos-sim fuzz fuzz-smoke vuln sample docs clean

all: build

build: ## the one static binary
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/postern

run: build ## three servers on this machine, with databases, users and mail
	$(BIN) lab --dir $(LAB_DIR) $(LAB_ARGS)

test: lint unit race fuzz-smoke e2e peers ## all that has to pass before a change goes in; under 20 minutes on 2 cores

vet:
	$(GO) vet ./...

lint: vet ## gofmt, vet, staticcheck
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "gofmt is missing on: $$bad"; exit 1; fi
	$(GO) tool staticcheck ./...

# The floors test parses the files anew each time: a cached result would be of
# somebody else's tree. Other people's mail software has its turn by itself.
unit:
	$(GO) test -count=1 ./internal
	$(GO) test -timeout 10m $$($(GO) list ./... | grep -v -e /test/e2e$$ -e /test/peers$$ -e /test/netns$$)

# The race detector needs a C compiler; everything else does not.
race:
	@if command -v gcc >/dev/null; then set -x; CGO_ENABLED=1 $(GO) test -short -race -p 3 -timeout 10m $(RACE); \
	else echo "race: no C compiler, left out (apt-get install gcc)"; exit 1; fi

fuzz-smoke: ## each fuzz target with 2,000 inputs that are changed at random
	@test/fuzz.sh 2000x

fuzz: ## each fuzz target for FUZZ_TIME
	@test/fuzz.sh $(FUZZ_TIME)

# What takes longer has a target of its own: e2e-health, maintenance, sites; all
# of them are make faults. Labs mostly wait, so several have their turn at once.
E2E_OWN := ^(TestHealth|TestComponents|TestVolumeReadOnly|TestSiteLost|TestSiteSwitchover|TestRollingRestart|TestDrill)$$

e2e: build ## the real binary: labs with faults, first steps with real clients, then faults under load
	$(GO) test -count=1 -timeout 10m -parallel 3 ./test/e2e -skip '$(E2E_OWN)'
	$(GO) run ./test/load/cmd/firststeps -postern $(BIN)
	$(GO) run ./test/load/cmd/chaos -postern $(BIN) -fast -rounds 2 -moves 2 -pauses 1 -senders 8 -sessions 10 -every 10s

maintenance: ## each server out and back, a rolling restart, and every drill, on the real binary under load; ends by itself
	$(GO) test -count=1 -v -timeout 20m ./test/e2e -run '^(TestMaintenanceCycle|TestRollingRestart|TestDrill)$$' -long

peers: ## Postfix, swaks, rspamd, ClamAV and python3-dkim against the real binary (root; installs what is missing)
	$(GO) test -count=1 -timeout 10m ./test/peers

netns: ## three hosts with two networks each, in network namespaces, and cables that are cut (root; needs iproute2)
	$(GO) test -count=1 -timeout 5m ./test/netns

sites: ## a whole site lost, with and without a majority, also with two voting servers in each; a site left and given back as planned (root; needs nft)
	POSTERN_SITES=all $(GO) test -count=1 -timeout 10m ./test/e2e -run '^(TestSiteLost|TestSiteSwitchover)$$' -v

e2e-health: ## parts of a server broken from inside and outside, also what takes long; ends by itself
	HEALTH_FAULTS=all $(GO) test -count=1 -timeout 10m -v -run '^(TestHealth|TestComponents|TestVolumeReadOnly)$$' ./test/e2e

faults: e2e-health maintenance sites netns ## every part broken once on the real binary, with the pauses that clients see; ten minutes, ends by itself

chaos: build ## ten minutes of faults under load; fails on any loss
	$(GO) run ./test/load/cmd/chaos -postern $(BIN) -duration $(CHAOS_TIME) $(CHAOS_ARGS)

chaos-long: build ## half an hour of it
	$(GO) run ./test/load/cmd/chaos -postern $(BIN) -duration 30m $(CHAOS_ARGS)

# Each seed is a schedule of faults over a group in simulated time. By hand:
# SIM_SEED=n bin/chaos-sim -test.run TestSchedules plays one and shows what
# happens, SIM_SHRINK=n bin/chaos-sim -test.run TestShrink -test.v leaves out
# faults while it still fails.
chaos-sim: ## SEEDS random schedules of faults in simulated time, from seed FROM; ends by itself, prints seeds a second
	$(GO) test -c -o bin/chaos-sim ./internal/sim/bubble
	SIM_SEEDS=$(SEEDS) SIM_FROM=$(FROM) bin/chaos-sim -test.run '^TestSchedules$$' -test.timeout 0 -test.v

bench: build ## figures as ratios to Postfix and Dovecot on this machine
	$(GO) run ./test/load/cmd/bench -postern $(BIN) $(BENCH_ARGS)

# All servers and clients share one network of 1 Gbit/s, in a network namespace.
bench-reseed: build ## a copy of 5 GB seeded over 1 Gbit/s while clients write, of what the network gives (root; needs tc)
	$(GO) build -o bin/bench ./test/load/cmd/bench
	unshare -n sh -ec 'ip link set lo up; tc qdisc add dev lo root tbf rate 1gbit burst 1mb latency 50ms; \
		exec bin/bench -postern $(BIN) -only reseed -reseed-size 5120 -no-peer $(BENCH_ARGS)'

vuln: ## known vulnerabilities in what is called
	$(GO) tool govulncheck ./...

sample: ## examples/postern.toml from the configuration's types
	$(GO) test ./internal/node -run TestSampleIsCurrent -update

docs: build ## docs/cli.md, events.md, metrics.md from the code
	$(BIN) docs --out docs
	rm -rf docs/man

clean:
	rm -rf bin
