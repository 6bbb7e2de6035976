# SPDX-License-Identifier: GPL-2.0-or-later
#
# A thin front: each target is one script of scripts/.

.DEFAULT_GOAL := help
.PHONY: help demo check check-long check-mutations bench bench-page-map \
	build docs doctor clean distclean need

# What the scripts themselves want: they install the rest.
PYTHON = /usr/bin/python3
need:
	@command -v git >/dev/null && test -x $(PYTHON) || { echo \
	"git and $(PYTHON) come first: apt-get install git python3" >&2; \
	exit 1; }

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | \
		expand -t 24

demo: need  ## a guest's fsync survives the death of its host (needs nothing)
	@scripts/demo

check: need  ## build what is needed and run the tests
	@scripts/check

check-long: need  ## the long loops: kills, fuzzing, sanitizers, other bases
	@scripts/check --long

check-mutations: need  ## break each promise in turn; a test must notice
	@scripts/build >/dev/null
	@tests/mutations/run

# The series as it first was whole: what its cost is compared with
FIRST_SLICE = 71e2514
bench: need  ## measure against named peers, into build/bench
	@scripts/build >/dev/null
	@tests/bench/fsync
	@tests/bench/epochs
	@tests/bench/page-map-idle
	@tests/bench/fsync --baseline $(FIRST_SLICE)

bench-page-map: need  ## migration by page map beside its peers (90 minutes)
	@scripts/build >/dev/null
	@scripts/build --stock qemu-system-x86_64 >/dev/null
	@tests/bench/page-map

build: need  ## fetch, patch and build QEMU; prints the programs' directory
	@scripts/build

docs: need  ## build the manuals; a warning is an error
	@scripts/build --docs

doctor: need  ## say what this machine has and lacks
	@scripts/doctor

clean: need  ## remove build/ (the cache of downloads and objects stays)
	@scripts/clean

distclean: clean  ## remove build/ and the cache
	@scripts/clean --cache
