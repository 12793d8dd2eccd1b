#include "harness/sweep/plan.h"

#include "harness/sweep/plan_numbers.h"
#include "kernels/eight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CELLS = 1000000 };

/* Words. */

struct method_choice {
    const char *name;
    double topk;
    int window;
};

struct layer_choice {
    const char *text;
    int first;
};

struct axes_values {
    struct arena **arena;
    int n_layers, n_heads;
    struct numbers lengths, l1, pv, theta, tau, lambda, heads;
    struct method_choice methods[64];
    struct block_shape blocks[8];
    struct layer_choice *layers;
    enum tune_rule rules[8];
    enum precision of_qk[3], of_pv[3];
    int n_methods, n_blocks, n_layer_choices, n_rules, n_qk, n_pv;
};

static enum status method_item(void *ctx, const char *axis, const char *item)
{
    struct axes_values *v = ctx;
    if (v->n_methods == 64) return fail(ERR_ARG, "%s: more than 64 methods", axis);
    const char *colon = strchr(item, ':');
    size_t n = colon ? (size_t)(colon - item) : strlen(item);
    struct method_choice m = {.name = NULL};
    const struct mask_method *method = NULL;
    char name[256];
    snprintf(name, sizeof name, "%.*s", (int)n, item);
    if (strcmp(name, "dense") != 0 && mask_method_parse(name, &method) != OK)
        return fail(ERR_ARG,
            "%s: %s; a fraction of tiles stands behind a colon, as in oracle:.5 or window:1024",
            axis, status_message());
    m.name = strcmp(name, "topk") == 0 ? "topk" : method ? method->name : "dense";
    const char *rest = colon ? colon + 1 : "";
    struct decimal exact = {0, 0};
    bool number = colon && decimal_read(&rest, &exact) && !*rest;
    double value = decimal_value(exact);
    if (colon && method == &mask_sparge && strcmp(m.name, "topk") != 0)
        return fail(ERR_ARG,
            "%s: sparge takes no value, found \"%s\"; its ranking with a fraction of tiles is "
            "topk%s",
            axis, item, colon);
    bool fraction = strcmp(m.name, "topk") == 0 || (colon && method && method->ranked);
    if (fraction) {
        if (!number || !(value > 0 && value <= 1))
            return fail(ERR_ARG, "%s: found \"%s\", expected a fraction of tiles, e.g. %s:.5", axis,
                item, m.name);
        m.topk = value;
    } else if (method == &mask_window) {
        if (!number || value < 1 || value > 1 << 30 || value != floor(value))
            return fail(ERR_ARG, "%s: found \"%s\", expected at least 1 token, e.g. window:1024",
                axis, item);
        m.window = (int)value;
    } else if (colon) {
        return fail(ERR_ARG, "%s: %s takes no value, found \"%s\"", axis, m.name, item);
    }
    v->methods[v->n_methods++] = m;
    return OK;
}

static enum status block_item(void *ctx, const char *axis, const char *item)
{
    struct axes_values *v = ctx;
    if (v->n_blocks == 8) return fail(ERR_ARG, "%s: more than 8 shapes", axis);
    return block_shape_parse(item, &v->blocks[v->n_blocks++]);
}

static enum status rule_item(void *ctx, const char *axis, const char *item)
{
    struct axes_values *v = ctx;
    if (v->n_rules == 8) return fail(ERR_ARG, "%s: more than 8 rules", axis);
    return tune_rule_parse(item, &v->rules[v->n_rules++]);
}

/* Each once: there are no more. */
static enum status precision_item(void *ctx, const char *axis, const char *item)
{
    struct axes_values *v = ctx;
    bool qk = strcmp(axis, "--qk") == 0;
    enum precision *list = qk ? v->of_qk : v->of_pv, p;
    int *n = qk ? &v->n_qk : &v->n_pv;
    if (!precision_parse(item, &p) || (!qk && p == PRECISION_INT8))
        return fail(
            ERR_ARG, "%s: found \"%s\", expected full%s or fp8", axis, item, qk ? ", int8" : "");
    for (int i = 0; i < *n; i++)
        if (list[i] == p) return OK;
    list[(*n)++] = p;
    return OK;
}

static enum status add_layers(struct axes_values *v, const struct sparse_policy *p)
{
    if (v->n_layer_choices == PLAN_MAX_VALUES)
        return fail(ERR_ARG, "--layers: more than %d values", PLAN_MAX_VALUES);
    struct layer_choice *grown =
        realloc(v->layers, sizeof *grown * (size_t)(v->n_layer_choices + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for the layers of a plan");
    char text[LAYERS_TEXT_SIZE];
    v->layers = grown;
    grown[v->n_layer_choices++] = (struct layer_choice){
        arena_str(v->arena, policy_layers_text(p, text)), policy_first_sparse_layer(p)};
    return OK;
}

static enum status layers_item(void *ctx, const char *axis, const char *item)
{
    (void)axis;
    struct axes_values *v = ctx;
    struct sparse_policy p;
    bool one = strcmp(item, "each") == 0, all_but = strcmp(item, "all-but-each") == 0;
    TRY(policy_init(&p, &mask_sparge, v->n_layers, v->n_heads));
    enum status st = OK;
    if (!one && !all_but) {
        st = policy_set_layers(&p, item);
        if (st == OK && policy_first_sparse_layer(&p) == v->n_layers)
            st = fail(ERR_ARG,
                "--layers: \"%s\" leaves no layer sparse; use --method dense for a dense cell",
                item);
        if (st == OK) st = add_layers(v, &p);
    }
    for (int l = 0; st == OK && (one || all_but) && l < v->n_layers; l++) {
        memset(p.layer_on, all_but, (size_t)v->n_layers);
        p.layer_on[l] = one;
        if (policy_first_sparse_layer(&p) < v->n_layers) st = add_layers(v, &p);
    }
    policy_clear(&p);
    return st;
}

static enum status heads_item(void *ctx, const char *axis, const char *item)
{
    struct axes_values *v = ctx;
    if (strcmp(item, "all") == 0) return numbers_add(&v->heads, axis, -1);
    if (strcmp(item, "each") != 0) {
        int before = v->heads.n;
        TRY(numbers_read_item(axis, item, false, &v->heads));
        for (int i = before; i < v->heads.n; i++)
            if (v->heads.items[i].value < 0 || v->heads.items[i].value >= v->n_heads ||
                v->heads.items[i].value != floor(v->heads.items[i].value))
                return fail(ERR_ARG, "%s: found %g, expected all, each or a head from 0 to %d",
                    axis, v->heads.items[i].value, v->n_heads - 1);
        return OK;
    }
    for (int h = 0; h < v->n_heads; h++) TRY(numbers_add(&v->heads, axis, h));
    return OK;
}

static enum status read_axes(const struct plan_axes *a, struct axes_values *v)
{
    TRY(numbers_read("--max-length", &a->max_length, false, &v->lengths));
    TRY(numbers_check("--max-length", &v->lengths, 2, 1 << 20));
    for (int i = 0; i < v->lengths.n; i++)
        if (v->lengths.items[i].value != floor(v->lengths.items[i].value))
            return fail(ERR_ARG, "--max-length: found %g, expected whole numbers",
                v->lengths.items[i].value);
    TRY(plan_items("--method", &a->method, method_item, v));
    TRY(plan_items("--block", &a->block, block_item, v));
    TRY(plan_items("--layers", &a->layers, layers_item, v));
    TRY(plan_items("--heads", &a->heads, heads_item, v));
    TRY(plan_items("--rule", &a->rule, rule_item, v));
    TRY(plan_items("--qk", &a->qk, precision_item, v));
    TRY(plan_items("--pv", &a->pv, precision_item, v));
    TRY(numbers_read("--l1", &a->l1, false, &v->l1));
    TRY(numbers_read("--pv-l1", &a->pv_l1, true, &v->pv));
    TRY(numbers_read("--simthreshd1", &a->theta, false, &v->theta));
    TRY(numbers_read("--cdfthreshd", &a->tau, false, &v->tau));
    TRY(numbers_read("--pvthreshd", &a->lambda, false, &v->lambda));
    TRY(numbers_check("--simthreshd1", &v->theta, -1, 1));
    TRY(numbers_check("--cdfthreshd", &v->tau, 0, 1));
    TRY(numbers_check("--pvthreshd", &v->lambda, 0, NEVER_SKIP));
    if (v->l1.n && (v->theta.n || v->tau.n || v->lambda.n))
        return fail(ERR_ARG,
            "--l1 finds thresholds, so --simthreshd1, --cdfthreshd and --pvthreshd cannot be given "
            "with it");
    if (v->pv.n && !v->l1.n) return fail(ERR_ARG, "--pv-l1 needs --l1");
    if (v->l1.n && !v->pv.n)
        TRY(numbers_put(&v->pv, "--pv-l1", (struct number){.01, {1, 2}, true}));
    static const struct text_list length = {{"2048"}, 1}, method = {{"sparge"}, 1},
                                  block = {{"128x64"}, 1}, all = {{"all"}, 1}, rule = {{"l1"}, 1},
                                  full = {{"full"}, 1};
    if (!v->lengths.n) TRY(numbers_read("--max-length", &length, false, &v->lengths));
    if (!v->n_methods) TRY(plan_items("--method", &method, method_item, v));
    if (!v->n_blocks) TRY(plan_items("--block", &block, block_item, v));
    if (!v->n_layer_choices) TRY(plan_items("--layers", &all, layers_item, v));
    if (!v->heads.n) TRY(plan_items("--heads", &all, heads_item, v));
    if (!v->n_rules) TRY(plan_items("--rule", &rule, rule_item, v));
    if (!v->n_qk) TRY(plan_items("--qk", &full, precision_item, v));
    if (!v->n_pv) TRY(plan_items("--pv", &full, precision_item, v));
    struct numbers *thresholds[] = {&v->theta, &v->tau, &v->lambda};
    for (int i = 0; i < 3; i++)
        if (!thresholds[i]->n) TRY(numbers_add(thresholds[i], "thresholds", NAN));
    return OK;
}

/* Cells. */

static uint64_t cell_hash(const struct plan_cell *c)
{
    struct str text = {0};
    plan_cell_describe(c, &text);
    uint64_t h = 14695981039346656037u; /* FNV-1a; equal texts are compared in full */
    for (size_t i = 0; i < text.len; i++) h = (h ^ (unsigned char)text.data[i]) * 1099511628211u;
    str_clear(&text);
    return h;
}

/* Open addressing over cell numbers, so that a large plan is not compared pairwise. */
struct cell_set {
    int *slots; /* -1: free */
    uint64_t *hashes;
    size_t size; /* power of two */
};

static bool same_cell(const struct plan_cell *a, const struct plan_cell *b)
{
    struct str x = {0}, y = {0};
    plan_cell_describe(a, &x);
    plan_cell_describe(b, &y);
    bool same = strcmp(str_get(&x), str_get(&y)) == 0;
    str_clear(&x);
    str_clear(&y);
    return same;
}

static enum status cell_set_grow(struct cell_set *s, int n_cells)
{
    if (s->size > 2 * (size_t)n_cells + 1) return OK;
    size_t size = s->size ? 2 * s->size : 256;
    int *slots = malloc(size * sizeof *slots);
    uint64_t *hashes = malloc(size * sizeof *hashes);
    if (!slots || !hashes) {
        free(slots);
        free(hashes);
        return fail(ERR_MEMORY, "no memory for a plan of %d cells", n_cells);
    }
    for (size_t i = 0; i < size; i++) slots[i] = -1;
    for (size_t i = 0; i < s->size; i++) {
        if (s->slots[i] < 0) continue;
        size_t at = s->hashes[i] & (size - 1);
        while (slots[at] >= 0) at = (at + 1) & (size - 1);
        slots[at] = s->slots[i];
        hashes[at] = s->hashes[i];
    }
    free(s->slots);
    free(s->hashes);
    *s = (struct cell_set){slots, hashes, size};
    return OK;
}

static enum status add_cell(struct plan *p, struct cell_set *seen, const struct plan_cell *c)
{
    TRY(cell_set_grow(seen, p->n));
    uint64_t h = cell_hash(c);
    size_t at = h & (seen->size - 1);
    for (; seen->slots[at] >= 0; at = (at + 1) & (seen->size - 1))
        if (seen->hashes[at] == h && same_cell(&p->cells[seen->slots[at]], c)) {
            p->n_duplicate++;
            return OK;
        }
    if (p->n == MAX_CELLS)
        return fail(ERR_ARG, "the plan has more than %d cells; leave out some values", MAX_CELLS);
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 64;
        struct plan_cell *cells = realloc(p->cells, sizeof *cells * (size_t)cap);
        if (!cells) return fail(ERR_MEMORY, "no memory for a plan of %d cells", cap);
        p->cells = cells;
        p->cap = cap;
    }
    seen->slots[at] = p->n;
    seen->hashes[at] = h;
    p->cells[p->n++] = *c;
    return OK;
}

/* Thresholds or bounds of a cell whose other axes are chosen. */
static enum status add_bounds(
    struct plan *p, struct cell_set *seen, const struct axes_values *v, struct plan_cell c)
{
    c.l1 = c.pv_l1 = c.theta = c.tau = c.lambda = NAN;
    bool topk = strcmp(c.method, "topk") == 0;
    const struct mask_method *method = mask_method_find(c.method);
    bool ranked = !c.topk && method->ranked;
    if (method->n_parts && !v->l1.n)
        return fail(ERR_ARG, "--method %s is chosen head by head, by tuning: give --l1", c.method);
    if (!ranked && (!topk || v->l1.n)) return add_cell(p, seen, &c);
    if (v->l1.n) {
        c.tuned = true;
        for (int r = 0; r < v->n_rules; r++)
            for (int i = 0; i < v->l1.n; i++)
                for (int j = 0; j < v->pv.n; j++) {
                    struct decimal pv = v->pv.items[j].exact;
                    c.rule = v->rules[r];
                    c.l1 = v->l1.items[i].value;
                    if (v->pv.items[j].relative && !decimal_add(pv, v->l1.items[i].exact, &pv))
                        return fail(ERR_ARG, "--pv-l1 l1+%.12g: %.12g and it lie too far apart",
                            v->pv.items[j].value, c.l1);
                    c.pv_l1 = decimal_value(pv);
                    if (!(c.l1 > 0 && c.l1 < 1 && c.pv_l1 < 1))
                        return fail(ERR_ARG,
                            "--l1 %g with --pv-l1 %g: expected both above 0 and below 1", c.l1,
                            c.pv_l1);
                    if (c.pv_l1 <= c.l1) p->n_pruned++;
                    else TRY(add_cell(p, seen, &c));
                }
        return OK;
    }
    for (int i = 0; i < v->theta.n; i++)
        for (int j = 0; j < v->tau.n; j++)
            for (int k = 0; k < v->lambda.n; k++) {
                c.theta = method->takes_theta ? v->theta.items[i].value : NAN;
                c.tau = topk ? NAN : v->tau.items[j].value;
                c.lambda = v->lambda.items[k].value;
                TRY(add_cell(p, seen, &c));
            }
    return OK;
}

static enum status add_sparse(
    struct plan *p, struct cell_set *seen, const struct axes_values *v, struct plan_cell c)
{
    for (int b = 0; b < v->n_blocks; b++)
        for (int l = 0; l < v->n_layer_choices; l++)
            for (int h = 0; h < v->heads.n; h++) {
                c.block = v->blocks[b];
                c.layers = v->layers[l].text;
                c.first_layer = v->layers[l].first;
                c.head = (int)v->heads.items[h].value;
                TRY(add_bounds(p, seen, v, c));
            }
    return OK;
}

/* A dense cell of eight bits has layers, and nothing else of a sparse one. */
static enum status add_dense(
    struct plan *p, struct cell_set *seen, const struct axes_values *v, struct plan_cell c)
{
    if (!c.qk && !c.pv) return add_cell(p, seen, &c);
    for (int l = 0; l < v->n_layer_choices; l++) {
        c.layers = v->layers[l].text;
        c.first_layer = v->layers[l].first;
        TRY(add_cell(p, seen, &c));
    }
    return OK;
}

/* One cell after the other through both precisions. */
static enum status add_precisions(
    struct plan *p, struct cell_set *seen, const struct axes_values *v, struct plan_cell c)
{
    for (int i = 0; i < v->n_qk; i++)
        for (int k = 0; k < v->n_pv; k++) {
            c.qk = v->of_qk[i];
            c.pv = v->of_pv[k];
            TRY((strcmp(c.method, "dense") == 0 ? add_dense : add_sparse)(p, seen, v, c));
        }
    return OK;
}

static enum status multiply(const struct plan_axes *a, const struct axes_values *v, struct plan *p)
{
    struct cell_set seen = {0};
    enum status st = OK;
    int n_suites = a->suite.n ? a->suite.n : 1, repeats = a->repeat > 1 ? a->repeat : 1;
    for (int s = 0; s < n_suites && st == OK; s++)
        for (int n = 0; n < v->lengths.n && st == OK; n++)
            for (int m = 0; m < v->n_methods && st == OK; m++)
                for (int r = 0; r < repeats && st == OK; r++) {
                    struct plan_cell c = {
                        .suite = arena_str(&p->arena, a->suite.n ? a->suite.items[s] : "chronicle"),
                        .max_length = (int)v->lengths.items[n].value,
                        .method = v->methods[m].name,
                        .topk = v->methods[m].topk,
                        .window = v->methods[m].window,
                        .layers = "none",
                        .first_layer = v->n_layers,
                        .head = -1,
                        .block = BLOCK_DEFAULT,
                        .repeat = r,
                        .l1 = NAN,
                        .pv_l1 = NAN,
                        .theta = NAN,
                        .tau = NAN,
                        .lambda = NAN,
                    };
                    st = add_precisions(p, &seen, v, c);
                }
    free(seen.slots);
    free(seen.hashes);
    return st;
}

enum status plan_expand(const struct plan_axes *axes, int n_layers, int n_heads, struct plan *out)
{
    *out = (struct plan){0};
    struct axes_values v = {.arena = &out->arena, .n_layers = n_layers, .n_heads = n_heads};
    enum status st = read_axes(axes, &v);
    if (st == OK) st = multiply(axes, &v, out);
    if (st == OK && !out->n)
        st = fail(ERR_ARG,
            "no cell is left: in all %d pairs pv_l1 is not above l1; it bounds both stages "
            "together, e.g. "
            "--pv-l1 l1+.01",
            out->n_pruned);
    struct numbers *all[] = {&v.lengths, &v.l1, &v.pv, &v.theta, &v.tau, &v.lambda, &v.heads};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) numbers_clear(all[i]);
    free(v.layers);
    if (st != OK) plan_clear(out);
    return st;
}

void plan_clear(struct plan *p)
{
    free(p->cells);
    arena_free(&p->arena);
    *p = (struct plan){0};
}

/* Names a cell: two that are not equal must not look alike. */
void plan_cell_describe(const struct plan_cell *c, struct str *out)
{
    str_add(out, c->method);
    if (c->topk > 0) str_add_number(out, ":", c->topk);
    if (c->window > 0) str_addf(out, ":%d", c->window);
    if (c->qk) str_addf(out, " qk %s", precision_name(c->qk));
    if (c->pv) str_addf(out, " pv %s", precision_name(c->pv));
    if (strcmp(c->method, "dense") != 0) str_addf(out, " %dx%d", c->block.q, c->block.k);
    if (strcmp(c->layers, "none") != 0) str_addf(out, " layers %s", c->layers);
    if (c->head >= 0) str_addf(out, " head %d", c->head);
    if (c->tuned) {
        str_addf(out, " %s ", tune_rule_name(c->rule));
        str_add_number(out, "", c->l1);
        str_add_number(out, "/", c->pv_l1);
    }
    if (!isnan(c->theta)) str_add_number(out, " theta ", c->theta);
    if (!isnan(c->tau)) str_add_number(out, " tau ", c->tau);
    if (!isnan(c->lambda)) str_add_number(out, " lambda ", c->lambda);
    str_addf(out, " at %d of %s", c->max_length, c->suite);
    if (c->repeat) str_addf(out, " again %d", c->repeat);
}

enum status plan_cell_policy(const struct plan_cell *c, const struct weights *w,
    const char *model_fingerprint, enum smooth_k smooth_k, int min_sparse_tokens,
    const struct tuned *tuned, struct sparse_policy *out)
{
    const struct mask_method *method = mask_method_find(c->method);
    TRY(policy_init(out, method, w->config.n_layers, w->config.n_heads));
    out->block = c->block;
    out->smooth_k = smooth_k;
    out->min_sparse_tokens = min_sparse_tokens;
    out->topk = (float)c->topk;
    out->window = c->window;
    policy_choose_thresholds(out, c->theta, c->tau, c->lambda);
    enum status st = policy_set_precision(out, c->qk, c->pv);
    if (st == OK && policy_acts(out)) st = policy_set_layers(out, c->layers);
    if (st == OK && tuned)
        st = tuned_apply(tuned, "the tuned thresholds of this sweep", w, model_fingerprint, out);
    for (int i = 0; st == OK && c->head >= 0 && i < out->n_layers * out->n_heads; i++)
        if (i % out->n_heads != c->head) out->heads[i].is_sparse = false;
    if (st != OK) policy_clear(out);
    return st;
}
