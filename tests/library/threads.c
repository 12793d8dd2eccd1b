/* Threads in libsparsegauge: a policy and a model that all read, one context that four threads
 * share, and contexts of their own; every result is that of the call alone, bit for bit. Prints one
 * line. Built plainly by check_library.sh, and with -fsanitize=thread (docs/TESTING.md).
 *   threads MODEL */
#include <sparsegauge.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, KV = 2, N = 512, D = 32, THREADS = 4, ROUNDS = 6, TOKENS = 300 };

static float q[HEADS * N * D], k[KV * N * D], v[KV * N * D];
static struct sg_policy *policy;
static struct sg_context *shared;
static struct sg_model *model;
static int32_t ids[TOKENS];
static int vocabulary;

struct result {
    float o[HEADS * N * D];
    uint8_t tiles[HEADS * 4 * 8];
    struct sg_ledger ledger[HEADS];
    double loss;
};
static struct result alone;

static void must(enum sg_status st, const char *what)
{
    if (st == SG_OK) return;
    printf("%s: %s: %s\n", what, sg_status_name(st), sg_message());
    exit(1);
}

static void all_calls(struct sg_context *c, struct result *r)
{
    struct sg_attention a = {.size = sizeof a,
        .n_q = N,
        .n_heads = HEADS,
        .n_kv_heads = KV,
        .head_dim = D,
        .q = q,
        .k = k,
        .v = v,
        .o = r->o,
        .q_token = D,
        .q_head = N * D,
        .k_token = D,
        .k_head = N * D,
        .v_token = D,
        .v_head = N * D,
        .o_token = D,
        .o_head = N * D};
    memset(r->ledger, 0, sizeof r->ledger);
    must(sg_attention_forward(c, &a, policy, r->ledger, NULL), "forward");
    must(sg_attention_predict(c, &a, policy, r->tiles, NULL), "predict");
    /* what fails on one thread is said on that thread */
    a.n_kv_heads = 3;
    if (sg_attention_forward(c, &a, policy, NULL, NULL) != SG_ERR_ARG ||
        !strstr(sg_message(), "n_kv_heads 3"))
        must(SG_ERR_ARG, "a message of another thread");
    struct sg_policy *own;
    must(sg_policy_open(&own, "bound", 2, HEADS), "policy");
    must(sg_policy_set(own, &(struct sg_setting){.size = sizeof(struct sg_setting), .topk = .5}),
        "set");
    sg_policy_close(&own);
    must(sg_model_loss(model, ids, TOKENS, NULL, NULL, &r->loss, NULL), "loss");
}

static void *work(void *arg)
{
    struct sg_context *own = NULL, *c = shared;
    if (arg) {
        must(sg_open(&own, 2), "open");
        c = own;
    }
    struct result *r = calloc(1, sizeof *r);
    long wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        all_calls(c, r);
        wrong += memcmp(r->o, alone.o, sizeof r->o) ||
            memcmp(r->tiles, alone.tiles, sizeof r->tiles) ||
            memcmp(r->ledger, alone.ledger, sizeof r->ledger) || r->loss != alone.loss;
    }
    free(r);
    sg_close(&own);
    return (void *)wrong;
}

static float noise(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / 8388608.f - 1;
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    unsigned seed = 1;
    for (int i = 0; i < HEADS * N * D; i++) q[i] = 3 * noise(&seed);
    for (int i = 0; i < KV * N * D; i++) k[i] = 3 * noise(&seed), v[i] = noise(&seed);
    must(sg_open(&shared, 2), "open");
    must(sg_policy_open(&policy, NULL, 1, HEADS), "policy");
    must(sg_policy_set(policy, &(struct sg_setting){.size = sizeof(struct sg_setting), .topk = .5}),
        "set");
    must(sg_model_open(&model, shared, argv[1]), "model");
    struct sg_shape shape = {.size = sizeof shape};
    must(sg_model_shape(model, &shape), "shape");
    vocabulary = shape.vocab_size;
    for (int i = 0; i < TOKENS; i++) ids[i] = (i / 3 * 31 + 7) % vocabulary;
    all_calls(shared, &alone);
    pthread_t t[THREADS];
    for (long i = 0; i < THREADS; i++) /* two share a context, two have their own */
        if (pthread_create(&t[i], NULL, work, (void *)(i % 2)) != 0) return 1;
    long wrong = 0;
    for (int i = 0; i < THREADS; i++) {
        void *r;
        pthread_join(t[i], &r);
        wrong += (long)r;
    }
    sg_model_close(&model);
    sg_policy_close(&policy);
    sg_close(&shared);
    printf("threads: %d calls of each kind on %d threads, %ld differ, %.1f %% left out\n",
        THREADS * ROUNDS, THREADS, wrong, 100 * sg_sparsity(&alone.ledger[0]));
    return wrong || sg_sparsity(&alone.ledger[0]) <= 0;
}
