#include "kernels/cpu/attn_body.h"
#include "kernels/cpu/tile_body.h"

const struct cpu_ops cpu_ops_avx2 = CPU_OPS_TABLE("avx2");
