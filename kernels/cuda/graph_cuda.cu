extern "C" {
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/graph_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cstdlib>

struct graph_cuda {
    cudaGraphExec_t exec;
};

namespace
{

enum status instantiate(cudaGraph_t recorded, struct graph_cuda *g)
{
    CUDA_TRY(cudaGraphInstantiate(&g->exec, recorded, 0));
    return OK;
}

} // namespace

extern "C" {

enum status graph_cuda_begin(struct device *d)
{
    CUDA_TRY(cudaStreamBeginCapture(
        (cudaStream_t)device_cuda.stream(d), cudaStreamCaptureModeThreadLocal));
    return OK;
}

enum status graph_cuda_end(struct device *d, enum status st, struct graph_cuda **out)
{
    *out = NULL;
    cudaGraph_t recorded = NULL;
    cudaError_t e = cudaStreamEndCapture((cudaStream_t)device_cuda.stream(d), &recorded);
    if (st == OK && e != cudaSuccess) st = cuda_status(e, "recording a graph");
    if (st != OK) {
        cudaGetLastError(); /* what broke the recording was reported already */
        if (recorded != NULL) cudaGraphDestroy(recorded);
        return st;
    }
    struct graph_cuda *g = (struct graph_cuda *)calloc(1, sizeof *g);
    st = g != NULL ? instantiate(recorded, g) : fail(ERR_MEMORY, "no memory for a graph");
    cudaGraphDestroy(recorded);
    if (st != OK) graph_cuda_close(&g);
    else *out = g;
    return st;
}

enum status graph_cuda_run(struct graph_cuda *g, struct device *d)
{
    CUDA_TRY(cudaGraphLaunch(g->exec, (cudaStream_t)device_cuda.stream(d)));
    return OK;
}

void graph_cuda_close(struct graph_cuda **g)
{
    if (*g == NULL) return;
    if ((*g)->exec != NULL) cudaGraphExecDestroy((*g)->exec);
    free(*g);
    *g = NULL;
}
}
