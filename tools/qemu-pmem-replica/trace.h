#include "trace/trace-tools_qemu_pmem_replica.h"
