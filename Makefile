# SPDX-License-Identifier: Apache-2.0

BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
LAB := qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients kmod iproute2 util-linux gcc libc6-dev
TOOLS := ipmitool openipmi fence-agents python3-sushy libvirt-clients snmp prometheus systemd etcd-client
APT := DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -y -qq --no-install-recommends

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build the three binaries into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

demo: build ## a host breaks, is proven dead, cycled, and is back: the whole story in a minute
	$(BIN)/holdfast demo

dev: build ## a fleet on this machine to play with; Ctrl-C ends it
	$(BIN)/holdfast dev

test: tools ## all tests: units, real etcd, RMCP+ on UDP, real processes
	go test -timeout 25m ./...
race: tools ## the tests under the race detector
	go test -race -timeout 60m ./...
e2e: ## the table of breaks at both presets, over real processes
	go test -tags e2e_full -timeout 40m ./tests/e2e/...
chaos: ## kills, pauses and cuts at random, histories checked: [SEED=n] [FOR=30m] [MODE=faults|pauses|fencing]
	go test ./tests/chaos -count=1 -v -timeout 0 -args -long $(if $(SEED),-seed $(SEED)) -for $(or $(FOR),30m) -mode $(or $(MODE),faults)
simulate: ## random disasters over simulated fleets, invariants checked: [SEEDS=10000] [SEED=1]
	go test ./tests/fleet -run TestRandom -count=1 -v -timeout 0 -args -seeds $(or $(SEEDS),10000) -seed $(or $(SEED),1)
bench: ## measure against the floors of this machine, write docs/performance.md
	go test ./tests/perf -run TestPerf -count=1 -v -timeout 60m -full -page $(CURDIR)/docs/performance.md
	go test ./tests/sweep -run TestFull -count=1 -v -timeout 0 -args -full
scale: ## many agents with standby streams on three workers: [N=10000] [FOR=10m]
	go test ./tests/scale -count=1 -v -timeout 2h -args -agents $(or $(N),10000) -hold $(or $(FOR),10m)
fuzz: ## every fuzz target for a while, inputs found are kept: [FOR=5m]
	go test ./tests/fuzz -count=1 -v -timeout 0 -args -for $(or $(FOR),5m)

lab: lab-tools ## hosts with real libvirt and QEMU on this machine, until Ctrl-C (root) [HOSTS=3]
	go run ./tests/lab/cmd/lab up $(HOSTS)
lab-test: lab-tools ## the tests of the lab: conformance, power cuts, faults, commands (root; minutes)
	go test -tags lab,libvirt_dlopen -count=1 -v -timeout 40m ./tests/lab -args -page $(CURDIR)/docs/commands.md
lab-down: ## end a lab that runs, remove what one left behind (root)
	go run ./tests/lab/cmd/lab down
lab-tools:
	@dpkg -s $(LAB) >/dev/null 2>&1 || (apt-get update -qq && $(APT) install $(LAB))

lint: ## gofmt and vet
	@test -z "$$(gofmt -l .)" || (gofmt -l . && exit 1)
	go vet ./...
docs: ## rewrite the generated references in docs/
	go test ./tests ./cmd/holdfast -run TestGenerated -rewrite

proto: ## regenerate agent/agentpb (needs protoc)
	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	PATH="$$PATH:$$(go env GOPATH)/bin" protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent/agentpb/*.proto

tools: ## independent clients that the tests compare with (Debian packages)
	@dpkg -s $(TOOLS) >/dev/null 2>&1 || (apt-get update -qq && $(APT) install $(TOOLS))

mixin: tools ## check alerts, rules and dashboards with promtool
	go test ./tests/deploy -run 'Mixin|Runbooks|Dashboards|Promtool' -count=1
alerts: tools ## a real Prometheus against a fleet that is broken on purpose: each alert fires
	go test ./tests/deploy -run TestAlertsFire -count=1 -v -timeout 30m -args -alerts

chart: ## render the Helm chart into deploy/kubernetes
	GOBIN=$(CURDIR)/$(BIN) go install helm.sh/helm/v3/cmd/helm@v3.19.0
	PATH=$(CURDIR)/$(BIN):$$PATH go test ./tests/deploy -run TestChartRendered -count=1 -args -render
dist: build ## deb, rpm, images' contents and SBOM in dist/
	go run ./deploy/dist $(VERSION)
install-test: dist ## install, run, upgrade and remove the packages on a clean Debian, also under its systemd (root)
	@dpkg -s mmdebstrap systemd-container >/dev/null 2>&1 || (apt-get update -qq && $(APT) install mmdebstrap systemd-container)
	go test ./tests/deploy -run "TestPackages|TestSystemd" -count=1 -v -timeout 30m -args -root

clean: ## remove what build made
	rm -rf $(BIN) dist

.PHONY: help build demo dev test race e2e chaos simulate bench scale fuzz lab lab-test lab-down lab-tools lint docs proto tools mixin alerts chart dist install-test clean
