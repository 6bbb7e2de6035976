# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the shell scripts share: places, messages, the table of bases.
# Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Downloads and compiled objects outlive a checkout: a second clone neither
# downloads nor compiles again.
CACHE=${PMEM_HA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qemu-pmem-ha}
TOOLS=$CACHE/tools

PYTHON=/usr/bin/python3

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }

# bases [FIELD-FILTER]: the lines of bases.conf without comments
bases() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$ROOT/patches/bases.conf"; }

primary_base() { bases | awk '$2 == "primary" { print $1; exit }'; }
base_known() { bases | awk -v b="$1" '$1 == b { f = 1 } END { exit !f }'; }
base_suites() { bases | awk -v b="$1" '$1 == b { $1 = $2 = ""; print }'; }

# The newest release of a base that the cache holds, or nothing
base_cached() {
    [ -d "$CACHE/base.git" ] || return 0
    git -C "$CACHE/base.git" tag -l "base/$1.*" --sort=-version:refname |
        sed -n '1s,^base/,,p'
}

# own_work SRC: does a generated tree hold work that patches/ may not?
own_work() {
    local tip
    # Without the first nothing was imported; with the second an import was
    # killed half-way, and what looks like work is its own.
    [ -e "$1/.git/applied-tip" ] && [ ! -e "$1/.git/importing" ] || return 1
    tip=$(cat "$1/.git/applied-tip")
    [ "$(git -C "$1" rev-parse pq)" != "$tip" ] ||
        [ "$(git -C "$1" rev-parse HEAD)" != "$tip" ] ||
        [ -n "$(git -C "$1" status --porcelain --untracked-files=no)" ]
}

# lock FILE MESSAGE: hold FILE until the script ends; say MESSAGE when waiting.
# Children must not inherit the descriptor: a daemon started by one would keep
# the lock.  Callers close it with 9>&- where they start long-lived programs.
lock() {
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    flock -n 9 || { say "waiting for $2"; flock 9; }
}

# The environment in which QEMU is configured and built
build_env() {
    # A pyenv or virtualenv python on PATH lacks Debian's modules.
    PATH=$TOOLS/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    PYTHONPATH=$TOOLS/usr/lib/python3/dist-packages
    export PATH PYTHONPATH
    export CCACHE_DIR=$CACHE/ccache CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-5G}
    # Equal objects for every checkout and for the stock tree: paths below
    # this directory are made relative before they are hashed.
    export CCACHE_BASEDIR=$1 CCACHE_NOHASHDIR=1
    # The compiler is the same file for as long as its package is.
    export CCACHE_COMPILERCHECK=mtime
    export LC_ALL=C.UTF-8
    unset CC CFLAGS LDFLAGS MAKEFLAGS MFLAGS || true
}
