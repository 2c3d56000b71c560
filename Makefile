# SPDX-License-Identifier: Apache-2.0
# A front for CMake and apt. `make help` lists the targets.
PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= $(shell nproc)
TEST_JOBS ?= $(shell expr $(JOBS) + $(JOBS) / 2) # tests wait more than they compute
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

CTEST = ctest -j $(TEST_JOBS) $(CTEST_ARGS)
configure = cmake --preset $(1) --log-level=WARNING
build = $(call configure,$(1)) && cmake --build --preset $(1) -j $(JOBS) $(2)

.DEFAULT_GOAL := all
.PHONY: all demo check check-san check-mutants check-debian13 check-long bench soak install format tidy clean help deps deps-check

all: deps ## build the library, the command and the examples: build/release
	$(call build,release)

demo: all ## install what is missing, build, run `evbus demo`
	build/release/evbus demo

check: all deps-check ## install what is missing, build, run every test (minutes)
	$(call build,check)
	$(CTEST) --preset check

check-san: deps-check ## the tests under AddressSanitizer and UBSan, with fuzzing, then under ThreadSanitizer
	$(call build,asan)
	$(CTEST) --preset asan
	$(call build,tsan)
	tools/with-sanitizers.sh $(CTEST) --preset tsan

check-mutants: deps-check ## the tests find mistakes made on purpose (a few minutes)
	$(call configure,mutants)
	tools/check-mutants.sh build/mutants

check-debian13: ## `make demo` and `make check` in a fresh Debian 13: nats-server 2.10, a later libnats (needs root)
	tools/check-debian.sh trixie build/debian13

check-long: deps-check check-debian13 ## Debian 13, long tests, fuzzing, every unit test 100 times under ThreadSanitizer (hours)
	$(call build,long)
	$(CTEST) --preset long
	$(call build,tsan)
	tools/with-sanitizers.sh $(CTEST) --preset tsan -L '^unit$$' --repeat until-fail:100

bench: deps ## build and run the benchmarks (bench/README.md)
	$(call build,release,--target all bench)
	tools/run-bench.sh build/release

SOAK ?= --server --seconds 3600

soak: all ## an hour at 10,000 events a second, judged: build/release/evbus soak $(SOAK)
	build/release/evbus soak --rate 10000 $(SOAK)

install: all ## install to $(DESTDIR)$(PREFIX)
	DESTDIR=$(DESTDIR) cmake --install build/release --prefix $(PREFIX)

format: ## write every source as clang-format 14 does
	tools/check-format.sh --fix

tidy: deps-check ## clang-tidy over the sources; advice, not part of the checks
	$(call configure,debug)
	clang-tidy -p build/debug --quiet $(wildcard src/*/*.c cli/*.c)

clean: ## remove build/
	rm -rf build

deps:
	@tools/deps.sh demo

deps-check:
	@tools/deps.sh check

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
