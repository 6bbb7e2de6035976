/*
 * NUMA scheduler: what the memory cgroup of this process still allows
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A process whose cgroup is full is killed, however much memory the host has;
 * libvirt's <hard_limit> is such a limit.  Both versions of cgroups are read
 * (Linux, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
 */

#ifndef NUMA_SCHED_MEMCG_H
#define NUMA_SCHED_MEMCG_H

/*
 * The smallest room, in bytes, of the cgroup and all above it that can be seen:
 * the limit less what is charged, without file pages that were not used for
 * long, which the kernel takes back first.  UINT64_MAX: there is no limit, or
 * none that can be read.  @root: "" but in tests, before "/proc" and "/sys".
 * Any thread
 */
uint64_t ns_memcg_room(const char *root);

#endif
