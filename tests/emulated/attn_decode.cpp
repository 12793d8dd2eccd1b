#include "kernels/cuda/attn_decode_cuda.cu"
