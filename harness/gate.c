#include "harness/gate.h"

#include "base/json.h"
#include "harness/command.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct bound_def {
    const char *name, *field;
    size_t offset;
    const char *metric;
    enum { MEAN, P1, P99_9, RATIO_MINUS_ONE } part;
    bool minimum;
};

#define BOUND(n, f, metric, part, minimum) {n, #f, offsetof(struct gate_bounds, f), metric, part, minimum}
static const struct bound_def defs[] = {
    BOUND("min-cosine", min_cosine, "cosine", MEAN, true),
    BOUND("min-cosine-p1", min_cosine_p1, "cosine", P1, true),
    BOUND("max-kl", max_kl, "kl", MEAN, false),
    BOUND("max-kl-p99.9", max_kl_p99_9, "kl", P99_9, false),
    BOUND("max-ppl-increase", max_ppl_increase, "ppl_ratio", RATIO_MINUS_ONE, false),
    BOUND("min-sparsity", min_sparsity, "sparsity", MEAN, true),
    BOUND("min-token-accuracy", min_token_accuracy, "token_accuracy", MEAN, true),
    BOUND("max-score-drop", max_score_drop, "score_drop", MEAN, false),
};
enum { N_DEFS = sizeof defs / sizeof defs[0] };

static double *bound_of(const struct gate_bounds *b, const struct bound_def *d)
{
    return (double *)((char *)b + d->offset);
}

struct gate_bounds gate_no_bounds(void)
{
    struct gate_bounds b = {0};
    for (int i = 0; i < N_DEFS; i++) *bound_of(&b, &defs[i]) = NAN;
    return b;
}

static bool holds(const struct bound_def *d, double value, double bound)
{
    return d->minimum ? value >= bound : value <= bound;
}

/* The half-width shrinks with the root of the number of samples. */
static double samples_needed(const struct gate_check *c, size_t n_samples)
{
    double distance = fabs(c->value - c->bound), half = fmax(c->hi - c->value, c->value - c->lo);
    return distance > 0 ? ceil((double)n_samples * (half / distance) * (half / distance)) : INFINITY;
}

static void judge(const struct bound_def *d, const struct run_view *v, bool by_mean, struct gate_check *c)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", d->metric);
    double shift = d->part == RATIO_MINUS_ONE ? 1 : 0;
    c->value = c->lo = c->hi = NAN;
    if (!m) {
        c->outcome = CHECK_INVALID;
        c->message = str_format("the run has no metric \"%s\"; choose a suite that measures it", d->metric);
        return;
    }
    c->value = (d->part == P1 ? m->p1 : d->part == P99_9 ? m->p99_9 : m->mean) - shift;
    if (d->part == MEAN || d->part == RATIO_MINUS_ONE) {
        c->lo = m->lo - shift;
        c->hi = m->hi - shift;
    }
    bool interval = !by_mean && !isnan(c->lo) && !isnan(c->hi);
    if (isnan(c->value)) {
        c->outcome = CHECK_INVALID;
        c->message = str_format("the metric \"%s\" has no value", d->metric);
    } else if (!interval) {
        c->outcome = holds(d, c->value, c->bound) ? CHECK_PASS : CHECK_FAIL;
        if (c->outcome == CHECK_FAIL)
            c->message = str_format("%s is %.6g, the bound is %s %.6g%s", d->metric, c->value, c->op, c->bound,
                                    by_mean || d->part == P1 || d->part == P99_9 ? "" : " (one sample: no interval)");
    } else if (holds(d, c->lo, c->bound) && holds(d, c->hi, c->bound)) {
        c->outcome = CHECK_PASS;
    } else if (!holds(d, c->lo, c->bound) && !holds(d, c->hi, c->bound)) {
        c->outcome = CHECK_FAIL;
        c->message = str_format("%s is %.6g [%.6g, %.6g], the bound is %s %.6g", d->metric, c->value, c->lo, c->hi, c->op,
                                c->bound);
    } else {
        double need = samples_needed(c, v->samples.n);
        c->outcome = CHECK_AMBIGUOUS;
        c->message = need < 1e6 ? str_format("%s is %.6g, but its interval [%.6g, %.6g] holds the bound %.6g; about %.0f "
                                             "samples would decide (now %zu): raise --num-samples",
                                             d->metric, c->value, c->lo, c->hi, c->bound, need, v->samples.n)
                                : str_format("%s is %.6g, right at the bound %.6g; no number of samples will decide",
                                             d->metric, c->value, c->bound);
    }
}

static int severity(enum check_outcome o)
{
    return o == CHECK_INVALID ? 3 : o == CHECK_FAIL ? 2 : o == CHECK_AMBIGUOUS ? 1 : 0;
}

enum status gate_run(const struct run_view *v, const struct gate_bounds *b, struct gate_result *out)
{
    *out = (struct gate_result){.outcome = CHECK_PASS};
    for (int i = 0; i < N_DEFS; i++) {
        double bound = *bound_of(b, &defs[i]);
        if (isnan(bound)) continue;
        struct gate_check *c = &out->checks[out->n++];
        *c = (struct gate_check){.name = defs[i].name, .subject = v->label, .op = defs[i].minimum ? ">=" : "<=", .bound = bound};
        judge(&defs[i], v, b->by_mean, c);
        if (severity(c->outcome) > severity(out->outcome)) out->outcome = c->outcome;
    }
    if (!out->n) return fail(ERR_ARG, "no bound was given; e.g. --min-cosine .98 --max-kl .02, see -h");
    const struct run_record *r = v->run;
    const char *why = r->status != RUN_DONE ? "the run did not finish"
                      : r->attention_calls > 0 && r->dense_fallback_calls == r->attention_calls
                          ? "every call fell back to dense because the sequences are shorter than --min-sparse-tokens: "
                            "nothing sparse was measured; use longer samples"
                          : NULL;
    if (why) {
        struct gate_check *c = &out->checks[out->n++];
        *c = (struct gate_check){.name = "valid-measurement", .subject = v->label, .op = ">=", .bound = 1, .value = 0,
                                 .lo = NAN, .hi = NAN, .outcome = CHECK_INVALID, .message = str_dup(why)};
        out->outcome = CHECK_INVALID;
    }
    return OK;
}

void gate_result_clear(struct gate_result *g)
{
    for (size_t i = 0; i < g->n; i++) free((char *)g->checks[i].message);
    *g = (struct gate_result){0};
}

int gate_exit_code(enum check_outcome outcome)
{
    return outcome == CHECK_PASS ? EXIT_PASS : outcome == CHECK_FAIL ? EXIT_GATE : EXIT_INVALID;
}

enum status gate_bounds_read(struct gate_bounds *b, const char *path)
{
    cJSON *root;
    TRY(json_read_file(&root, path));
    struct json_in in = {root, path, ""};
    enum status st = cJSON_IsObject(root) ? OK : fail(ERR_FORMAT, "%s: found %s, expected an object of bounds", path, json_kind(root));
    const cJSON *field;
    for (field = st == OK ? root->child : NULL; field && st == OK; field = field->next) {
        int i = 0;
        while (i < N_DEFS && strcmp(defs[i].field, field->string) != 0) i++;
        if (i == N_DEFS)
            st = fail(ERR_FORMAT, "%s: field %s is no bound; `gate --dump-config` writes all of them", path, field->string);
        else
            st = json_get_double(in, field->string, false, -1e9, 1e9, bound_of(b, &defs[i]));
    }
    cJSON_Delete(root);
    return st;
}

enum status gate_bounds_write(const struct gate_bounds *b, const char *path)
{
    cJSON *root = cJSON_CreateObject();
    for (int i = 0; i < N_DEFS; i++) {
        double bound = *bound_of(b, &defs[i]);
        if (isnan(bound))
            cJSON_AddNullToObject(root, defs[i].field);
        else
            cJSON_AddNumberToObject(root, defs[i].field, bound);
    }
    enum status st = json_write_file(path, root);
    cJSON_Delete(root);
    return st;
}
