/* Prefill at once against prefill in chunks, method by method, and the memory of both against the
 * plan:
 *
 *   bench_chunks MODEL cpu|cuda TOKENS CHUNK METHOD…
 *
 * GiB planned and taken: on the device, of the whole process so far; on the host by this method,
 * with what the comparison holds.
 * Tokens are drawn from the first 250 ids in runs that come again, so that heads have something to
 * find. On a GPU the weights and one session are all that is there. */
#include "base/clock.h"
#include "engine/engine.h"
#include "harness/measure/audit.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void draw(int32_t *ids, int n)
{
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < n; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        ids[i] = i >= 4096 && x % 4 ? ids[i - 4096 + (int)(x >> 32 & 1)] : (int32_t)(x % 250);
    }
}

static enum status policy_of(const char *name, const struct weights *w, struct sparse_policy *p)
{
    const struct mask_method *m;
    TRY(mask_method_parse(name, &m));
    TRY(policy_init(p, m, w->config.n_layers, w->config.n_heads));
    if (m->ranked) p->topk = .1f;
    if (strcmp(m->name, "flexprefill") == 0) p->block = (struct block_shape){128, 128};
    if (m == &mask_window) p->window = 4096;
    policy_choose_thresholds(p, -.1, 1, NEVER_SKIP);
    return OK;
}

static double peak_gib(const struct weights *w, size_t *before)
{
    struct weights_device_info info;
    weights_device_describe(w, &info);
    *before = info.bytes;
    return (double)info.peak_bytes / 0x1p30;
}

/* kB of the process as the kernel counts them. */
static double process_gib(const char *what)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256], format[64];
    long kib = 0;
    snprintf(format, sizeof format, "%s: %%ld", what);
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, format, &kib) == 1) break;
    if (f) fclose(f);
    return (double)kib / 0x1p20;
}

/* VmHWM begins again at VmRSS. */
static void forget_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f) fputs("5", f), fclose(f);
}

/* What audit_chunks() itself holds: states and maps of both passes. */
static size_t own_bytes(const struct weights *w, int n, const struct sparse_policy *p)
{
    struct tile_map map = tile_map_shape(p->block, w->config.n_heads, 0, n);
    return 2 *
        (sizeof(float) * (size_t)n * (size_t)w->config.hidden_size +
            tile_map_bytes(&map) * (size_t)w->config.n_layers);
}

static enum status run(
    const struct weights *w, struct par *par, int n, int chunk, int n_methods, char **methods)
{
    int32_t *ids = malloc(sizeof *ids * (size_t)n);
    if (!ids) return fail(ERR_MEMORY, "no memory");
    draw(ids, n);
    size_t resident;
    peak_gib(w, &resident);
    struct session_plan whole =
                            session_plan_for(w, n, (n + 127) / 128 * 128, false, par_threads(par)),
                        cut = session_plan_for(w, n, chunk, false, par_threads(par));
    printf("%d tokens; keys and values %.3f GiB in %s; planned: weights %.2f, at once %.2f, in "
           "chunks of %d %.2f GiB\n",
        n, (double)whole.kv_bytes / 0x1p30, w->on_device ? "bf16" : "f32",
        (double)resident / 0x1p30, (double)whole.total_bytes / 0x1p30, chunk,
        (double)cut.total_bytes / 0x1p30);
    printf("%-14s %11s %11s %11s %11s %8s %8s %8s %8s %6s\n", "method", "worst row", "all rows",
        "1 - Jaccard", "worst head", "planned", "taken", "on host", "taken", "s");
    enum status st = OK;
    for (int i = 0; i < n_methods && st == OK; i++) {
        struct sparse_policy p = {0};
        struct audit_chunks x;
        int64_t t0 = clock_ns();
        st = policy_of(methods[i], w, &p);
        struct session_scratch scratch = {0};
        if (st == OK) scratch = session_scratch_for(w, &whole, &p, par_threads(par));
        forget_peak();
        double before = process_gib("VmRSS");
        if (st == OK) st = audit_chunks(w, par, ids, n, &p, chunk, &x);
        size_t session = whole.total_bytes + scratch.bytes;
        double planned = (double)(resident + session) / 0x1p30,
               host =
                   (double)((w->on_device ? scratch.host_bytes : session) + own_bytes(w, n, &p)) /
            0x1p30;
        if (st == OK)
            printf("%-14s %11.3g %11.3g %11.3g %11.3g %8.2f %8.2f %8.2f %8.2f %6.1f\n", methods[i],
                x.worst_row, x.all, x.masks.n ? 1 - x.masks.sum / (double)x.masks.n : 0,
                x.masks.n ? 1 - x.masks.min : 0, planned, peak_gib(w, &resident), host,
                process_gib("VmHWM") - before, (double)(clock_ns() - t0) * 1e-9);
        fflush(stdout);
        policy_clear(&p);
    }
    free(ids);
    return st;
}

int main(int argc, char **argv)
{
    struct weights w;
    struct par *par = NULL;
    if (argc < 6) {
        fprintf(stderr, "usage: bench_chunks MODEL cpu|cuda TOKENS CHUNK METHOD...\n");
        return 2;
    }
    enum status st = weights_open(&w, argv[1]);
    if (st == OK) st = par_open(&par, 0);
#ifdef SG_HAVE_CUDA
    if (st == OK && strcmp(argv[2], "cuda") == 0) st = weights_place_cuda(&w, 0);
#endif
    if (st == OK) st = run(&w, par, atoi(argv[3]), atoi(argv[4]), argc - 5, argv + 5);
    if (st != OK) fprintf(stderr, "bench_chunks: %s\n", status_message());
    par_close(&par);
    weights_close(&w);
    return st == OK ? 0 : 1;
}
