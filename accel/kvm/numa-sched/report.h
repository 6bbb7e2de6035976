/*
 * NUMA scheduler: what becomes known of a look
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure; the sampler's thread.
 */

#ifndef NUMA_SCHED_REPORT_H
#define NUMA_SCHED_REPORT_H

#include "qapi/qapi-types-numa-sched.h"
#include "look.h"

NumaSchedGroup *ns_report_group(const NsLook *k, uint32_t g);

NumaSchedDecision *ns_report_decision(const NsLook *k, const NsHost *host,
                                      const NsStep *step);

/* Says which step it is, whatever its figures are; NULL: none */
char *ns_report_name(const NsLook *k, const NsStep *step);

#endif
