/* attn_eight_cuda.cu; what it declares as its room in shared memory stands in front of it. */
#include <cuda_runtime.h>

#undef __shared__ /* it is declared `extern` there */
#define __shared__

namespace
{
uint8_t room[1 << 16] __attribute__((aligned(16)));
}

#include "kernels/cuda/attn_eight_cuda.cu"
