#include "results/query.h"

#include "results/db.h"

#include "base/str.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The frontier axis as "more is better". */
static double goodness(const struct run_record *r, enum frontier_axis axis)
{
    switch (axis) {
    case FRONTIER_COSINE: return r->headline.cosine_mean;
    case FRONTIER_KL: return -r->headline.kl_mean;
    default: return -r->headline.ppl_ratio;
    }
}

struct candidate {
    const struct run_record *run;
    double sparsity, value;
    struct frontier_point point;
};

static int compare_groups(const struct candidate *a, const struct candidate *b)
{
    int order = strcmp(a->run->model.fingerprint, b->run->model.fingerprint);
    if (!order) order = strcmp(a->run->dataset.fingerprint, b->run->dataset.fingerprint);
    return order ? order : run_is_oracle(a->run) - run_is_oracle(b->run);
}

/* By group, then sparsest first, then best first. */
static int compare_candidates(const void *x, const void *y)
{
    const struct candidate *a = x, *b = y;
    int order = compare_groups(a, b);
    if (order) return order;
    if (a->sparsity != b->sparsity) return a->sparsity > b->sparsity ? -1 : 1;
    if (a->value != b->value) return a->value > b->value ? -1 : 1;
    return (a->point.run > b->point.run) - (a->point.run < b->point.run);
}

static int compare_points(const void *x, const void *y)
{
    const struct frontier_point *a = x, *b = y;
    return (a->run > b->run) - (a->run < b->run);
}

/* In descending sparsity a run survives when it beats every sparser one and equals the best of its
 * own sparsity. */
static void mark_dominated(struct candidate *c, size_t n)
{
    double best_sparser = -INFINITY, best_same = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || c[i].sparsity != c[i - 1].sparsity) {
            best_sparser = fmax(best_sparser, best_same);
            best_same = c[i].value;
        }
        c[i].point.dominated = c[i].value < best_same || c[i].value <= best_sparser;
    }
}

/* The point farthest above the straight line between the ends of the frontier, both axes scaled to
 * [0,1]. */
static void mark_knee(struct candidate *c, size_t n)
{
    struct candidate *first = NULL, *last = NULL, *knee = NULL;
    for (size_t i = 0; i < n; i++)
        if (!c[i].point.dominated) {
            if (!first) first = &c[i];
            last = &c[i];
        }
    if (!first || first->sparsity == last->sparsity || first->value == last->value) return;
    double most = 0;
    for (struct candidate *p = first; p <= last; p++) {
        if (p->point.dominated) continue;
        double x = (p->sparsity - last->sparsity) / (first->sparsity - last->sparsity);
        double y = (p->value - first->value) / (last->value - first->value);
        if (x + y - 1 > most) {
            most = x + y - 1;
            knee = p;
        }
    }
    if (knee) knee->point.knee = true;
}

enum status query_frontier(
    const struct run_list *runs, enum frontier_axis axis, struct frontier_point **out, size_t *n)
{
    *out = NULL;
    *n = 0;
    struct candidate *c = calloc(runs->n ? runs->n : 1, sizeof *c);
    if (!c) return fail(ERR_MEMORY, "no memory for a frontier of %zu runs", runs->n);
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        double value = goodness(r, axis);
        if (r->status != RUN_DONE || isnan(value) || isnan(r->headline.sparsity)) continue;
        c[(*n)++] = (struct candidate){r, r->headline.sparsity, value, {.run = i}};
    }
    qsort(c, *n, sizeof *c, compare_candidates);
    for (size_t from = 0, to; from < *n; from = to) {
        for (to = from + 1; to < *n && compare_groups(&c[from], &c[to]) == 0; to++) {}
        mark_dominated(c + from, to - from);
        mark_knee(c + from, to - from);
    }
    *out = malloc((*n ? *n : 1) * sizeof **out);
    if (!*out) {
        free(c);
        return fail(ERR_MEMORY, "no memory for a frontier of %zu runs", *n);
    }
    for (size_t i = 0; i < *n; i++) (*out)[i] = c[i].point;
    qsort(*out, *n, sizeof **out, compare_points);
    free(c);
    return OK;
}

/* How far a run is beyond a bound, as a share of the room the bound leaves; <= 0 holds. Unknown
 * values break it. */
struct breach {
    const char *bound;
    double value, limit, by;
};

static void breach_add(
    struct breach *worst, const char *bound, double value, double limit, double by)
{
    if (isnan(limit)) return;
    if (isnan(by)) by = INFINITY;
    if (by > worst->by) *worst = (struct breach){bound, value, limit, by};
}

static double room(double distance) { return fmax(fabs(distance), 1e-9); }

static struct breach worst_breach(
    const struct best_bounds *b, double cosine, double kl, double ppl, double accuracy)
{
    struct breach w = {.by = -INFINITY};
    breach_add(&w, "min-cosine", cosine, b->min_cosine,
        (b->min_cosine - cosine) / room(1 - b->min_cosine));
    breach_add(&w, "max-kl", kl, b->max_kl, (kl - b->max_kl) / room(b->max_kl));
    breach_add(&w, "max-ppl-increase", ppl - 1, b->max_ppl_increase,
        (ppl - 1 - b->max_ppl_increase) / room(b->max_ppl_increase));
    breach_add(&w, "min-token-accuracy", accuracy, b->min_token_accuracy,
        (b->min_token_accuracy - accuracy) / room(1 - b->min_token_accuracy));
    return w;
}

/* The unfavourable end of each interval instead of the mean. */
static enum status breach_of_intervals(
    struct store *s, const struct run_record *r, const struct best_bounds *b, struct breach *out)
{
    struct metric_list m;
    enum status st = query_metrics(s, r->id, "overall", &m);
    const struct metric_record *row;
    double cosine = (row = metric_list_find(&m, "overall", "cosine")) ? row->lo : NAN;
    double kl = (row = metric_list_find(&m, "overall", "kl")) ? row->hi : NAN;
    double accuracy = (row = metric_list_find(&m, "overall", "token_accuracy")) ? row->lo : NAN;
    *out = worst_breach(b, cosine, kl, r->headline.ppl_ratio_hi, accuracy);
    metric_list_clear(&m);
    return st;
}

static int compare_sparsity(const void *x, const void *y)
{
    const struct run_record *const *a = x, *const *b = y;
    double sa = (*a)->headline.sparsity, sb = (*b)->headline.sparsity;
    return sa != sb ? (sa > sb ? -1 : 1) : ((*a)->id > (*b)->id) - ((*a)->id < (*b)->id);
}

enum status query_best(struct store *s, const struct run_list *runs, bool with_oracle,
    const struct best_bounds *b, struct run_list *out)
{
    enum status st = OK;
    const struct run_record **order = NULL, *best = NULL, *nearest = NULL;
    struct breach nearest_breach = {.by = INFINITY};
    size_t n = 0;
    *out = (struct run_list){0};
    order = malloc((runs->n ? runs->n : 1) * sizeof *order);
    if (!order) return fail(ERR_MEMORY, "%s: no memory for %zu runs", s->path, runs->n);
    for (size_t i = 0; i < runs->n; i++)
        if (!isnan(runs->rows[i].headline.sparsity) &&
            (with_oracle || !run_is_oracle(&runs->rows[i])))
            order[n++] = &runs->rows[i];
    qsort(order, n, sizeof *order, compare_sparsity);
    for (size_t i = 0; i < n && !best; i++) {
        const struct headline *h = &order[i]->headline;
        struct breach w =
            worst_breach(b, h->cosine_mean, h->kl_mean, h->ppl_ratio, h->token_accuracy);
        if (w.by <= 0 && b->with_intervals)
            TRY_GOTO(st, done, breach_of_intervals(s, order[i], b, &w));
        if (w.by <= 0) best = order[i];
        /* what was not measured is not near */
        if (!isnan(w.value) && (!nearest || w.by < nearest_breach.by)) {
            nearest = order[i];
            nearest_breach = w;
        }
    }
    if (best) {
        char id[24];
        snprintf(id, sizeof id, "%lld", (long long)best->id);
        st = query_run(s, id, out);
    } else if (!nearest && n) {
        st = fail(ERR_ARG,
            "%s: none of %zu runs has %s that are asked for; evaluate on a suite that measures "
            "them",
            s->path, n, b->with_intervals ? "the metrics with the intervals" : "the metrics");
    } else if (!nearest) {
        st = fail(ERR_ARG,
            "%s: no finished run with a sparsity fits the filter; `status` shows what is missing",
            s->path);
    } else {
        int digits = digits_apart(nearest_breach.value, nearest_breach.limit, 4);
        st = fail(ERR_ARG,
            "%s: none of %zu runs holds the bounds%s; the nearest is run %lld: %s: found %.*g, "
            "bound "
            "%.*g",
            s->path, n, b->with_intervals ? " with its interval" : "", (long long)nearest->id,
            nearest_breach.bound, digits, nearest_breach.value, digits, nearest_breach.limit);
    }
done:
    free(order);
    return st;
}

const char *cell_state_name(enum cell_state state)
{
    static const char *const names[] = {"done", "failed", "skipped", "running", "stale", "missing"};
    return names[state];
}

static enum cell_state cell_state_of(const char *name)
{
    enum cell_state state = CELL_DONE;
    while (state < CELL_MISSING && strcmp(cell_state_name(state), name)) state++;
    return state;
}

enum status query_cell(struct store *s, const char *key, const char *slot, enum cell_state *out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(&c, s,
        "SELECT CASE WHEN EXISTS (SELECT 1 FROM run WHERE key = ?1) THEN (SELECT status FROM run "
        "WHERE key = ?1) "
        "WHEN EXISTS (SELECT 1 FROM lease WHERE key = ?1 "
        "             AND expires > (julianday('now') - 2440587.5) * 86400.0) THEN 'running' "
        "WHEN EXISTS (SELECT 1 FROM run WHERE slot = ?2 AND status = 'done') THEN 'stale' ELSE "
        "'missing' END");
    if (st == OK) {
        put_text(&c, key);
        put_text(&c, slot);
        st = cursor_step(&c, &more);
    }
    if (st == OK) *out = cell_state_of(get_name(&c));
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status query_parts(struct store *s, const char *key, struct run_parts *out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    *out = (struct run_parts){0};
    enum status st = cursor_open(&c, s,
        "SELECT EXISTS (SELECT 1 FROM token_block t WHERE t.run = r.id),"
        " EXISTS (SELECT 1 FROM block_mask t WHERE t.run = r.id),"
        " EXISTS (SELECT 1 FROM generation t WHERE t.run = r.id),"
        " EXISTS (SELECT 1 FROM layer_error t WHERE t.run = r.id),"
        " EXISTS (SELECT 1 FROM metric t WHERE t.run = r.id AND t.name = 'latency_predict'),"
        " (SELECT count(*) FROM worst_token t WHERE t.run = r.id), ended FROM run r WHERE key = ?");
    if (st == OK) {
        put_text(&c, key);
        st = cursor_step(&c, &more);
    }
    if (st == OK && more) {
        bool *const flags[] = {
            &out->tokens, &out->masks, &out->generations, &out->layer_errors, &out->recall};
        for (int i = 0; i < 5; i++) *flags[i] = get_int(&c) != 0;
        out->n_worst = get_range(&c, 0, INT_MAX);
        const char *ended = get_text(&c);
        snprintf(out->ended, sizeof out->ended, "%s", ended ? ended : "");
        st = cursor_check(&c);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status query_plan_status(struct store *s, const char *plan, size_t counts[6])
{
    memset(counts, 0, 6 * sizeof *counts);
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more;
    enum status st = cursor_open(
        &c, s, "SELECT state, count(*) FROM v_cells WHERE ?1 IS NULL OR plan = ?1 GROUP BY 1");
    if (st == OK) put_text(&c, plan);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        enum cell_state state = cell_state_of(get_name(&c));
        counts[state] = (size_t)get_int(&c);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status query_cells(struct store *s, const char *plan, struct cell_list *out)
{
    *out = (struct cell_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    bool more;
    enum status st = cursor_open(&c, s,
        "SELECT v.plan, v.key, v.slot, c.key_json, v.reason, v.state FROM v_cells v "
        "JOIN cell c ON c.plan = v.plan AND c.ordinal = v.ordinal "
        "WHERE ?1 IS NULL OR v.plan = ?1 ORDER BY v.plan, v.ordinal");
    if (st == OK) put_text(&c, plan);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct cell_record *r = rows_grow(&rows, out->n++, sizeof *r);
        r->plan = get_name(&c);
        r->key = get_name(&c);
        r->slot = get_name(&c);
        r->key_json = get_name(&c);
        r->reason = get_text(&c);
        r->state = cell_state_of(get_name(&c));
    }
    cursor_close(&c);
    out->rows = rows;
    if (st != OK) cell_list_clear(out);
    return st;
}
