#include "reports/tasks.h"

#include "base/xmalloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RULER's own bar is the score of Llama-2-7B at 4k tokens, 85.6 %. */
#define BAR .856
static const double NEAR_CHANCE = .1;

/* Questions of one group and one length. */
struct cell {
    const char *group; /* "" for none */
    int64_t length;    /* of the context as asked for; 0: questions at any place of a text */
    struct item_record *items;
    size_t n;
    double density, chance; /* means; density NAN when its samples are not there */
    double recall[4];       /* mean, 5th percentile, worst head, of the best; NAN: not measured */
};

struct cells {
    struct cell *at;
    size_t n;
};

/* Lengths are an axis where a written task or a needle has them; a chronicle's questions stand at
 * as many as there are questions. */
static bool on_grid(const struct item_record *r)
{
    return r->length > 0 && (r->expected || (r->group && str_starts_with(r->group, "needle")));
}

static struct cell *cell_of(struct cells *c, const char *group, int64_t length, size_t room)
{
    for (size_t i = 0; i < c->n; i++)
        if (!strcmp(c->at[i].group, group) && c->at[i].length == length) return &c->at[i];
    c->at = xrealloc(c->at, (c->n + 1) * sizeof *c->at);
    c->at[c->n] = (struct cell){
        .group = group, .length = length, .items = xcalloc(room, sizeof *c->at->items)};
    return &c->at[c->n++];
}

static double density_of(const struct run_view *v, int sample)
{
    for (size_t i = 0; i < v->samples.n; i++)
        if (v->samples.rows[i].sample == sample) return 1 - v->samples.rows[i].sparsity;
    return NAN;
}

static struct cells cells_open(const struct run_view *v)
{
    struct cells c = {0};
    for (size_t i = 0; i < v->items.n; i++) {
        const struct item_record *r = &v->items.rows[i];
        struct cell *x =
            cell_of(&c, r->group ? r->group : "", on_grid(r) ? r->length : 0, v->items.n);
        x->density += density_of(v, r->sample);
        const double recall[] = {r->recall, r->recall_p5, r->recall_group, r->recall_oracle};
        for (int k = 0; k < 4; k++) x->recall[k] += recall[k];
        x->chance += isnan(r->chance) ? 0 : r->chance;
        x->items[x->n++] = *r;
    }
    for (size_t i = 0; i < c.n; i++) {
        c.at[i].density /= (double)c.at[i].n;
        for (int k = 0; k < 4; k++) c.at[i].recall[k] /= (double)c.at[i].n;
        c.at[i].chance /= (double)c.at[i].n;
    }
    return c;
}

static void cells_clear(struct cells *c)
{
    for (size_t i = 0; i < c->n; i++) free(c->at[i].items);
    free(c->at);
}

static struct estimate score_of(const struct cell *c, const char *name)
{
    struct estimate e = {.value = NAN, .lo = NAN, .hi = NAN};
    const struct estimate_source s = {.items = c->items, .n_items = c->n};
    if (!estimate_metric(&s, name, &e)) e = (struct estimate){.value = NAN, .lo = NAN, .hi = NAN};
    return e;
}

bool tasks_tell_nothing(const struct estimate *dense, double chance)
{
    double lo = isnan(dense->lo) ? dense->value : dense->lo;
    return lo <= chance + NEAR_CHANCE;
}

static void add_column(struct table *t, const char *key, const char *name, enum table_number number,
    int digits, int weight)
{
    table_add_column(t,
        (struct table_column){
            .name = name, .key = key, .number = number, .digits = digits, .weight = weight});
}

static void add_row(struct table *t, const struct cell *c, bool recall, size_t *n_nothing)
{
    struct estimate dense = score_of(c, "score_dense"), sparse = score_of(c, "score_sparse");
    bool nothing = tasks_tell_nothing(&dense, c->chance);
    *n_nothing += nothing;
    table_text(t, *c->group ? c->group : NULL);
    if (c->length) table_int(t, c->length);
    else table_missing(t);
    table_int(t, (int64_t)c->n);
    table_real(t, dense.value);
    if (nothing) table_mark(t, "?");
    table_real(t, dense.lo);
    table_real(t, dense.hi);
    table_real(t, sparse.value);
    table_real(t, sparse.lo);
    table_real(t, sparse.hi);
    table_real(t, score_of(c, "answers_lost").value);
    table_real(t, score_of(c, "answers_gained").value);
    table_real(t, score_of(c, "answer_kl").value);
    table_real(t, c->density);
    for (int k = 0; recall && k < 4; k++) table_real(t, c->recall[k]);
}

/* All questions of a length, whose task is asked at the end: as RULER averages its tasks. */
struct by_length {
    int64_t length;
    struct estimate side[2]; /* dense, sparse */
};

static int compare_lengths(const void *a, const void *b)
{
    const struct by_length *x = a, *y = b;
    return (x->length > y->length) - (x->length < y->length);
}

static size_t lengths_of(const struct cells *c, struct by_length **out)
{
    size_t n = 0;
    *out = xcalloc(c->n + 1, sizeof **out);
    for (size_t i = 0; i < c->n; i++) {
        bool known = !c->at[i].length || strstr(c->at[i].group, " ask=");
        for (size_t k = 0; k < n && !known; k++) known = (*out)[k].length == c->at[i].length;
        if (known) continue;
        struct cell all = {.items = NULL};
        for (size_t k = i; k < c->n; k++) {
            const struct cell *x = &c->at[k];
            if (x->length != c->at[i].length || strstr(x->group, " ask=")) continue;
            all.items = xrealloc(all.items, (all.n + x->n) * sizeof *all.items);
            memcpy(all.items + all.n, x->items, x->n * sizeof *all.items);
            all.n += x->n;
        }
        (*out)[n++] = (struct by_length){
            c->at[i].length, {score_of(&all, "score_dense"), score_of(&all, "score_sparse")}};
        free(all.items);
    }
    qsort(*out, n, sizeof **out, compare_lengths);
    return n;
}

/* The largest length up to which all are at or above the bar, by the value (0) or an end of the
 * interval; 0: not even the shortest. */
static int64_t reach(const struct by_length *l, size_t n, int side, int end)
{
    int64_t most = 0;
    for (size_t i = 0; i < n; i++) {
        const struct estimate *e = &l[i].side[side];
        if (!((end < 0 ? e->lo : end > 0 ? e->hi : e->value) >= BAR)) break;
        most = l[i].length;
    }
    return most;
}

static void add_reach(struct str *out, int64_t length, int64_t shortest)
{
    if (length) str_addf(out, "%lld", (long long)length);
    else str_addf(out, "under %lld", (long long)shortest);
}

static void note_lengths(struct table *t, const struct cells *c)
{
    struct by_length *l;
    size_t n = lengths_of(c, &l);
    struct str note = {0};
    for (int side = 0; side < 2 && n > 1; side++) {
        str_addf(&note, "%s",
            side ? "; sparse " : "Effective length (all tasks at or above 85.6 %): dense ");
        add_reach(&note, reach(l, n, side, 0), l[0].length);
        str_add(&note, " [");
        add_reach(&note, reach(l, n, side, -1), l[0].length);
        str_add(&note, ", ");
        add_reach(&note, reach(l, n, side, 1), l[0].length);
        str_add(&note, "]");
    }
    if (note.len) table_note(t, str_get(&note));
    str_clear(&note);
    free(l);
}

/* The questions of one place, all groups and lengths; "" is the end. Only groups that are asked at
 * other places too. */
static struct cell asked_at(const struct cells *c, const char *place)
{
    struct cell all = {.group = place};
    for (size_t i = 0; i < c->n; i++) {
        const char *ask = strstr(c->at[i].group, " ask=");
        if (strcmp(ask ? ask + 5 : "", place)) continue;
        all.items = xrealloc(all.items, (all.n + c->at[i].n) * sizeof *all.items);
        memcpy(all.items + all.n, c->at[i].items, c->at[i].n * sizeof *all.items);
        all.n += c->at[i].n;
    }
    return all;
}

/* Questions that stand at the end, or those that do not. */
static struct item_list asked(const struct run_view *v, bool end)
{
    struct item_list out = {.rows = xcalloc(v->items.n + 1, sizeof *out.rows)};
    for (size_t i = 0; i < v->items.n; i++) {
        const struct item_record *r = &v->items.rows[i];
        if ((strstr(r->group ? r->group : "", " ask=") == NULL) == end) out.rows[out.n++] = *r;
    }
    return out;
}

static bool change_of(
    const struct run_view *before, const struct run_view *after, bool end, struct estimate *out)
{
    struct item_list a = asked(before, end), b = asked(after, end);
    const struct estimate_source x = {.items = a.rows, .n_items = a.n},
                                 y = {.items = b.rows, .n_items = b.n};
    bool known = a.n && b.n && estimate_change(&x, &y, "score_sparse", out);
    free(a.rows);
    free(b.rows);
    return known;
}

void tasks_places(const struct run_view *before, const struct run_view *after, struct str *out)
{
    struct estimate end, moved;
    if (!change_of(before, after, true, &end) || !change_of(before, after, false, &moved)) return;
    int winner = end.lo > 0 ? 1 : end.hi < 0 ? -1 : 0;
    bool there = winner > 0 ? moved.lo > 0 : moved.hi < 0;
    str_addf(out,
        "Asked at the end, %s scores %+.1f points [%+.1f, %+.1f] against %s; asked elsewhere "
        "%+.1f [%+.1f, %+.1f]%s",
        after->label, 100 * end.value, 100 * end.lo, 100 * end.hi, before->label, 100 * moved.value,
        100 * moved.lo, 100 * moved.hi,
        !winner     ? "."
            : there ? ": it is the same wherever the question stands."
                    : ": the better of them wins only where the question stands at the end.");
}

/* What is lost when the question moves. */
static void note_places(struct table *t, const struct cells *c)
{
    static const char *const places[] = {"middle", "start", "twice"};
    struct cell end = asked_at(c, "");
    struct estimate at_end = score_of(&end, "score_drop");
    for (int i = 0; i < 3 && end.n; i++) {
        struct cell there = asked_at(c, places[i]);
        struct estimate drop = score_of(&there, "score_drop"),
                        dense = score_of(&there, "score_dense");
        if (there.n && tasks_tell_nothing(&dense, 0)) {
            char note[200];
            snprintf(note, sizeof note,
                "Asked %s: the dense model scores %.1f %% [%.1f, %.1f] itself, which tells nothing "
                "of "
                "the method.",
                places[i], 100 * dense.value, 100 * dense.lo, 100 * dense.hi);
            table_note(t, note);
        } else if (there.n) {
            bool only_end = drop.lo > at_end.hi;
            char note[320];
            snprintf(note, sizeof note,
                "Asked %s, %.1f points are lost [%.1f, %.1f]; at the end %.1f [%.1f, %.1f]%s",
                places[i], 100 * drop.value, 100 * drop.lo, 100 * drop.hi, 100 * at_end.value,
                100 * at_end.lo, 100 * at_end.hi,
                only_end ? ": this method holds only where the question stands at the end." : ".");
            table_note(t, note);
        }
        free(there.items);
    }
    free(end.items);
}

struct table *tasks_table(const struct run_view *v)
{
    struct table *t = table_new("Tasks");
    struct cells c = cells_open(v);
    size_t n_nothing = 0;
    table_add_column(t, (struct table_column){.name = "task"});
    add_column(t, "length", "length", NUMBER_FIXED, 0, 5);
    add_column(t, "n", "n", NUMBER_FIXED, 0, 0);
    static const struct {
        const char *key, *name;
        int weight;
    } scores[] = {{"score_dense", "dense", 9}, {"score_dense_lo", "from", 2},
        {"score_dense_hi", "to", 2}, {"score_sparse", "sparse", 9}, {"score_sparse_lo", "from", 3},
        {"score_sparse_hi", "to", 3}, {"answers_lost", "lost", 6}, {"answers_gained", "gained", 1}};
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++)
        add_column(t, scores[i].key, scores[i].name, NUMBER_PERCENT, 1, scores[i].weight);
    add_column(t, "answer_kl", "KL on answers", NUMBER_FIXED, 4, 1);
    add_column(t, "density", "density", NUMBER_PERCENT, 1, 5);
    bool recall = metric_list_find(&v->metrics, "overall", "recall") != NULL;
    if (recall) {
        add_column(t, "recall", "recall", NUMBER_PERCENT, 1, 3);
        add_column(t, "recall_p5", "recall p5", NUMBER_PERCENT, 1, 2);
        add_column(t, "recall_group", "recall, worst head", NUMBER_PERCENT, 1, 2);
        add_column(t, "recall_oracle", "recall of the best tiles", NUMBER_PERCENT, 1, 2);
    }
    for (size_t i = 0; i < c.n; i++) add_row(t, &c.at[i], recall, &n_nothing);
    if (n_nothing) {
        char note[240];
        snprintf(note, sizeof note,
            "? %zu of %zu rows tell nothing: the dense model's interval reaches down to chance "
            "and a tenth, so a loss would not show.",
            n_nothing, c.n);
        table_note(t, note);
    }
    const struct metric_record *dense = metric_list_find(&v->metrics, "overall", "cut_dense"),
                               *sparse = metric_list_find(&v->metrics, "overall", "cut_sparse");
    if (dense && sparse && dense->mean + sparse->mean > 0) {
        char note[160];
        snprintf(note, sizeof note,
            "Written answers that their budget of tokens cut: dense %.0f, sparse %.0f of %lld.",
            dense->mean, sparse->mean, (long long)dense->n);
        table_note(t, note);
    }
    note_lengths(t, &c);
    note_places(t, &c);
    cells_clear(&c);
    return t;
}
