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
KUBECTL := $(OUTPUT)/kubectl/$(KUBERNETES_VERSION)/kubectl
demo integration: export PATH := $(BIN):$(TOOLS):$(PATH):$(dir $(KUBECTL))
integration: export TAGGER_KUBECTL := $(KUBECTL)

##@ Use

.PHONY: demo
demo: build $(TOOLS)/.clients $(if $(shell command -v kubectl 2>/dev/null),,$(KUBECTL)) ## See it work: import, mirror, history, pull back (FROM=<ref>: with an image of yours)
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

##@ Build

.PHONY: build
build: kubectl-image ## Build output/bin/tagger-apiserver and output/bin/kubectl-image
	$(GOBUILD) -o $(BIN)/tagger-apiserver ./cmd/tagger-apiserver

.PHONY: kubectl-image
kubectl-image: ## Build the kubectl plugin, output/bin/kubectl-image
	$(GOBUILD) -o $(BIN)/kubectl-image ./cmd/kubectl-image

.PHONY: generate
generate: $(TOOLS)/.codegen ## Write all generated code anew
	hack/update-codegen.sh

.PHONY: clean
clean: ## Remove output/, with all that was built and stored there
	rm -rf $(OUTPUT)

##@ Check

.PHONY: test
test: unit integration ## Run all tests (TESTFLAGS: more flags for go test)

.PHONY: unit
unit: ## Run the tests of the packages, the import directions among them
	go test $(TESTFLAGS) ./...

.PHONY: integration
integration: build $(TOOLS)/.clients $(KUBECTL) ## Run the tests that start the real server and drive it with real clients
	go test -count=1 -timeout 20m -tags integration $(TESTFLAGS) ./test/integration/...

# How long make fuzz spends on each target.
FUZZTIME ?= 10s

.PHONY: fuzz
fuzz: ## Try the parsers of what comes from outside with random input (FUZZTIME for each target)
	hack/fuzz.sh $(FUZZTIME)

.PHONY: verify
verify: $(TOOLS)/.codegen ## Check generated code, formatting, go.mod files and go vet
	hack/verify-codegen.sh
	hack/verify-format.sh
	hack/verify-modules.sh
	go vet ./...
	go vet -tags integration ./test/...
	cd docs/examples/client && go vet ./...

.PHONY: lint
lint: $(TOOLS)/.lint ## Run the linters of .golangci.yml
	$(TOOLS)/golangci-lint run

.PHONY: help
help: ## Show this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The tools are pinned by the modules hack/tools/{codegen,clients,lint}; each builds all of its tools at once.
$(TOOLS)/.%: hack/tools/%/go.mod hack/tools/%/go.sum
	cd hack/tools/$* && CGO_ENABLED=0 go build -o $(TOOLS)/ tool
	@touch $@

$(KUBECTL): hack/kubernetes/go.mod hack/kubernetes/go.sum
	cd hack/kubernetes && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w \
		-X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) \
		-X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES_VERSION:v%=%))) \
		-X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION)))" \
		-o $@ k8s.io/kubernetes/cmd/kubectl
