/* Runs made by hand for the gate's tests, whose numbers hang together as those of an evaluation do.
 */
#ifndef SG_TESTS_UNIT_GATE_FIXTURE_H
#define SG_TESTS_UNIT_GATE_FIXTURE_H

#include "base/stats.h"
#include "reports/tables.h"
#include "results/estimates.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())
#define has(text, part) \
    cr_assert(          \
        (text) && strstr(text, part), "no \"%s\" in:\n%s", part, (text) ? (text) : "(nothing)")
#define lacks(text, part) cr_assert(!(text) || !strstr(text, part), "\"%s\" in:\n%s", part, text)

/* A run made by hand: four samples whose means are the overall numbers. */
struct made {
    struct run_record run;
    struct metric_record metrics[12];
    struct sample_record samples[4];
    struct latency_record times[2];
    struct run_view view;
};

static inline void put_metric(struct made *m, const char *name, double mean, double half)
{
    struct metric_record *r = &m->metrics[m->view.metrics.n++];
    *r = metric_record_empty("overall", name, 1000);
    r->mean = mean;
    r->lo = mean - half;
    r->hi = mean + half;
    r->std_error = half / student_quantile(.975, 8); /* of nine passes */
}

/* The row that evaluation would have stored. */
static inline void put_estimate(struct made *m, const char *name)
{
    struct estimate_source s = run_view_source(&m->view);
    struct estimate e;
    cr_assert(estimate_metric(&s, name, &e), "%s", name);
    put_metric(m, name, e.value, 0);
    m->metrics[m->view.metrics.n - 1].lo = e.lo;
    m->metrics[m->view.metrics.n - 1].hi = e.hi;
}

/* Sample i is off by (i - 1.5) * spread, so that a difference of two runs has the same sign on
 * every sample. */
static inline void make(
    struct made *m, double cosine, double kl, double agreement, double sparsity, double spread)
{
    const double cosine_off = spread > 0 ? 0 : .0024; /* a half-width of about .005 */
    *m = (struct made){0};
    m->run = (struct run_record){
        .id = 7,
        .key = "k",
        .key_json = "{}",
        .status = RUN_DONE,
        .method = "sparge",
        .block_q = 128,
        .block_k = 64,
        .smooth_k = "running",
        .l1 = NAN,
        .pv_l1 = NAN,
        .simthreshd1 = .6,
        .cdfthreshd = .98,
        .pvthreshd = 50,
        .topk = NAN,
        .window = -1,
        .layers = "all",
        .heads = "all",
        .max_length = 2048,
        .num_samples = 4,
        .threads = 2,
        .device = "cpu",
        .attention_calls = 32,
        .peak_bytes = 100 << 20,
        .peak_device_bytes = -1,
        .score = "all",
        .model = {.fingerprint = "m1", .name = "model"},
        .dataset = {.fingerprint = "d1", .name = "text"},
        .machine = {.fingerprint = "x", .cpu = "cpu", .n_cores = 2},
    };
    for (int i = 0; i < 4; i++) {
        double off = (i - 1.5) * spread;
        m->samples[i] = (struct sample_record){
            .sample = i,
            .n_tokens = 1000,
            .n_scored = 1000,
            .cosine_mean = cosine + (i - 1.5) * cosine_off + off * (1 + 10 * cosine - 9),
            .kl_mean = kl - off,
            .token_accuracy = agreement,
            .sparsity = sparsity,
            .nll_dense_sum = 2000,
            .nll_sparse_sum = 2000 + 1000 * kl,
            .qk_sparsity = sparsity,
            .pv_sparsity = sparsity,
            .tiles_possible = 100,
            .pv_possible = 200,
        };
    }
    m->view = (struct run_view){.run = &m->run,
        .label = "run 7",
        .metrics = {m->metrics, 0, NULL},
        .samples = {m->samples, 4, NULL},
        .latencies = {m->times, 0, NULL}};
    static const char *const names[] = {"cosine", "kl", "token_accuracy", "sparsity", "ppl_ratio"};
    for (int i = 0; i < 5; i++) put_estimate(m, names[i]);
}

/* How often one text holds the other. */
static inline size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

#endif
