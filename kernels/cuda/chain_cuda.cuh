/* Kernels that begin while the one before them runs. Private to the .cu files.
 *
 * Source: PTX ISA, griddepcontrol. Other devices than 9.0 run the code for 8.0, which does not
 * wait, so there one ends before the next begins. */
#ifndef SG_KERNELS_CUDA_CHAIN_CUDA_CUH
#define SG_KERNELS_CUDA_CHAIN_CUDA_CUH

#include "kernels/cuda/cuda_check.cuh"

/* The next launch may begin; and: everything launched before this one has ended and can be read. */
__device__ __forceinline__ void let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_for_earlier()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Launch, as the next of a chain that overlaps when `after` is set. */
template <typename ARGS>
enum status chain_launch(void (*kernel)(ARGS), dim3 grid, int threads, size_t shared,
    const ARGS &args, bool after, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid, config.blockDim = dim3((unsigned)threads),
    config.dynamicSmemBytes = shared;
    config.stream = stream, config.attrs = &overlap;
    config.numAttrs = after && cuda_current_sm() == 90 ? 1 : 0;
    /* The same division of on-chip memory for all of the chain: kernels that differ in it cannot
     * share a multiprocessor. */
    CUDA_TRY(cudaFuncSetAttribute(
        kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
    CUDA_TRY(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, args));
    return OK;
}

#endif
