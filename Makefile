# make demo: a cluster on this machine, with an app on it.   make test: every test.   Both set up what is missing.

# Go's usual place, for shells that do not have it in their PATH.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
# Static binaries: they run on any distribution, and no C compiler is needed.
export CGO_ENABLED := 0

.PHONY: demo demo-down build sample voting-images registry setup check test test-vm test-vm-lab bench bench-dns bench-net bench-encryption bench-failover bench-scale bench-swarm generate go-is-there
.DEFAULT_GOAL := build

demo: setup build
	@test/demo/demo.sh

# With what was built: a tree that does not compile any more can be cleaned up after, too.
demo-down:
	@[ -x bin/meshctl ] || $(MAKE) build
	@bin/meshctl lab down --name $${LAB:-lab}

build: go-is-there sample
	@echo "building bin/meshd and bin/meshctl (the first time takes a minute or two)"
	@go build -o bin/ ./cmd/meshd ./cmd/meshctl

# The same source gives the same image ID.
sample: go-is-there
	@echo "building the sample image, build/sample.tar"
	@go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o bin/sample ./test/sample
	@go run ./test/sample/image bin/sample build/sample.tar

# The voting app's images, examples/voting: its programs, and Redis and PostgreSQL from this distribution's packages.
voting-images: build/voting/app.tar build/voting/databases.tar

build/voting/app.tar: $(wildcard examples/voting/*.go) examples/voting/go.sum examples/voting/images.sh | go-is-there
	@echo "building the voting app's image, $@"
	@go build -C examples/voting -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o ../../bin/voting .
	@examples/voting/images.sh app bin/voting $@

build/voting/databases.tar: examples/voting/images.sh examples/voting/postgres.sh test/unpack.sh | go-is-there
	@echo "making images of Redis and PostgreSQL, $@ (the first time takes a minute or two)"
	@examples/voting/images.sh databases $@

# Debian's docker-registry for the tests, unpacked only: the package would run it as a service of this machine.
registry: build/registry/usr/bin/docker-registry

build/registry/usr/bin/docker-registry: test/unpack.sh
	@echo "unpacking docker-registry below build/registry"
	@test/unpack.sh build/registry docker-registry

setup:
	@test/setup.sh

test: setup build
	@test/run.sh

# Part of make test: the kernel's edges under Debian's 6.12 and 6.1. One package there: go run ./test/vm -kernel 6.1 ./overlay -run TestX
test-vm: go-is-there
	@test/vm/run.sh

# A lab of two nodes in a guest, whose kernel's IPVS leads to virtual addresses. Some minutes, many on a busy machine: so no part of make test.
test-vm-lab: setup build
	@test/vm/setup.sh
	go run ./test/vm -kernel 6.12 -timeout 20m ./test/e2e -run TestKernelsBalancer -v

check: go-is-there
	@test/check.sh

bench: setup build
	go run ./test/bench create

bench-net: setup build
	go run ./test/bench -rounds 3 net

# With this machine's WireGuard, then with that of a kernel in a virtual machine.
bench-encryption: setup build
	test/vm/setup.sh
	go build -o bin/ ./test/bench ./test/vm
	bin/bench -rounds 3 encryption
	bin/vm -kernel 6.12 -memory 4096 -timeout 40m bin/bench -rounds 3 encryption

# Ten minutes; how fast others take over when the leader or a worker loses its power.
bench-failover: setup build
	go run ./test/bench -rounds 20 failover

# The same services on Docker Swarm and on meshd; then what takes IPVS, in a virtual machine whose kernel has it.
bench-swarm: setup build
	test/vm/setup.sh
	go build -o bin/ ./test/bench ./test/vm
	bin/bench -rounds 3 swarm
	bin/vm -kernel 6.12 -memory 4096 -timeout 40m bin/bench -rounds 3 -nodes 2 -tasks 3 -figures requests,update swarm

bench-dns: setup build
	@test/bench/dns/setup.sh
	go run ./test/bench/dns -coredns build/bench/coredns

# A thousand simulated nodes under three real managers: some minutes, 2 GB of memory. ARGS="-nodes 100 -services 90 -large 1000" makes it smaller.
bench-scale: go-is-there
	go run ./test/scale $(ARGS)

# Needs the clang that the go:generate lines name; go build never does.
generate: go-is-there
	go generate ./...

go-is-there:
	@command -v go >/dev/null || { echo "Go is missing: https://go.dev/doc/install (the version that go.mod names, or later)" >&2; exit 1; }
	@go list -m >/dev/null || { echo "$$(go version): go.mod names Go $$(sed -n 's/^go //p' go.mod), this one cannot use it: https://go.dev/doc/install" >&2; exit 1; }
