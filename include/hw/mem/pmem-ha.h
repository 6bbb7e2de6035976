/*
 * pmem-ha: an NVDIMM whose flushes are mirrored to a replica
 *
 * The guest's contract is in docs/specs/pmem-ha.rst: a plain NVDIMM with one
 * flush hint address; a write of any width to it is a flush.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_H
#define HW_MEM_PMEM_HA_H

#include "qom/object.h"

#define TYPE_PMEM_HA "pmem-ha"
OBJECT_DECLARE_SIMPLE_TYPE(PmemHaDevice, PMEM_HA)

#define TYPE_PMEM_REPLICA "pmem-replica"
OBJECT_DECLARE_SIMPLE_TYPE(PmemReplica, PMEM_REPLICA)

/*
 * Guest ABI: the hint of slot n is at PMEM_HA_HINT_BASE + n * 64.  The range
 * lies between the TPM's physical presence interface and the AMD IOMMU on
 * the pc and q35 machines; the slots of these machines are at most 256.
 */
#define PMEM_HA_HINT_BASE    0xfed50000ULL
#define PMEM_HA_HINT_STRIDE  64
#define PMEM_HA_HINT_SLOTS   256

#endif
