/* Greedy decoding of several sequences at once beside one by one, on a GPU:
 * bench_decode MODEL [SEQUENCES] [LENGTH] [TOKENS] [--graph]
 *
 * Random tokens of the vocabulary; prompts differ in length by some tokens. Prints both times and
 * how many tokens differ; exit code 1 when any does. */
#include "base/clock.h"
#include "base/rng.h"
#include "base/xmalloc.h"
#include "engine/cuda/session_cuda.h"
#include "engine/generate.h"
#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SG_HAVE_CUDA
static void must(enum status st)
{
    if (st == OK) return;
    fprintf(stderr, "bench_decode: %s\n", status_message());
    exit(2);
}

static double seconds_since(int64_t t0) { return (double)(clock_ns() - t0) * 1e-9; }

struct bench {
    struct weights w;
    struct par *par;
    struct session *s;
    int n, length, n_new;
    int32_t *prompts;     /* [n, length] */
    int32_t *alone, *all; /* [n, n_new] */
    float *logits;
};

static int length_of(const struct bench *b, int i) { return b->length - 37 * i % 128; }

static int32_t prefill(struct bench *b, int i)
{
    static const struct sampler greedy = {.top_p = 1};
    session_reset(b->s);
    must(session_forward(b->s,
        &(struct forward_args){.tokens = b->prompts + (size_t)i * (size_t)b->length,
            .n = length_of(b, i),
            .last_logits = b->logits}));
    return sample_token(&greedy, NULL, b->logits, b->w.config.vocab_size);
}

/* As an evaluation does without slots: a pass, its logits on the host, their argmax. */
static double one_by_one(struct bench *b)
{
    static const struct sampler greedy = {.top_p = 1};
    double seconds = 0;
    for (int i = 0; i < b->n; i++) {
        int32_t *out = b->alone + (size_t)i * (size_t)b->n_new;
        out[0] = prefill(b, i);
        int64_t t0 = clock_ns();
        for (int t = 1; t < b->n_new; t++) {
            must(session_forward(b->s,
                &(struct forward_args){.tokens = out + t - 1, .n = 1, .last_logits = b->logits}));
            out[t] = sample_token(&greedy, NULL, b->logits, b->w.config.vocab_size);
        }
        seconds += seconds_since(t0);
    }
    return seconds;
}

static double together(struct bench *b, double *keeping)
{
    struct session_step steps[SESSION_SLOTS];
    int32_t next[SESSION_SLOTS];
    int got, failed;
    must(session_slots(b->s, b->n, &got));
    if (got < b->n) {
        fprintf(stderr, "bench_decode: %d slots, wanted %d\n", got, b->n);
        exit(2);
    }
    *keeping = 0;
    for (int i = 0; i < b->n; i++) {
        b->all[(size_t)i * (size_t)b->n_new] = prefill(b, i);
        int64_t t0 = clock_ns();
        must(session_keep(b->s, i));
        *keeping += seconds_since(t0);
    }
    int64_t t0 = clock_ns();
    for (int t = 1; t < b->n_new; t++) {
        for (int i = 0; i < b->n; i++)
            steps[i] =
                (struct session_step){i, b->all[(size_t)i * (size_t)b->n_new + (size_t)t - 1]};
        must(session_step(b->s, steps, b->n, next, &failed));
        for (int i = 0; i < b->n; i++) b->all[(size_t)i * (size_t)b->n_new + (size_t)t] = next[i];
    }
    double seconds = seconds_since(t0);
    must(session_slots(b->s, 0, &got));
    return seconds;
}

int main(int argc, char **argv)
{
    struct bench b = {.n = SESSION_SLOTS, .length = 8192, .n_new = 64};
    bool graph = argc > 1 && strcmp(argv[argc - 1], "--graph") == 0;
    argc -= graph;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_decode MODEL [SEQUENCES] [LENGTH] [TOKENS] [--graph]\n");
        return 2;
    }
    if (argc > 2) b.n = atoi(argv[2]);
    if (argc > 3) b.length = atoi(argv[3]);
    if (argc > 4) b.n_new = atoi(argv[4]);
    must(par_open(&b.par, 0));
    must(weights_open(&b.w, argv[1]));
    b.w.device_options.graph = graph;
    must(weights_place_cuda(&b.w, 0));
    must(session_open(&b.s, &b.w, b.par, b.length + b.n_new, 0, NULL));
    size_t tokens = (size_t)b.n * (size_t)b.n_new;
    b.prompts = xmalloc(sizeof(int32_t) * (size_t)b.n * (size_t)b.length);
    b.alone = xmalloc(sizeof(int32_t) * tokens);
    b.all = xmalloc(sizeof(int32_t) * tokens);
    b.logits = xmalloc(sizeof(float) * (size_t)b.w.config.vocab_size);
    struct rng r;
    rng_init(&r, 1);
    for (size_t i = 0; i < (size_t)b.n * (size_t)b.length; i++)
        b.prompts[i] = (int32_t)rng_below(&r, (uint32_t)b.w.config.vocab_size);
    for (int round = 0; round < 3; round++) {
        double keeping, alone = one_by_one(&b), all = together(&b, &keeping);
        int differ = 0;
        for (size_t i = 0; i < tokens; i++) differ += b.alone[i] != b.all[i];
        double steps = b.n_new - 1;
        printf("%d sequences of %d, %d tokens each%s: one by one %.3f ms a token, together %.3f ms "
               "a step, %.2f x; into slots %.2f ms each; %d of %zu tokens differ\n",
            b.n, b.length, b.n_new, graph ? ", graph" : "", alone * 1e3 / (steps * b.n),
            all * 1e3 / steps, alone / all, keeping * 1e3 / b.n, differ, tokens);
        if (differ) return 1;
    }
    session_close(&b.s);
    weights_close(&b.w);
    par_close(&b.par);
    return 0;
}
#else
int main(void)
{
    fprintf(stderr, "bench_decode: this build has no CUDA\n");
    return 2;
}
#endif
