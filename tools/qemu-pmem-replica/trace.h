/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "trace/trace-tools_qemu_pmem_replica.h"
