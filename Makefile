# SPDX-License-Identifier: GPL-2.0-or-later
#
# A thin front: each target is one script of scripts/.

.DEFAULT_GOAL := help
.PHONY: help demo check check-long check-mutations bench build docs doctor \
	clean distclean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | \
		expand -t 24

demo:  ## a guest's fsync survives the death of its host (needs nothing)
	@scripts/demo

check:  ## build what is needed and run the tests
	@scripts/check

check-long:  ## the long loops: kills, fuzzing, sanitizers, other bases
	@scripts/check --long

check-mutations:  ## break each promise in turn; a test must notice
	@scripts/build >/dev/null
	@tests/mutations/run

bench:  ## measure against named peers, into build/bench
	@scripts/build >/dev/null
	@tests/bench/fsync

build:  ## fetch, patch and build QEMU; prints the programs' directory
	@scripts/build

docs:  ## build the manuals; a warning is an error
	@scripts/build --docs

doctor:  ## say what this machine has and lacks
	@scripts/doctor

clean:  ## remove build/ (the cache of downloads and objects stays)
	@scripts/clean

distclean: clean  ## remove build/ and the cache
	@scripts/clean --cache
