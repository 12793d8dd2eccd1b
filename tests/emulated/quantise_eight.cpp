#include "kernels/cuda/quantise_eight_cuda.cu"
