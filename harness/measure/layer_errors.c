#include "harness/measure/layer_errors.h"

#include "harness/measure/progress.h"
#include "base/arena.h"
#include "base/xmalloc.h"
#include "kernels/curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the rows of one run: SQLite would take as long to store them as the passes take. */
enum { MOST_ROW_BYTES = 1 << 30 };

/* Of one head against the dense output. */
struct sums {
    double diff, dense; /* sums of |o - o~| and |o| */
    double dot, dense_sq, other_sq;
};

struct errors {
    const struct evaluate_args *a;
    struct session *session;
    const struct sample *x;
    int n_layers, n_heads, head_dim;
    /* [n, hidden]: what enters the present layer in either run */
    float *dense_stream, *sparse_stream;
    float *dense, *isolated, *propagated; /* [n, n_heads, head_dim]: outputs of the present layer */
    struct sums *of_isolated, *of_propagated; /* [n_layers, n_heads] of the present sample */
    /* with bounds to judge, else NULL */
    struct head_error *judged; /* [n_layers, n_heads] of the present sample */
    double *ratios;            /* the same, over their bounds */
    struct over_bound_count over;
    float *packed, *row_ws; /* [n, head_dim] and [n] */
};

static void sums_add(struct sums *to, const struct sums *from)
{
    to->diff += from->diff;
    to->dense += from->dense;
    to->dot += from->dot;
    to->dense_sq += from->dense_sq;
    to->other_sq += from->other_sq;
}

static double l1_of(const struct sums *s) { return s->dense > 0 ? s->diff / s->dense : NAN; }

static double cosine_of(const struct sums *s)
{
    return s->dense_sq > 0 && s->other_sq > 0 ? s->dot / sqrt(s->dense_sq * s->other_sq) : NAN;
}

static void compare_head(const struct errors *e, int head, const float *other, struct sums *to)
{
    size_t width = (size_t)e->n_heads * (size_t)e->head_dim;
    for (int r = 0; r < e->x->n; r++) {
        size_t at = (size_t)r * width + (size_t)head * (size_t)e->head_dim;
        for (int i = 0; i < e->head_dim; i++) {
            double d = (double)e->dense[at + (size_t)i], o = (double)other[at + (size_t)i];
            to->diff += fabs(d - o);
            to->dense += fabs(d);
            to->dot += d * o;
            to->dense_sq += d * d;
            to->other_sq += o * o;
        }
    }
}

/* Packs what the attention gave. */
struct keep {
    float *to;
    int width, head_dim;
};

static enum status keep_output(void *ctx, const struct layer_view *view)
{
    const struct keep *k = ctx;
    const struct attn_args *a = view->attn;
    for (int r = 0; r < a->n_q; r++)
        for (int h = 0; h < a->n_heads; h++)
            memcpy(k->to + (size_t)(a->q_start + r) * (size_t)k->width + (size_t)(h * k->head_dim),
                (const float *)a->o + r * a->o_row + h * a->o_head,
                sizeof *k->to * (size_t)k->head_dim);
    return OK;
}

/* One layer from the stream that enters it; its output to `o`, and what leaves it over the stream
 * when `go_on`. */
static enum status run_layer(struct errors *e, int layer, const struct sparse_policy *policy,
    float *stream, bool go_on, float *o)
{
    struct keep keep = {o, e->n_heads * e->head_dim, e->head_dim};
    session_reset(e->session);
    return session_forward(e->session,
        &(struct forward_args){.tokens = e->x->ids,
            .n = e->x->n,
            .policy = policy,
            .first_layer = layer,
            .residual_in = layer ? stream : NULL,
            .end_layer = layer + 1,
            .capture_layer = layer + 1,
            .residual_out = go_on ? stream : NULL,
            .hook = keep_output,
            .hook_ctx = &keep,
            .stop = e->a->stop,
            .stop_ctx = e->a->stop_ctx});
}

/* False where the session runs the layer dense and in full: then it errs by nothing of its own. */
static bool errs(const struct errors *e, int layer)
{
    const struct sparse_policy *p = e->a->policy;
    if (!policy_acts(p) || !p->layer_on[layer] || e->x->n < p->min_sparse_tokens) return false;
    if (policy_is_eight(p)) return true;
    for (int h = 0; h < e->n_heads; h++)
        if (p->heads[layer * e->n_heads + h].is_sparse) return true;
    return false;
}

/* The error that the tuner bounds, of a sparse head; 0 where the dense output is all zero. */
static enum status judge_head(const struct errors *e, int layer, int head)
{
    size_t d = (size_t)e->head_dim, width = (size_t)e->n_heads * d;
    struct attn_args dense = {.dtype = DTYPE_F32,
        .n_q = e->x->n,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = e->head_dim,
        .o = e->dense + (size_t)head * d,
        .o_row = (ptrdiff_t)width,
        .o_head = (ptrdiff_t)d};
    struct output_error x = {0};
    bool zero = true;
    for (size_t r = 0; r < (size_t)e->x->n; r++) {
        memcpy(
            e->packed + r * d, e->isolated + r * width + (size_t)head * d, d * sizeof *e->packed);
        for (size_t i = 0; i < d; i++) zero &= e->dense[r * width + (size_t)head * d + i] == 0;
    }
    if (!zero) TRY(output_error_of(&dense, e->packed, e->row_ws, &x));
    e->judged[layer * e->n_heads + head] = head_error_of(&x);
    return OK;
}

static enum status measure_layers(struct errors *e, struct progress *progress, double done)
{
    size_t stream =
        sizeof(float) * (size_t)e->x->n * (size_t)e->a->model->weights.config.hidden_size;
    bool parted = false; /* both runs are one until the first layer that errs */
    for (int l = 0; l < e->n_layers; l++) {
        bool own = errs(e, l);
        if (own && !parted && l) memcpy(e->sparse_stream, e->dense_stream, stream);
        parted |= own;
        if (own) TRY(run_layer(e, l, e->a->policy, e->dense_stream, false, e->isolated));
        TRY(run_layer(e, l, NULL, e->dense_stream, true, e->dense));
        if (parted) TRY(run_layer(e, l, e->a->policy, e->sparse_stream, true, e->propagated));
        for (int h = 0; h < e->n_heads; h++) {
            if (own && e->judged && e->a->policy->heads[l * e->n_heads + h].is_sparse)
                TRY(judge_head(e, l, h));
            compare_head(e, h, own ? e->isolated : e->dense, &e->of_isolated[l * e->n_heads + h]);
            compare_head(
                e, h, parted ? e->propagated : e->dense, &e->of_propagated[l * e->n_heads + h]);
        }
        progress_update(progress, done + (double)e->x->n * (l + 1) / e->n_layers);
    }
    return OK;
}

static struct layer_error_record row_of(
    int sample, int layer, int head, const struct sums *isolated, const struct sums *propagated)
{
    return (struct layer_error_record){sample, layer, head, l1_of(isolated), cosine_of(isolated),
        l1_of(propagated), cosine_of(propagated)};
}

/* Heads that ran sparse or in eight bits in the sample; the others' isolated error is 0 by
 * construction. */
static size_t add_sample(const struct errors *e, int sample, struct layer_error_record *rows)
{
    size_t n = 0;
    for (int c = 0; c < e->n_layers * e->n_heads; c++)
        if (errs(e, c / e->n_heads) &&
            (e->a->policy->heads[c].is_sparse || policy_is_eight(e->a->policy)))
            rows[n++] = row_of(
                sample, c / e->n_heads, c % e->n_heads, &e->of_isolated[c], &e->of_propagated[c]);
    return n;
}

static size_t add_totals(const struct errors *e, const struct sums *isolated,
    const struct sums *propagated, struct layer_error_record *rows)
{
    size_t n = 0;
    for (int l = 0; l < e->n_layers; l++) {
        struct sums whole[2] = {0};
        for (int h = 0; h < e->n_heads; h++) {
            const struct sums *i = &isolated[l * e->n_heads + h],
                              *p = &propagated[l * e->n_heads + h];
            sums_add(&whole[0], i);
            sums_add(&whole[1], p);
            rows[n++] = row_of(-1, l, h, i, p);
        }
        rows[n++] = row_of(-1, l, -1, &whole[0], &whole[1]);
    }
    return n;
}

static enum status measure_all(
    struct errors *e, struct sums *all, struct layer_error_record *rows, size_t *n)
{
    size_t n_cells = (size_t)e->n_layers * (size_t)e->n_heads;
    struct sums *isolated = all, *propagated = all + n_cells;
    /* behind the totals */
    struct layer_error_record *of_samples = rows + n_cells + (size_t)e->n_layers;
    struct progress progress;
    double tokens = 0, done = 0;
    enum status st = OK;
    e->of_isolated = all + 2 * n_cells;
    e->of_propagated = all + 3 * n_cells;
    for (int i = 0; i < e->a->set->n_samples; i++) tokens += e->a->set->samples[i].n;
    progress_begin(&progress, "attribution", "tokens", tokens, e->a->quiet);
    for (int i = 0; i < e->a->set->n_samples && st == OK; i++) {
        e->x = &e->a->set->samples[i];
        memset(e->of_isolated, 0, 2 * n_cells * sizeof *all);
        st = measure_layers(e, &progress, done);
        if (st != OK) break;
        if (e->judged && e->x->n >= e->a->policy->min_sparse_tokens) {
            tuned_ratios(e->a->tuned, e->judged, 0, e->ratios);
            over_bound_add(&e->over, e->ratios);
        }
        *n += add_sample(e, i, of_samples + *n);
        for (size_t k = 0; k < n_cells; k++) {
            sums_add(&isolated[k], &e->of_isolated[k]);
            sums_add(&propagated[k], &e->of_propagated[k]);
        }
        done += e->x->n;
    }
    progress_end(&progress);
    if (st == OK) *n += add_totals(e, isolated, propagated, rows);
    return st;
}

/* Rows of samples: a head of each sample in which it runs sparse. */
static size_t count_rows(const struct errors *e)
{
    size_t n = 0, of_samples = 0;
    const struct sparse_policy *p = e->a->policy;
    for (int c = 0; c < e->n_layers * e->n_heads; c++)
        n += p->layer_on[c / e->n_heads] && p->heads[c].is_sparse;
    for (int i = 0; i < e->a->set->n_samples; i++)
        of_samples += e->a->set->samples[i].n >= p->min_sparse_tokens ? n : 0;
    return of_samples;
}

enum status layer_errors_measure(const struct evaluate_args *a, struct session *session,
    struct arena **arena, struct layer_error_record **rows, size_t *n, struct over_bound *over)
{
    const struct llama_config *c = &a->model->weights.config;
    struct errors e = {.a = a,
        .session = session,
        .n_layers = c->n_layers,
        .n_heads = c->n_heads,
        .head_dim = c->head_dim};
    size_t n_cells = (size_t)c->n_layers * (size_t)c->n_heads, longest = 0;
    for (int i = 0; i < a->set->n_samples; i++)
        if ((size_t)a->set->samples[i].n > longest) longest = (size_t)a->set->samples[i].n;
    size_t stream = longest * (size_t)c->hidden_size,
           output = longest * (size_t)c->n_heads * (size_t)c->head_dim;
    float *memory = malloc(sizeof *memory * (2 * stream + 3 * output));
    struct sums *all = calloc(4 * n_cells, sizeof *all);
    enum status st = OK;
    /* a .pt has none */
    const struct tuned *bounds =
        a->tuned && a->tuned->heads && a->tuned->pv_l1 > 0 ? a->tuned : NULL;
    size_t n_rows = count_rows(&e) + n_cells + (size_t)c->n_layers;
    *n = 0;
    *over = (struct over_bound){0};
    if (bounds) {
        e.judged = xcalloc(n_cells, sizeof *e.judged);
        e.ratios = xmalloc(n_cells * sizeof *e.ratios);
        over_bound_begin(&e.over, (int)n_cells);
        e.packed = malloc(longest * ((size_t)c->head_dim + 1) * sizeof *e.packed);
        e.row_ws = e.packed ? e.packed + longest * (size_t)c->head_dim : NULL;
    }
    if (n_rows * sizeof **rows > MOST_ROW_BYTES) {
        st = fail(ERR_MEMORY,
            "--attribution keeps a row for each sparse head of each sample: %zu for %d samples, "
            "%.2f GiB where %.0f are kept at "
            "most; lower --num-samples to %zu",
            n_rows, a->set->n_samples, (double)(n_rows * sizeof **rows) / 0x1p30,
            MOST_ROW_BYTES / 0x1p30,
            (size_t)a->set->n_samples * (MOST_ROW_BYTES / sizeof **rows) / n_rows);
    } else if (!memory || !all || (bounds && !e.packed)) {
        st = fail(ERR_MEMORY,
            "--attribution needs %.2f GiB for the streams and outputs of one sample; lower "
            "--max-length, or "
            "leave it out",
            (double)(sizeof *memory * (2 * stream + 3 * output)) / 0x1p30);
    } else {
        e.dense_stream = memory;
        e.sparse_stream = memory + stream;
        e.dense = memory + 2 * stream;
        e.isolated = e.dense + output;
        e.propagated = e.isolated + output;
        *rows = arena_alloc(arena, sizeof **rows * n_rows);
        st = measure_all(&e, all, *rows, n);
    }
    free(memory);
    free(all);
    if (bounds) *over = over_bound_end(&e.over);
    free(e.judged);
    free(e.ratios);
    free(e.packed);
    return st;
}
