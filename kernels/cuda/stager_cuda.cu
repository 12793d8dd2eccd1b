/* Two things overlap inside a transfer: threads fill one pinned buffer while the copy engine
 * empties others. */
extern "C" {
#include "base/clock.h"
#include "base/par.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/stager_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>

namespace
{

enum {
    N_BUFFERS = 4,
    BUFFER_BYTES = 32 << 20,
    COPY_BYTES = 1 << 20,
    MAX_PIECES = 16,
    MAX_THREADS = 8
};

/* One buffer, filled by several threads. */
struct fill_job {
    char *to;
    const char *from;
    size_t bytes;
};

void fill_part(void *ctx, int i, int worker)
{
    (void)worker;
    const struct fill_job *j = (const struct fill_job *)ctx;
    size_t at = (size_t)i * COPY_BYTES;
    size_t left = j->bytes - at, most = COPY_BYTES;
    memcpy(j->to + at, j->from + at, left < most ? left : most);
}

} // namespace

struct stager_cuda {
    struct device *d;
    cudaStream_t stream, work; /* ours, and the one that computes */
    cudaEvent_t free_from, arrived, empty[N_BUFFERS];
    char *pinned[N_BUFFERS];
    void *wide; /* other types than bf16 on the device */
    struct par *par;
    int next_buffer;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool quit, busy; /* busy: pieces are being brought */
    struct stager_piece pieces[MAX_PIECES];
    int n_pieces;
    enum status status;
    char message[512];
    struct stager_times times;
};

namespace
{

enum status send_buffer(struct stager_cuda *s, const struct stager_piece *p, size_t first, size_t n)
{
    size_t width = dtype_size(p->dtype);
    int b = s->next_buffer;
    struct fill_job job = {s->pinned[b], (const char *)p->from + first * width, n * width};
    s->next_buffer = (b + 1) % N_BUFFERS;
    CUDA_TRY(cudaEventSynchronize(s->empty[b]));
    par_for(s->par, (int)((job.bytes + COPY_BYTES - 1) / COPY_BYTES), fill_part, &job);
    bool bf16 = p->dtype == DTYPE_BF16;
    CUDA_TRY(cudaMemcpyAsync(bf16 ? (void *)(p->to + first) : s->wide, job.to, job.bytes,
        cudaMemcpyHostToDevice, s->stream));
    CUDA_TRY(cudaEventRecord(s->empty[b], s->stream));
    return bf16 ? OK
                : ops_cuda_to_bf16(s->wide, p->dtype, n, p->to + first, (struct stream *)s->stream);
}

enum status bring(struct stager_cuda *s)
{
    TRY(device_cuda_use(s->d));
    CUDA_TRY(cudaStreamWaitEvent(s->stream, s->free_from, 0));
    for (int i = 0; i < s->n_pieces; i++) {
        const struct stager_piece *p = &s->pieces[i];
        size_t at_once = BUFFER_BYTES / dtype_size(p->dtype);
        for (size_t at = 0; at < p->n; at += at_once)
            TRY(send_buffer(s, p, at, p->n - at < at_once ? p->n - at : at_once));
    }
    CUDA_TRY(cudaEventRecord(s->arrived, s->stream));
    return OK;
}

void *run(void *opaque)
{
    struct stager_cuda *s = (struct stager_cuda *)opaque;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->busy && !s->quit) pthread_cond_wait(&s->changed, &s->lock);
        if (s->quit) break;
        pthread_mutex_unlock(&s->lock);
        int64_t t0 = clock_ns();
        enum status st = bring(s);
        double seconds = (double)(clock_ns() - t0) * 1e-9;
        pthread_mutex_lock(&s->lock);
        s->status = st;
        if (st != OK) snprintf(s->message, sizeof s->message, "%s", status_message());
        s->times.n++;
        s->times.seconds += s->times.last_s = seconds;
        s->busy = false;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

enum status open_parts(struct stager_cuda *s)
{
    TRY(device_cuda_use(s->d));
    s->work = (cudaStream_t)device_cuda.stream(s->d);
    CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&s->free_from, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&s->arrived, cudaEventDisableTiming));
    for (int b = 0; b < N_BUFFERS; b++) {
        CUDA_TRY(
            cudaEventCreateWithFlags(&s->empty[b], cudaEventDisableTiming | cudaEventBlockingSync));
        CUDA_TRY(cudaMallocHost((void **)&s->pinned[b], BUFFER_BYTES));
    }
    CUDA_TRY(cudaMalloc(&s->wide, BUFFER_BYTES));
    int threads = par_cpu_count() / 2;
    TRY(par_open(&s->par, threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads));
    s->started = pthread_create(&s->thread, NULL, run, s) == 0;
    return s->started ? OK : fail(ERR_MEMORY, "cannot start the thread that brings weights");
}

} // namespace

extern "C" {

enum status stager_cuda_open(struct stager_cuda **out, struct device *d)
{
    struct stager_cuda *s = *out = (struct stager_cuda *)calloc(1, sizeof *s);
    if (!s) return fail(ERR_MEMORY, "no memory to bring weights");
    s->d = d;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    enum status st = open_parts(s);
    if (st != OK) stager_cuda_close(out);
    return st;
}

void stager_cuda_close(struct stager_cuda **sp)
{
    struct stager_cuda *s = *sp;
    if (!s) return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        while (s->busy) pthread_cond_wait(&s->changed, &s->lock);
        s->quit = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    if (device_cuda_use(s->d) == OK) {
        if (s->stream) cudaStreamSynchronize(s->stream);
        if (s->stream) cudaStreamDestroy(s->stream);
        if (s->free_from) cudaEventDestroy(s->free_from);
        if (s->arrived) cudaEventDestroy(s->arrived);
        for (int b = 0; b < N_BUFFERS; b++) {
            if (s->empty[b]) cudaEventDestroy(s->empty[b]);
            if (s->pinned[b]) cudaFreeHost(s->pinned[b]);
        }
        cudaFree(s->wide);
    }
    par_close(&s->par);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
    *sp = NULL;
}

enum status stager_cuda_begin(struct stager_cuda *s, const struct stager_piece *pieces, int n)
{
    if (n > MAX_PIECES) return fail(ERR_ARG, "%d pieces at once, at most %d", n, MAX_PIECES);
    TRY(device_cuda_use(s->d));
    CUDA_TRY(cudaEventRecord(s->free_from, s->work));
    pthread_mutex_lock(&s->lock);
    memcpy(s->pieces, pieces, (size_t)n * sizeof *pieces);
    s->n_pieces = n;
    s->busy = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return OK;
}

enum status stager_cuda_await(struct stager_cuda *s)
{
    int64_t t0 = clock_ns();
    pthread_mutex_lock(&s->lock);
    while (s->busy) pthread_cond_wait(&s->changed, &s->lock);
    s->times.waited_s += (double)(clock_ns() - t0) * 1e-9;
    enum status st = s->status == OK ? OK : fail(s->status, "%s", s->message);
    pthread_mutex_unlock(&s->lock);
    TRY(st);
    CUDA_TRY(cudaStreamWaitEvent(s->work, s->arrived, 0));
    return OK;
}

struct stager_times stager_cuda_times(const struct stager_cuda *s)
{
    pthread_mutex_lock((pthread_mutex_t *)&s->lock);
    struct stager_times times = s->times;
    pthread_mutex_unlock((pthread_mutex_t *)&s->lock);
    return times;
}
}
