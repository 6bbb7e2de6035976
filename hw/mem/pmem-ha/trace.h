#include "trace/trace-hw_mem_pmem_ha.h"
