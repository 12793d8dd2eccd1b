/* The CUDA device behind device.h, and how its errors read. */
extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>

struct device {
    int index;
    cudaStream_t stream;
};

struct timer {
    cudaEvent_t start, stop;
};

enum status cuda_status(cudaError_t e, const char *what)
{
    cudaGetLastError(); /* a failed call must not be reported again by the next one */
    if (e == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) cudaGetLastError();
        return fail(ERR_MEMORY, "%s: does not fit; %.2f of %.2f GiB of device memory are free",
            what, (double)free_bytes / 1073741824.0, (double)total / 1073741824.0);
    }
    if (e == cudaErrorNoKernelImageForDevice)
        return fail(ERR_UNSUPPORTED,
            "%s: this build holds no code for compute capability %d.%d; it has 8.0 and 9.0", what,
            cuda_current_sm() / 10, cuda_current_sm() % 10);
    if (e == cudaErrorInsufficientDriver) {
        int driver = 0;
        if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
        if (driver == 0) return fail(ERR_DEVICE, "no NVIDIA driver is loaded; use --device cpu");
        return fail(ERR_DEVICE,
            "the NVIDIA driver offers CUDA %d.%d, this build needs %d.%d; update the driver",
            driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (e == cudaErrorNoDevice)
        return fail(ERR_DEVICE, "no NVIDIA GPU is visible; use --device cpu");
    return fail(ERR_DEVICE, "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

enum status cuda_encode_tiled_find(cuda_encode_tiled *f)
{
    /* the same for every thread, so a race writes one value twice */
    static cuda_encode_tiled found;
    if (found == NULL) {
        void *at = NULL;
        cudaDriverEntryPointQueryResult r;
        CUDA_TRY(cudaGetDriverEntryPointByVersion(
            "cuTensorMapEncodeTiled", &at, 12000, cudaEnableDefault, &r));
        if (r != cudaDriverEntryPointSuccess || at == NULL)
            return fail(ERR_DEVICE,
                "the NVIDIA driver lacks cuTensorMapEncodeTiled (CUDA 12.0); update the driver");
        found = (cuda_encode_tiled)at;
    }
    *f = found;
    return OK;
}

int cuda_current_sm(void)
{
    int device, major, minor;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return major * 10 + minor;
}

namespace
{

int cuda_count(void)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n == 0) e = cudaErrorNoDevice;
    if (e != cudaSuccess) {
        enum status reported = cuda_status(e, "counting devices");
        (void)reported; /* the message is what the caller reads */
        return 0;
    }
    return n;
}

void cuda_close(struct device **d)
{
    if (*d == NULL) return;
    if ((*d)->stream != NULL) cudaStreamDestroy((*d)->stream);
    free(*d);
    *d = NULL;
}

enum status open_on(struct device *d)
{
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaFree(NULL)); /* creates the context, so that its failure is reported here */
    CUDA_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
    return OK;
}

enum status cuda_open(struct device **out, int index)
{
    *out = NULL;
    int n = cuda_count();
    if (n == 0) return ERR_DEVICE;
    if (index < 0 || index >= n)
        return fail(ERR_DEVICE, "there is no CUDA device %d; %d visible, counted from 0", index, n);
    int major, minor;
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
    CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
    if (major < 8)
        return fail(ERR_UNSUPPORTED,
            "CUDA device %d has compute capability %d.%d; 8.0 is the least with bf16", index, major,
            minor);
    struct device *d = (struct device *)calloc(1, sizeof *d);
    if (d == NULL) return fail(ERR_MEMORY, "opening CUDA device %d: no host memory", index);
    d->index = index;
    enum status st = open_on(d);
    if (st != OK) {
        cuda_close(&d);
        return st;
    }
    *out = d;
    return OK;
}

enum status cuda_info(struct device *d, struct device_info *out)
{
    cudaDeviceProp prop;
    memset(out, 0, sizeof *out);
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaGetDeviceProperties(&prop, d->index));
    snprintf(out->name, sizeof out->name, "%.127s", prop.name);
    out->index = d->index;
    out->sm = prop.major * 10 + prop.minor;
    out->n_multiprocessors = prop.multiProcessorCount;
    CUDA_TRY(cudaMemGetInfo(&out->memory_free, &out->memory_total));
    CUDA_TRY(cudaDriverGetVersion(&out->driver));
    CUDA_TRY(cudaRuntimeGetVersion(&out->runtime));
    return OK;
}

struct stream *cuda_stream(struct device *d) { return (struct stream *)d->stream; }

enum status cuda_alloc(struct device *d, void **at, size_t bytes)
{
    *at = NULL;
    CUDA_TRY(cudaSetDevice(d->index));
    cudaError_t e = cudaMalloc(at, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        cudaGetLastError();
        CUDA_TRY(cudaMemGetInfo(&free_bytes, &total));
        return fail(ERR_MEMORY, "does not fit: needs %.2f GiB, device %d has %.2f of %.2f GiB free",
            (double)bytes / 1073741824.0, d->index, (double)free_bytes / 1073741824.0,
            (double)total / 1073741824.0);
    }
    CUDA_TRY(e);
    return OK;
}

void cuda_free(struct device *d, void *at)
{
    if (at == NULL) return;
    cudaSetDevice(d->index);
    cudaFree(at);
}

enum status cuda_copy(struct device *d, void *to, const void *from, size_t bytes, enum copy_way way)
{
    static const cudaMemcpyKind kinds[] = {
        cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice};
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kinds[way], d->stream));
    if (way == COPY_TO_HOST) CUDA_TRY(cudaStreamSynchronize(d->stream));
    return OK;
}

enum status cuda_fill(struct device *d, void *at, int byte, size_t bytes)
{
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaMemsetAsync(at, byte, bytes, d->stream));
    return OK;
}

enum status cuda_sync(struct device *d)
{
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaStreamSynchronize(d->stream));
    return OK;
}

void cuda_timer_close(struct timer **t)
{
    if (*t == NULL) return;
    if ((*t)->start != NULL) cudaEventDestroy((*t)->start);
    if ((*t)->stop != NULL) cudaEventDestroy((*t)->stop);
    free(*t);
    *t = NULL;
}

enum status timer_create(struct device *d, struct timer *t)
{
    CUDA_TRY(cudaSetDevice(d->index));
    CUDA_TRY(cudaEventCreate(&t->start));
    CUDA_TRY(cudaEventCreate(&t->stop));
    return OK;
}

enum status cuda_timer_open(struct device *d, struct timer **out)
{
    *out = (struct timer *)calloc(1, sizeof **out);
    if (*out == NULL) return fail(ERR_MEMORY, "CUDA timer: no host memory");
    enum status st = timer_create(d, *out);
    if (st != OK) cuda_timer_close(out);
    return st;
}

enum status cuda_timer_start(struct device *d, struct timer *t)
{
    CUDA_TRY(cudaEventRecord(t->start, d->stream));
    return OK;
}

enum status cuda_timer_stop(struct device *d, struct timer *t)
{
    CUDA_TRY(cudaEventRecord(t->stop, d->stream));
    return OK;
}

enum status cuda_timer_read(struct timer *t, double *seconds)
{
    float ms = 0;
    CUDA_TRY(cudaEventSynchronize(t->stop));
    CUDA_TRY(cudaEventElapsedTime(&ms, t->start, t->stop));
    *seconds = ms * 1e-3;
    return OK;
}

} // namespace

extern "C" {

enum status device_cuda_use(struct device *d)
{
    CUDA_TRY(cudaSetDevice(d->index));
    return OK;
}

int device_cuda_sm(int index)
{
    int major, minor;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return major * 10 + minor;
}

enum status device_cuda_enter(int index, int *before)
{
    CUDA_TRY(cudaGetDevice(before));
    if (*before != index) CUDA_TRY(cudaSetDevice(index));
    return OK;
}

void device_cuda_leave(int before)
{
    if (cudaSetDevice(before) != cudaSuccess) cudaGetLastError(); /* it was current already */
}

void device_cuda_reach(int from, int to)
{
    int before, can = 0;
    if (cudaGetDevice(&before) != cudaSuccess) return;
    for (int i = 0; i < 2; i++) {
        int here = i ? to : from, there = i ? from : to;
        if (cudaDeviceCanAccessPeer(&can, here, there) == cudaSuccess && can &&
            cudaSetDevice(here) == cudaSuccess)
            cudaDeviceEnablePeerAccess(there, 0);
    }
    cudaGetLastError(); /* it was on already, or there is none */
    device_cuda_leave(before);
}

enum status device_cuda_upload(void *to, const void *from, size_t bytes, struct stream *stream)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, (cudaStream_t)stream));
    return OK;
}

const struct device_impl device_cuda = {
    "cuda",
    cuda_count,
    cuda_open,
    cuda_close,
    cuda_info,
    cuda_stream,
    cuda_alloc,
    cuda_free,
    cuda_copy,
    cuda_fill,
    cuda_sync,
    cuda_timer_open,
    cuda_timer_close,
    cuda_timer_start,
    cuda_timer_stop,
    cuda_timer_read,
};
}
