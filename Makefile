# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Needs Go, git, make and a shell. Whatever is made lands in output/, tools included; `make clean` removes it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

OUTPUT := $(CURDIR)/output
BIN    := $(OUTPUT)/bin
TOOLS  := $(OUTPUT)/tools

# Everything builds without C. The race detector needs it: CGO_ENABLED=1 make unit TESTFLAGS=-race
CGO_ENABLED ?= 0
export CGO_ENABLED

GOBUILD = go build -trimpath -buildvcs=false -ldflags "-s -w $$(hack/version.sh)"

# Appended to every go test: -run, -v, -race, ...
TESTFLAGS ?=

# Where make run listens and keeps its data.
SECURE_PORT   ?= 8443
REGISTRY_PORT ?= 5000
DATA_DIR      ?= $(OUTPUT)/run

# What the demo and the integration tests start by name: our own binaries, the pinned clients, what is installed, and last the
# kubectl that is built from source. The tests drive that one too, also where another is installed.
KUBERNETES_VERSION := v1.37.2
KUBERNETES := $(OUTPUT)/kubernetes/$(KUBERNETES_VERSION)
KUBECTL    := $(KUBERNETES)/kubectl
demo image release integration: export PATH := $(BIN):$(TOOLS):$(PATH):$(KUBERNETES)
integration: export TAGGER_KUBECTL := $(KUBECTL)
# Reports of the OCI conformance suite.
integration e2e: export TAGGER_RESULTS := $(OUTPUT)/conformance

# A Kubernetes of one node, all of it from source but runc, iptables and iproute2. What is installed of the same name is older.
NODE    := $(OUTPUT)/node
CLUSTER := $(NODE)/.programs $(NODE)/pause $(addprefix $(KUBERNETES)/, \
	kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
bench cluster e2e: export PATH := $(BIN):$(KUBERNETES):$(NODE):$(TOOLS):$(PATH)

##@ Use

.PHONY: demo
demo: build $(TOOLS)/.clients $(if $(shell command -v kubectl 2>/dev/null),,$(KUBECTL)) ## See it work: import, mirror, history, rollback, push, pull (FROM=<ref>: with an image of yours)
	hack/demo/demo.sh $(FROM)

.PHONY: run
run: build ## Run the standalone server in the foreground (SECURE_PORT, REGISTRY_PORT, DATA_DIR)
	@printf '%s\n' '' \
		'When it is ready, type in another shell:' '' \
		'  export KUBECONFIG=$(DATA_DIR)/kubeconfig PATH=$(BIN):$$PATH' \
		'  kubectl image import nginx --from docker.io/library/nginx:latest --mirror' \
		'  kubectl get images' \
		'  kubectl image history nginx' '' \
		'Ctrl-C stops it; what it stored stays in $(DATA_DIR).' ''
	@exec $(BIN)/tagger-apiserver --standalone --data-dir "$(DATA_DIR)" \
		--secure-port $(SECURE_PORT) --registry-port $(REGISTRY_PORT)

.PHONY: cluster
cluster: build $(CLUSTER) $(TOOLS)/.clients $(TOOLS)/helm4 e2e-image ## Run a Kubernetes of one node with Tagger on this machine, until Ctrl-C (without root: its control plane alone)
	go build -o $(BIN)/cluster ./hack/cluster
	@exec $(BIN)/cluster

##@ Build

.PHONY: build
build: kubectl-image tagger-credential-provider ## Build output/bin/tagger-apiserver, kubectl-image and tagger-credential-provider
	$(GOBUILD) -o $(BIN)/tagger-apiserver ./cmd/tagger-apiserver

.PHONY: kubectl-image
kubectl-image: ## Build the kubectl plugin, output/bin/kubectl-image, which completes arguments and gives credentials by other names
	$(GOBUILD) -o $(BIN)/kubectl-image ./cmd/kubectl-image
	ln -sf kubectl-image $(BIN)/kubectl_complete-image
	ln -sf kubectl-image $(BIN)/docker-credential-kubectl-image

.PHONY: tagger-credential-provider
tagger-credential-provider: ## Build the kubelet's credential provider, output/bin/tagger-credential-provider
	$(GOBUILD) -o $(BIN)/tagger-credential-provider ./cmd/tagger-credential-provider

# hack/build-image.sh reads IMAGE, PLATFORMS and PUSH from the environment, where make puts what it is given.
.PHONY: image
image: $(if $(PUSH),$(TOOLS)/.clients) ## Build the image of the server in output/image (IMAGE, PLATFORMS, PUSH=1)
	hack/build-image.sh

# hack/build-release.sh reads IMAGE, PLATFORMS, PLUGIN_PLATFORMS and PUSH from the environment as well.
.PHONY: release
release: $(TOOLS)/helm $(if $(PUSH),$(TOOLS)/.clients) ## Build all that is published of a version in output/release (IMAGE, PUSH=1)
	hack/build-release.sh

.PHONY: generate
generate: $(TOOLS)/.codegen ## Write all generated code anew
	hack/update-codegen.sh

.PHONY: clean
clean: ## Remove output/, with all that was built and stored there
	rm -rf $(OUTPUT)

##@ Check

.PHONY: test
test: unit chart integration e2e ## Run all tests (TESTFLAGS: more flags for go test)

.PHONY: unit
unit: ## Run the tests of the packages, the import directions among them
	go test $(TESTFLAGS) ./...

.PHONY: chart
chart: $(TOOLS)/helm3 $(TOOLS)/helm4 ## Run the tests of the Helm chart, by helm 3 and 4 and without a cluster
	cd test/chart && PATH="$(TOOLS):$$PATH" go test -count=1 $(TESTFLAGS) ./...

.PHONY: integration
integration: build $(TOOLS)/.clients $(TOOLS)/helm $(KUBECTL) ## Run the tests that start the real server and drive it with real clients
	go test -count=1 -timeout 60m -p 1 -tags integration $(TESTFLAGS) ./test/integration/... ./test/image/...

# How long make fuzz spends on each target.
FUZZTIME ?= 10s

.PHONY: e2e
e2e: build $(CLUSTER) $(TOOLS)/.clients $(TOOLS)/cosign $(TOOLS)/helm3 $(TOOLS)/helm4 e2e-image ## Run the tests in a Kubernetes of one node (without root: in its control plane alone)
	go test -count=1 -timeout 40m -tags e2e $(TESTFLAGS) ./test/e2e/...

# What Pods run there: the image of make image, for this machine alone and by another name.
.PHONY: e2e-image
e2e-image:
	IMAGE_DIR=output/e2e IMAGE=localhost/tagger-apiserver:e2e PLATFORMS=linux/$$(go env GOARCH) PUSH= hack/build-image.sh

.PHONY: bench
bench: build $(NODE)/.programs $(addprefix $(KUBERNETES)/, kube-apiserver kube-controller-manager kubectl) ## Measure what a server needs, which takes minutes; let nothing else run
	go test -count=1 -timeout 60m -tags bench -v $(TESTFLAGS) ./test/bench/...

.PHONY: fuzz
fuzz: ## Try the parsers of what comes from outside with random input (FUZZTIME for each target)
	hack/fuzz.sh $(FUZZTIME)

.PHONY: verify
verify: $(TOOLS)/.codegen ## Check generated code, formatting, go.mod files and go vet
	hack/verify-codegen.sh
	hack/verify-format.sh
	hack/verify-modules.sh
	go vet ./...
	go vet -tags integration,e2e,bench ./test/...
	cd docs/examples/client && go vet ./...
	cd hack/image && go vet ./...
	cd test/chart && go vet ./...

.PHONY: lint
lint: $(TOOLS)/.lint ## Run the linters of .golangci.yml
	$(TOOLS)/golangci-lint run
	cd hack/image && $(TOOLS)/golangci-lint run
	cd test/chart && $(TOOLS)/golangci-lint run

.PHONY: help
help: ## Show this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The tools are pinned by the modules hack/tools/{codegen,clients,lint}; each builds all of its tools at once.
$(TOOLS)/.%: hack/tools/%/go.mod hack/tools/%/go.sum
	cd hack/tools/$* && CGO_ENABLED=0 go build -o $(TOOLS)/ tool
	@touch $@

# Two versions of helm, by their names, and as helm the newer one.
$(TOOLS)/helm%: hack/tools/helm%/go.mod hack/tools/helm%/go.sum
	cd hack/tools/helm$* && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $@ helm.sh/helm/v$*/cmd/helm

$(TOOLS)/helm: $(TOOLS)/helm4
	ln -sf helm4 $@

$(TOOLS)/cosign: hack/tools/cosign/go.mod hack/tools/cosign/go.sum
	cd hack/tools/cosign && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $@ github.com/sigstore/cosign/v3/cmd/cosign

$(KUBERNETES)/%: hack/kubernetes/go.mod hack/kubernetes/go.sum
	cd hack/kubernetes && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w \
		-X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) \
		-X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES_VERSION:v%=%))) \
		-X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION)))" \
		-o $@ k8s.io/kubernetes/cmd/$*

# The package of etcd is called server.
$(NODE)/.programs: hack/node/go.mod hack/node/go.sum
	cd hack/node && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(NODE)/ tool
	mv $(NODE)/server $(NODE)/etcd
	@touch $@

$(NODE)/pause: test/cluster/pause/main.go
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $@ ./test/cluster/pause
