#include "engine/tuner/optimise.h"

#include "base/beta.h"
#include "base/clock.h"
#include "engine/tuner/stream_share.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* From a cell's present rung to a higher one. */
struct step {
    int cell, rung;
};

struct sample_sums;

struct search {
    const struct optimise_args *a;
    const struct llama_config *c;
    struct optimise_result *r;
    struct session *session;
    struct sparse_policy policy;
    float **dense; /* [n_samples][n, hidden] behind the final norm */
    /* [n_samples][n, hidden] entering the present layer; only samples searched on */
    float **stream;
    float *sparse;                /* [longest, hidden] */
    int32_t *next;                /* [longest] */
    struct token_metrics *tokens; /* [longest] */
    struct head_ledger *ledger;   /* [n_layers, n_heads] */
    struct sample_sums *sums;     /* [n_samples] */
    struct step *path;            /* [n_cells * n_rungs] */
    int *at;                      /* [n_cells] rungs of the policy, -1 dense */
    int n_samples;
    double work_done, work_all; /* for progress, in forward passes */
};

static const struct head_params dense_head = {1, 1, 50, false, 0, 0, 0};

double damage_used(const struct damage *d, const struct optimise_target *t)
{
    double kl = d->kl / t->most.kl, cosine = d->cosine / t->most.cosine,
           ppl = d->log_ppl / t->most.log_ppl;
    return fmax(0, fmax(kl, fmax(cosine, ppl)));
}

static struct damage damage_of(double cosine, double kl, double log_ppl)
{
    return (struct damage){cosine, kl, log_ppl};
}

enum optimise_judgement optimise_judge(
    const struct optimise_point *p, const struct optimise_target *t)
{
    if (isnan(p->hi.kl)) return TARGET_OPEN;
    if (damage_used(&p->hi, t) <= 1) return TARGET_HOLDS;
    return damage_used(&p->lo, t) > 1 ? TARGET_BROKEN : TARGET_OPEN;
}

static void advance_progress(struct search *s, double passes)
{
    s->work_done += passes;
    if (s->a->progress) s->a->progress(s->a->progress_ctx, fmin(1, s->work_done / s->work_all));
}

static const struct tuned_head *rung_heads(const struct search *s, int rung, int cell)
{
    return &s->a->rungs[rung].heads[cell * s->r->heads_each];
}

static int layer_of(const struct search *s, int cell)
{
    return cell * s->r->heads_each / s->c->n_heads;
}
static bool may_be_sparse(const struct search *s, int cell)
{
    return s->a->policy->layer_on[layer_of(s, cell)];
}

/* Put s->at into the policy. */
static void set_policy(struct search *s)
{
    for (int l = 0; l < s->c->n_layers; l++) s->policy.layer_on[l] = false;
    for (int i = 0; i < s->r->n_cells; i++) {
        s->policy.layer_on[layer_of(s, i)] |= s->at[i] >= 0;
        for (int h = 0; h < s->r->heads_each; h++)
            s->policy.heads[i * s->r->heads_each + h] =
                s->at[i] >= 0 ? rung_heads(s, s->at[i], i)[h].params : dense_head;
    }
}

/* Sums of one sample: what is divided by its positions, and by those that have a next token. */
struct sample_sums {
    double cosine, kl, log_ppl, n, n_next;
};

static void range_of(const struct search *s, enum optimise_on on, int *first, int *end)
{
    const struct optimise_args *a = s->a;
    *first = on == ON_SEARCH ? 0 : on == ON_CHECK ? a->n_search : a->n_search + a->n_check;
    *end = on == ON_SEARCH ? a->n_search : on == ON_CHECK ? a->n_search + a->n_check : s->n_samples;
}

/* A ratio of sums over samples and half its interval: residuals of the ratio, Student's t (METHOD
 * 6). */
static double half_width(const double *x, const double *w, int n, double *ratio)
{
    double sum = 0, weight = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i], weight += w[i];
    *ratio = sum / weight;
    for (int i = 0; i < n; i++) squares += (x[i] - *ratio * w[i]) * (x[i] - *ratio * w[i]);
    return n > 1 ? student_quantile(.975, n - 1) * sqrt(squares * n / (n - 1)) / weight : NAN;
}

static enum status summarise_samples(
    const struct sample_sums *all, int n, struct optimise_point *out)
{
    double *columns = malloc(sizeof *columns * 5 * (size_t)n);
    if (!columns) return fail(ERR_MEMORY, "no memory for %d samples", n);
    double *cosine = columns, *kl = columns + n, *ppl = columns + 2 * n, *w = columns + 3 * n,
           *w_next = columns + 4 * n;
    for (int i = 0; i < n; i++) {
        cosine[i] = all[i].cosine;
        kl[i] = all[i].kl;
        ppl[i] = all[i].log_ppl;
        w[i] = all[i].n;
        w_next[i] = all[i].n_next;
    }
    struct damage d;
    double c = half_width(cosine, w, n, &d.cosine), k = half_width(kl, w, n, &d.kl),
           p = half_width(ppl, w_next, n, &d.log_ppl);
    out->damage = d;
    out->lo = damage_of(d.cosine - c, d.kl - k, d.log_ppl - p);
    out->hi = damage_of(d.cosine + c, d.kl + k, d.log_ppl + p);
    free(columns);
    return OK;
}

/* One kind of samples under the policy, begun at `layer` from the stored stream when it is above 0.
 * Compared where the session runs, as `eval` does. */
static enum status run_samples(
    struct search *s, enum optimise_on on, int layer, struct optimise_point *out)
{
    size_t n_cells = (size_t)s->c->n_layers * (size_t)s->c->n_heads;
    struct head_ledger total = {0};
    int first, end;
    range_of(s, on, &first, &end);
    memset(s->ledger, 0, sizeof *s->ledger * n_cells);
    for (int i = first; i < end; i++) {
        const struct tune_sample *x = &s->a->samples[i];
        struct tensor_sums unused = {0};
        struct sample_sums *sums = &s->sums[i - first];
        *sums = (struct sample_sums){.n = x->n};
        session_reset(s->session);
        TRY(session_forward(s->session,
            &(struct forward_args){.tokens = x->ids,
                .n = x->n,
                .policy = &s->policy,
                .ledger = s->ledger,
                .first_layer = layer,
                .residual_in = layer ? s->stream[i] : NULL,
                .hidden = s->sparse,
                .stop = s->a->stop}));
        for (int p = 0; p < x->n; p++) s->next[p] = p + 1 < x->n ? x->ids[p + 1] : -1;
        enum status st = session_compare(s->session, x->n, rows_of_host(s->dense[i]),
            rows_of_host(s->sparse), s->next, s->tokens, &unused);
        if (st != OK) return fail_context(st, "%s", x->name);
        for (int p = 0; p < x->n; p++) {
            const struct token_metrics *m = &s->tokens[p];
            sums->cosine += 1 - (double)m->cosine;
            sums->kl += (double)m->kl;
            if (m->next < 0) continue;
            sums->log_ppl += (double)m->nll_sparse - (double)m->nll_dense;
            sums->n_next++;
        }
        advance_progress(s, 1.5 - (double)layer / s->c->n_layers);
    }
    for (size_t i = 0; i < n_cells; i++) head_ledger_add(&total, &s->ledger[i]);
    out->sparsity = ledger_sparsity(&total);
    return summarise_samples(s->sums, end - first, out);
}

static enum status dense_pass(struct search *s)
{
    for (int i = 0; i < s->n_samples; i++) {
        session_reset(s->session);
        TRY(session_forward(s->session,
            &(struct forward_args){.tokens = s->a->samples[i].ids,
                .n = s->a->samples[i].n,
                .hidden = s->dense[i],
                .stop = s->a->stop}));
        advance_progress(s, 1);
    }
    return OK;
}

/* Sensitivity. */

/* Rung of the i-th probe: spread evenly, the last rung among them. */
static int probe_rung(const struct search *s, int i)
{
    int n = s->a->n_rungs, k = s->a->n_probes;
    return k == 1 ? n - 1 : (int)lround((double)i * (n - 1) / (k - 1));
}

/* Damage goes about as a power of the bound: a line between logarithms, and a square below the
 * first probe. */
static double between(double lo, double hi, double bound_lo, double bound_hi, double bound)
{
    if (!(lo > 0) || !(hi > 0)) return lo + (hi - lo) * (bound - bound_lo) / (bound_hi - bound_lo);
    return exp(log(lo) + log(hi / lo) * log(bound / bound_lo) / log(bound_hi / bound_lo));
}

static void interpolate(struct search *s, struct cell_rung *row)
{
    const struct tuned *rungs = s->a->rungs;
    for (int r = 0; r < s->a->n_rungs; r++) {
        if (row[r].measured) continue;
        int hi = r, lo = r;
        while (!row[hi].measured) hi++; /* the last rung is */
        while (lo >= 0 && !row[lo].measured) lo--;
        const struct damage *y = &row[hi].damage;
        double b = rungs[r].l1, by = rungs[hi].l1, fall = b / by * (b / by);
        row[r].damage = (struct damage){y->cosine * fall, y->kl * fall, y->log_ppl * fall};
        if (lo < 0) continue;
        const struct damage *x = &row[lo].damage;
        double bx = rungs[lo].l1;
        row[r].damage = (struct damage){between(x->cosine, y->cosine, bx, by, b),
            between(x->kl, y->kl, bx, by, b), between(x->log_ppl, y->log_ppl, bx, by, b)};
    }
}

static double cell_sparsity(const struct search *s, int rung, int cell)
{
    double sum = 0;
    const struct tuned_head *heads = rung_heads(s, rung, cell);
    for (int h = 0; h < s->r->heads_each; h++)
        sum += heads[h].params.is_sparse ? heads[h].sparsity : 0;
    return sum / s->r->heads_each;
}

static enum status probe_cell(struct search *s, int cell)
{
    struct cell_rung *row = &s->r->cells[cell * s->a->n_rungs];
    for (int r = 0; r < s->a->n_rungs; r++) row[r].sparsity = cell_sparsity(s, r, cell);
    for (int i = 0; i < s->a->n_probes; i++) {
        int r = probe_rung(s, i);
        struct optimise_point p = {0};
        if (row[r].measured) continue;
        s->at[cell] = r;
        set_policy(s);
        if (row[r].sparsity > 0) TRY(run_samples(s, ON_SEARCH, layer_of(s, cell), &p));
        row[r].damage = p.damage;
        row[r].measured = true;
    }
    s->at[cell] = -1;
    interpolate(s, row);
    return OK;
}

/* The same price without running cells: what the errors on the tuning samples do to the stream.
 * Rows that are far off count beside the mean square (METHOD 5), hence rmse · tail. */
static void price_by_stream(struct search *s, int cell)
{
    for (int r = 0; r < s->a->n_rungs; r++) {
        struct cell_rung *x = &s->r->cells[cell * s->a->n_rungs + r];
        const struct tuned_head *heads = rung_heads(s, r, cell);
        double sum = 0;
        for (int h = 0; h < s->r->heads_each; h++) {
            double share = s->r->share[cell * s->r->heads_each + h];
            if (heads[h].params.is_sparse)
                sum += share * share * heads[h].tune.rmse * heads[h].tune.tail;
        }
        x->sparsity = cell_sparsity(s, r, cell);
        x->damage = (struct damage){sum, sum, sum};
    }
}

struct watch {
    struct stream_share *share;
    const float *stream;
};

static enum status watch_layer(void *ctx, const struct layer_view *view)
{
    struct watch *w = ctx;
    stream_share_add(w->share, w->stream, view->attn);
    return OK;
}

/* Streams of the samples searched on go through the layer; its shares are taken on the way. */
static enum status pass_layer(struct search *s, int layer, struct stream_share *share)
{
    for (int i = 0; i < s->a->n_search; i++) {
        const struct tune_sample *x = &s->a->samples[i];
        struct watch w = {share, s->stream[i]};
        struct forward_args f = {.tokens = x->ids,
            .n = x->n,
            .first_layer = layer,
            .end_layer = layer + 1,
            .residual_in = layer ? s->stream[i] : NULL,
            .residual_out = s->stream[i],
            .stop = s->a->stop};
        if (share && !layer) { /* the embeddings first */
            session_reset(s->session);
            TRY(session_forward(s->session, &f));
        }
        f.capture_layer = layer + 1;
        f.hook = share ? watch_layer : NULL;
        f.hook_ctx = &w;
        session_reset(s->session);
        TRY(session_forward(s->session, &f));
    }
    return OK;
}

static enum status share_layer(struct search *s, int layer)
{
    struct stream_share *share;
    TRY(stream_share_open(&share, s->a->weights, layer, s->a->par));
    enum status st = pass_layer(s, layer, share);
    stream_share_get(share, s->r->share + layer * s->c->n_heads);
    stream_share_close(&share);
    return st;
}

static enum status sensitivity_pass(struct search *s)
{
    int each = s->r->n_cells / s->c->n_layers;
    for (int l = 0; l < s->c->n_layers; l++) {
        bool on = s->a->policy->layer_on[l];
        for (int i = l * each; i < (l + 1) * each && on && !s->a->by_stream; i++)
            TRY(probe_cell(s, i));
        if (on && s->a->by_stream) {
            TRY(share_layer(s, l));
            for (int i = l * each; i < (l + 1) * each; i++) price_by_stream(s, i);
        } else if (l + 1 < s->c->n_layers) {
            TRY(pass_layer(s, l, NULL));
        }
    }
    return OK;
}

/* The path. */

/* Its share of the target, every limit counting. */
static double cost(const struct search *s, const struct damage *d)
{
    const struct damage *most = &s->a->target.most;
    return fmax(0, d->cosine) / most->cosine + fmax(0, d->kl) / most->kl +
        fmax(0, d->log_ppl) / most->log_ppl;
}

/* The step with the most sparsity per cost from where the cells are; false at the end. */
static bool best_step(const struct search *s, const int *at, struct step *out)
{
    double best = -1;
    for (int i = 0; i < s->r->n_cells; i++) {
        if (!may_be_sparse(s, i)) continue;
        const struct cell_rung *row = &s->r->cells[i * s->a->n_rungs];
        double from = at[i] >= 0 ? row[at[i]].sparsity : 0,
               paid = at[i] >= 0 ? cost(s, &row[at[i]].damage) : 0;
        for (int r = at[i] + 1; r < s->a->n_rungs; r++) {
            double gain = row[r].sparsity - from,
                   price = fmax(cost(s, &row[r].damage) - paid, 1e-9);
            if (gain <= 0 || gain / price <= best) continue;
            best = gain / price;
            *out = (struct step){i, r};
        }
    }
    return best > 0;
}

static void make_path(struct search *s)
{
    int *at = s->at;
    for (int i = 0; i < s->r->n_cells; i++) at[i] = -1;
    s->r->n_steps = 0;
    struct step step;
    while (best_step(s, at, &step)) {
        s->path[s->r->n_steps++] = step;
        at[step.cell] = step.rung;
    }
}

static void stand_at(struct search *s, int step)
{
    for (int i = 0; i < s->r->n_cells; i++) s->at[i] = -1;
    for (int i = 0; i < step; i++) s->at[s->path[i].cell] = s->path[i].rung;
    set_policy(s);
}

/* Every cell at one rung. */
static void stand_uniform(struct search *s, int rung)
{
    for (int i = 0; i < s->r->n_cells; i++) s->at[i] = may_be_sparse(s, i) ? rung : -1;
    set_policy(s);
}

/* Runs where the cells stand; *index (may be NULL): of the point. */
static enum status measure_point(
    struct search *s, int step, int rung, enum optimise_on on, int *index)
{
    struct optimise_result *r = s->r;
    struct optimise_point *grown = realloc(r->points, sizeof *grown * (size_t)(r->n_points + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for %d points", r->n_points + 1);
    r->points = grown;
    struct optimise_point p = {.step = step, .rung = rung, .on = on};
    TRY(run_samples(s, on, 0, &p));
    p.holds = damage_used(&p.damage, &s->a->target) <= 1;
    if (index) *index = r->n_points;
    r->points[r->n_points++] = p;
    return OK;
}

/* The last step in (holds, breaks) that holds, by bisection; both ends are known. *index: its
 * point, untouched when it is `holds` itself. */
static enum status bisect(
    struct search *s, int holds, int breaks, enum optimise_on on, int *step, int *index)
{
    while (breaks - holds > 1) {
        int middle = holds + (breaks - holds) / 2, at;
        stand_at(s, middle);
        TRY(measure_point(s, middle, -1, on, &at));
        if (s->r->points[at].holds) {
            holds = middle;
            *index = at;
        } else {
            breaks = middle;
        }
    }
    *step = holds;
    return OK;
}

/* Of all points that hold on check samples, whichever way they came about. */
static void take_sparsest(struct optimise_result *r)
{
    r->taken = -1;
    for (int i = 0; i < r->n_points; i++) {
        const struct optimise_point *p = &r->points[i];
        if (p->on != ON_CHECK || !p->holds || !(p->sparsity > 0)) continue;
        if (r->taken < 0 || p->sparsity > r->points[r->taken].sparsity) r->taken = i;
    }
}

/* Along the path: as far as it holds on search samples, then back, and forth again between, on
 * check samples. */
static enum status walk(struct search *s)
{
    int step, index = -1, breaks;
    /* dense holds; beyond the end nothing is */
    TRY(bisect(s, 0, s->r->n_steps + 1, ON_SEARCH, &step, &index));
    breaks = step + 1;
    for (int back = 1; step > 0; back *= 2) {
        stand_at(s, step);
        TRY(measure_point(s, step, -1, ON_CHECK, &index));
        if (s->r->points[index].holds) break;
        breaks = step;
        step = step == 1 ? 0 : step - back < 1 ? 1 : step - back;
    }
    return step > 0 ? bisect(s, step, breaks, ON_CHECK, &step, &index) : OK;
}

/* One bound for all at the cosine of what was taken, on the same samples. 1 − cosine goes about as
 * the square of the error and sparsity about linearly, so between two rungs sparsity is taken
 * linear in its root. */
static void compare_uniform(struct optimise_result *r)
{
    double root = r->taken >= 0 ? sqrt(fmax(0, r->points[r->taken].damage.cosine)) : 0,
           before_root = 0, before_sparsity = 0;
    r->uniform_sparsity = NAN;
    for (int i = 0; i < r->n_points; i++) {
        const struct optimise_point *p = &r->points[i];
        if (p->step >= 0 || p->on != ON_CHECK) continue;
        double here = sqrt(fmax(0, p->damage.cosine));
        if (isnan(r->uniform_sparsity) && here >= root && here > before_root)
            r->uniform_sparsity = before_sparsity +
                (p->sparsity - before_sparsity) * (root - before_root) / (here - before_root);
        before_root = here;
        before_sparsity = p->sparsity;
    }
}

static enum status run_uniform(struct search *s)
{
    for (int rung = 0; rung < s->a->n_rungs; rung++) {
        stand_uniform(s, rung);
        TRY(measure_point(s, -1, rung, ON_CHECK, NULL));
    }
    return OK;
}

/* The sparsest point that holds on the check samples, and the one look at those held out. */
static enum status take(struct search *s)
{
    struct optimise_result *r = s->r;
    take_sparsest(r);
    compare_uniform(r);
    int step = r->taken >= 0 ? r->points[r->taken].step : 0,
        rung = r->taken >= 0 ? r->points[r->taken].rung : -1;
    if (step >= 0) stand_at(s, step);
    else stand_uniform(s, rung);
    memcpy(r->rung, s->at, sizeof *r->rung * (size_t)r->n_cells);
    return r->taken >= 0 ? measure_point(s, step, rung, ON_HELD_OUT, &r->chosen) : OK;
}

static enum status refuse(const struct optimise_args *a)
{
    const struct damage *m = &a->target.most;
    if (!(m->cosine > 0 && m->kl > 0 && m->log_ppl > 0) ||
        (isinf(m->cosine) && isinf(m->kl) && isinf(m->log_ppl)))
        return fail(ERR_ARG,
            "no target: give a lowest cosine, a highest KL divergence or a highest increase of "
            "perplexity");
    if (a->n_rungs < 1 || a->n_probes < 1 || a->n_probes > a->n_rungs)
        return fail(ERR_ARG,
            "%d rungs and %d probes: expected at least one, and no more probes than rungs",
            a->n_rungs, a->n_probes);
    for (int i = 1; i < a->n_rungs; i++)
        if (!(a->rungs[i].l1 > a->rungs[i - 1].l1))
            return fail(ERR_ARG,
                "rung %d has bound %g, expected more than %g, that of the rung before", i,
                a->rungs[i].l1, a->rungs[i - 1].l1);
    if (a->n_search < 1 || a->n_check < 1 || a->n_held_out < 1)
        return fail(ERR_ARG,
            "%d samples to search on, %d to check, %d held out: expected at least one of each",
            a->n_search, a->n_check, a->n_held_out);
    return OK;
}

static enum status prepare(struct search *s)
{
    const struct optimise_args *a = s->a;
    const struct llama_config *c = s->c;
    int longest = 0, n_cells = s->r->n_cells, n_on = 0;
    size_t width = (size_t)c->hidden_size * sizeof(float);
    s->n_samples = a->n_search + a->n_check + a->n_held_out;
    s->dense = calloc((size_t)s->n_samples, sizeof *s->dense);
    s->stream = calloc((size_t)s->n_samples, sizeof *s->stream);
    s->sums = malloc((size_t)s->n_samples * sizeof *s->sums);
    bool ok = s->dense && s->stream && s->sums;
    for (int i = 0; i < s->n_samples && ok; i++) {
        size_t n = (size_t)a->samples[i].n;
        if (a->samples[i].n > longest) longest = a->samples[i].n;
        s->dense[i] = malloc(n * width);
        if (i < a->n_search) s->stream[i] = malloc(n * width);
        ok = s->dense[i] && (s->stream[i] || i >= a->n_search);
    }
    for (int i = 0; i < n_cells; i++) n_on += may_be_sparse(s, i);
    s->sparse = malloc((size_t)longest * width);
    s->next = malloc((size_t)longest * sizeof *s->next);
    s->tokens = malloc((size_t)longest * sizeof *s->tokens);
    s->ledger = calloc((size_t)c->n_layers * (size_t)c->n_heads, sizeof *s->ledger);
    s->path = malloc((size_t)n_cells * (size_t)a->n_rungs * sizeof *s->path);
    s->at = malloc((size_t)n_cells * sizeof *s->at);
    s->r->cells = calloc((size_t)n_cells * (size_t)a->n_rungs, sizeof *s->r->cells);
    s->r->rung = malloc((size_t)n_cells * sizeof *s->r->rung);
    s->r->share = a->by_stream
        ? malloc((size_t)c->n_layers * (size_t)c->n_heads * sizeof *s->r->share)
        : NULL;
    for (int i = 0; s->r->share && i < c->n_layers * c->n_heads; i++) s->r->share[i] = NAN;
    ok = ok && (s->r->share || !a->by_stream) && s->sparse && s->next && s->tokens && s->ledger &&
        s->path && s->at && s->r->cells && s->r->rung;
    if (!ok)
        return fail(ERR_MEMORY,
            "no memory to optimise on %d samples of up to %d tokens; use fewer or shorter ones",
            s->n_samples, longest);
    for (int i = 0; i < n_cells; i++) s->at[i] = -1;
    s->work_all = s->n_samples + a->n_search * (a->by_stream ? 2 : n_on * a->n_probes + 1.) +
        1.5 *
            (a->n_search * log2(n_on * a->n_rungs + 2) + a->n_check * (a->n_rungs + 3) +
                a->n_held_out);
    TRY(policy_copy(&s->policy, a->policy));
    return session_open(&s->session, a->weights, a->par, longest, 0, a->impl);
}

static void release(struct search *s)
{
    session_close(&s->session);
    policy_clear(&s->policy);
    for (int i = 0; s->dense && s->stream && i < s->n_samples; i++) {
        free(s->dense[i]);
        free(s->stream[i]);
    }
    free(s->dense);
    free(s->stream);
    free(s->sparse);
    free(s->next);
    free(s->tokens);
    free(s->ledger);
    free(s->sums);
    free(s->path);
    free(s->at);
}

enum status optimise(const struct optimise_args *a, struct optimise_result *out)
{
    const struct llama_config *c = &a->weights->config;
    int each = a->by_head ? 1 : c->n_heads;
    *out = (struct optimise_result){.n_layers = c->n_layers,
        .n_cells = c->n_layers * c->n_heads / each,
        .heads_each = each,
        .n_rungs = a->n_rungs,
        .taken = -1,
        .chosen = -1};
    TRY(refuse(a));
    struct search s = {.a = a, .c = c, .r = out};
    int64_t t0 = clock_ns(), t1 = t0, t2 = t0;
    enum status st = prepare(&s);
    if (st == OK) st = dense_pass(&s);
    if (st == OK) st = sensitivity_pass(&s);
    t1 = clock_ns();
    if (st == OK) {
        make_path(&s);
        st = walk(&s);
    }
    t2 = clock_ns();
    if (st == OK) st = run_uniform(&s);
    if (st == OK) st = take(&s);
    out->sensitivity_s = (double)(t1 - t0) * 1e-9;
    out->search_s = (double)(t2 - t1) * 1e-9;
    out->uniform_s = (double)(clock_ns() - t2) * 1e-9;
    release(&s);
    if (st != OK) optimise_clear(out);
    return st;
}

void optimise_clear(struct optimise_result *r)
{
    free(r->cells);
    free(r->rung);
    free(r->share);
    free(r->points);
    *r = (struct optimise_result){.taken = -1, .chosen = -1};
}

/* What the layer's cells cost alone, added up, at the first measured rung from the middle on: the
 * same for all. */
static void note_cost(
    const struct optimise_result *r, const struct tuned *rungs, int layer, struct layer_cost *out)
{
    int each = r->n_cells / r->n_layers, rung = r->n_rungs / 2;
    const struct cell_rung *first = &r->cells[layer * each * r->n_rungs];
    while (!first[rung].measured && rung + 1 < r->n_rungs) rung++;
    if (!first[rung].measured) return;
    struct damage sum = {0};
    double sparsity = 0;
    for (int i = 0; i < each; i++) {
        const struct cell_rung *x = &first[i * r->n_rungs + rung];
        sum = (struct damage){
            sum.cosine + x->damage.cosine, sum.kl + x->damage.kl, sum.log_ppl + x->damage.log_ppl};
        sparsity += x->sparsity / each;
    }
    *out = (struct layer_cost){rungs[rung].l1, sparsity, 1 - sum.cosine, sum.kl, exp(sum.log_ppl)};
}

enum status optimise_apply(
    const struct optimise_result *r, const struct tuned *rungs, const char *goal, struct tuned *out)
{
    const struct tuned *first = &rungs[0];
    struct tuned_head *heads;
    TRY(tuned_init(out, first->n_layers, first->n_heads));
    heads = out->heads;
    *out = *first;
    out->heads = heads;
    /* shares are no end-to-end costs */
    out->costs = r->share ? NULL : calloc((size_t)r->n_layers, sizeof *out->costs);
    if (!out->costs && !r->share) {
        tuned_clear(out);
        return fail(ERR_MEMORY, "no memory for the costs of %d layers", r->n_layers);
    }
    out->verified = true;
    snprintf(out->goal, sizeof out->goal, "%s", goal);
    for (int l = 0; l < r->n_layers && out->costs; l++) note_cost(r, rungs, l, &out->costs[l]);
    for (int i = 0; i < r->n_cells; i++) {
        int rung = r->rung[i];
        const struct tuned *from = &rungs[rung >= 0 ? rung : 0];
        if (rung >= 0) out->verified &= from->verified;
        if (rung >= 0 && from->l1 > out->l1) out->l1 = from->l1, out->pv_l1 = from->pv_l1;
        for (int h = i * r->heads_each; h < (i + 1) * r->heads_each; h++) {
            struct tuned_head *x = &heads[h];
            *x = from->heads[h];
            if (!x->in_range) continue;
            if (rung >= 0) {
                x->l1 = from->l1;
                x->pv_l1 = from->pv_l1;
                continue;
            }
            *x = (struct tuned_head){.params = dense_head, .in_range = true};
            snprintf(x->reason, sizeof x->reason, "the target leaves no room for this %s",
                r->heads_each == 1 ? "head" : "layer");
        }
    }
    return OK;
}
