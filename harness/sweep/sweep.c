#include "harness/sweep/sweep.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/xmalloc.h"
#include "harness/measure/identity.h"
#include "kernels/compare.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/eight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int find_data(struct sweep *s, const struct plan_cell *c)
{
    for (int i = 0; i < s->n_data; i++)
        if (s->data[i].max_length == c->max_length && strcmp(s->data[i].suite, c->suite) == 0)
            return i;
    return -1;
}

static enum status load_samples(const struct sweep *s, const char *suite, int max_length, int n,
    bool tuning, struct sample_set *out)
{
    struct sample_options o = {.suites = {{suite}, 1},
        .score = s->a.settings.score,
        .field = suite_reads_fields(suite) ? s->a.field : NULL,
        .max_length = max_length,
        .num_samples = n,
        .seed = s->a.settings.seed};
    return setup_samples(s->a.setup, &o, 0, tuning, out);
}

static enum status add_data(struct sweep *s, const struct plan_cell *c, int *index)
{
    struct sweep_data *grown = realloc(s->data, sizeof *grown * (size_t)(s->n_data + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for %d data sets", s->n_data + 1);
    s->data = grown;
    struct sweep_data *d = &grown[s->n_data];
    *d = (struct sweep_data){.suite = c->suite, .max_length = c->max_length};
    if (load_samples(s, c->suite, c->max_length, s->a.settings.num_samples, false, &d->set) != OK)
        d->problem = str_dup(status_message());
    else if (!d->set.n_samples)
        d->problem = str_format("%s has no sample of %d tokens", c->suite, c->max_length);
    if (d->problem) { /* its cells need a name to fail under */
        struct hash h;
        hash_init(&h);
        hash_add_str(&h, "no samples");
        hash_add_str(&h, c->suite);
        hash_add_u64(&h, (uint64_t)c->max_length);
        sample_set_clear(&d->set);
        d->set = (struct sample_set){.suite = "unavailable", .name = str_dup(c->suite)};
        hash_hex(&h, d->set.fingerprint);
    }
    *index = s->n_data++;
    return OK;
}

/* Groups. */

static bool belongs(const struct sweep_group *g, int data, const struct plan_cell *c)
{
    return g->data == data && g->rule == c->rule && g->qk == c->qk && g->pv == c->pv &&
        g->block.q == c->block.q && g->block.k == c->block.k && strcmp(g->method, c->method) == 0;
}

static void name_group(const struct sweep *s, struct sweep_group *g, const char *suite, int length)
{
    struct hash h;
    hash_init(&h);
    hash_add_str(&h, ENGINE_VERSION);
    struct weights_device_info device;
    weights_device_describe(&s->a.setup->model.weights, &device);
    hash_add_str(&h, device.residual ? device.name : cpu_ops()->name);
    if (device.residual) hash_add_str(&h, device.residual);
    hash_add_str(&h, g->set.fingerprint);
    hash_add_u64(&h, (uint64_t)s->a.n_tune);
    hash_add_u64(&h, (uint64_t)s->a.n_check << 32 | (uint64_t)s->a.n_held_out);
    hash_add(&h, &s->a.min_sparsity, sizeof s->a.min_sparsity);
    if (g->qk || g->pv) hash_add_u64(&h, (uint64_t)g->qk << 8 | (uint64_t)g->pv);
    hash_hex(&h, g->id);
    struct str text = {0}; /* without names: it is part of the key */
    str_addf(&text, "%d+%d+%d samples at %d (%s), heads from ", s->a.n_tune, s->a.n_check,
        s->a.n_held_out, length, g->problem ? suite : g->set.fingerprint);
    str_add_number(&text, "", s->a.min_sparsity);
    str_add(&text, " sparsity");
    g->text = text.data;
}

static enum status add_group(struct sweep *s, int data, const struct plan_cell *c)
{
    struct sweep_group *grown = realloc(s->groups, sizeof *grown * (size_t)(s->n_groups + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for %d groups of cells", s->n_groups + 1);
    s->groups = grown;
    struct sweep_group *g = &grown[s->n_groups++];
    *g = (struct sweep_group){.data = data,
        .method = c->method,
        .block = c->block,
        .rule = c->rule,
        .qk = c->qk,
        .pv = c->pv};
    g->layers = calloc((size_t)s->a.setup->model.weights.config.n_layers, 1);
    if (!g->layers) return fail(ERR_MEMORY, "no memory for a group of cells");
    const char *suite = s->a.tune_suite ? s->a.tune_suite : c->suite;
    int length = s->a.tune_length ? s->a.tune_length : c->max_length,
        wanted = s->a.n_tune + s->a.n_check + s->a.n_held_out;
    if (load_samples(s, suite, length, wanted, true, &g->set) != OK)
        g->problem = str_format("tuning samples: %s", status_message());
    else if (g->set.n_samples < wanted)
        g->problem = str_format("tuning needs %d samples, %s has %d of %d tokens; lower "
                                "--num-tune-samples, --check or --held-out, or "
                                "give --tune-suite",
            wanted, suite, g->set.n_samples, length);
    name_group(s, g, suite, length);
    return OK;
}

static enum status join_group(struct sweep *s, struct sweep_cell *x)
{
    const struct plan_cell *c = x->cell;
    int i = 0;
    while (i < s->n_groups && !belongs(&s->groups[i], x->data, c)) i++;
    if (i == s->n_groups) TRY(add_group(s, x->data, c));
    struct sweep_group *g = &s->groups[i];
    struct sparse_policy p;
    const struct llama_config *config = &s->a.setup->model.weights.config;
    TRY(policy_init(&p, mask_method_find(c->method), config->n_layers, config->n_heads));
    enum status st = policy_set_layers(&p, c->layers);
    for (int l = 0; l < config->n_layers; l++) g->layers[l] |= p.layer_on[l];
    policy_clear(&p);
    TRY(st);
    int b = 0;
    while (b < g->n_bounds && (g->bounds[b][0] != c->l1 || g->bounds[b][1] != c->pv_l1)) b++;
    if (b == g->n_bounds) {
        double(*bounds)[2] = realloc(g->bounds, sizeof *bounds * (size_t)(b + 1));
        if (!bounds) return fail(ERR_MEMORY, "no memory for %d bounds", b + 1);
        g->bounds = bounds;
        bounds[b][0] = c->l1;
        bounds[b][1] = c->pv_l1;
        g->n_bounds++;
    }
    x->group = i;
    x->bounds = b;
    return OK;
}

/* Identity. */

static void argv_add(cJSON *argv, const char *option, const char *value)
{
    cJSON_AddItemToArray(argv, cJSON_CreateString(option));
    cJSON_AddItemToArray(argv, cJSON_CreateString(value));
}

static void argv_int(cJSON *argv, const char *option, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    argv_add(argv, option, text);
}

/* before: what stands in front of the number, e.g. "topk:". */
static void argv_real(cJSON *argv, const char *option, const char *before, double value)
{
    struct str text = {0};
    str_add_number(&text, before, value);
    argv_add(argv, option, str_get(&text));
    str_clear(&text);
}

static void argv_sparse(cJSON *o, const struct plan_cell *c)
{
    char *block = str_format("%dx%d", c->block.q, c->block.k);
    argv_add(o, "--block", block);
    argv_add(o, "--layers", c->layers);
    free(block);
    if (c->head >= 0) argv_int(o, "--heads", c->head);
    if (!isnan(c->theta)) argv_real(o, "--simthreshd1", "", c->theta);
    if (!isnan(c->tau)) argv_real(o, "--cdfthreshd", "", c->tau);
    if (!isnan(c->lambda)) argv_real(o, "--pvthreshd", "", c->lambda);
}

static void argv_tuned(cJSON *o, const struct sweep_args *a, const struct plan_cell *c)
{
    argv_add(o, "--rule", tune_rule_name(c->rule));
    argv_real(o, "--l1", "", c->l1);
    argv_real(o, "--pv-l1", "", c->pv_l1);
    argv_int(o, "--num-tune-samples", a->n_tune);
    argv_int(o, "--check", a->n_check);
    argv_int(o, "--held-out", a->n_held_out);
    if (a->tune_length) argv_int(o, "--tune-length", a->tune_length);
    if (a->min_sparsity != .1) argv_real(o, "--min-sparsity", "", a->min_sparsity);
    if (a->tune_suite) argv_add(o, "--tune-suite", a->tune_suite);
}

/* The command line that makes this one cell, for whoever wants to see it again. */
static const char *cell_argv(struct sweep *s, const struct plan_cell *c)
{
    const struct sweep_args *a = &s->a;
    cJSON *o = cJSON_CreateArray();
    cJSON_AddItemToArray(o, cJSON_CreateString(a->setup->model_dir));
    argv_add(o, "--suite", c->suite);
    argv_int(o, "--max-length", c->max_length);
    if (a->settings.num_samples) argv_int(o, "--num-samples", a->settings.num_samples);
    if (a->settings.seed) argv_int(o, "--seed", a->settings.seed);
    if (strcmp(a->settings.score, "all") != 0) argv_add(o, "--score", a->settings.score);
    if (a->field) argv_add(o, "--field", a->field);
    /* which one, and how many, is no matter */
    if (str_starts_with(a->machine->device, "cuda")) argv_add(o, "--device", "cuda");
    if (a->machine->impl) argv_add(o, "--impl", a->machine->impl);
    char *window = str_format("%s:%d", c->method, c->window), *share = str_format("%s:", c->method);
    if (c->topk > 0) argv_real(o, "--method", share, c->topk);
    else argv_add(o, "--method", c->window > 0 ? window : c->method);
    free(window);
    free(share);
    if (c->qk) argv_add(o, "--qk", precision_name(c->qk));
    if (c->pv) argv_add(o, "--pv", precision_name(c->pv));
    if (strcmp(c->method, "dense") != 0) argv_sparse(o, c);
    else if (c->qk || c->pv) argv_add(o, "--layers", c->layers);
    if (c->tuned) argv_tuned(o, a, c);
    if (a->smooth_k != SMOOTH_K_RUNNING) argv_add(o, "--smooth-k", smooth_k_name(a->smooth_k));
    if (a->min_sparse_tokens != MIN_SPARSE_TOKENS)
        argv_int(o, "--min-sparse-tokens", a->min_sparse_tokens);
    struct str text = {0};
    json_print(&text, o, -1);
    const char *out = arena_str(&s->arena, str_get(&text));
    str_clear(&text);
    cJSON_Delete(o);
    return out;
}

struct cell_request sweep_request(struct sweep *s, const struct sweep_cell *x)
{
    struct cell_request q = {.setup = s->a.setup,
        .store = s->a.store,
        .leases = s->leases,
        .cache = s->a.cache,
        .machine = s->a.machine,
        .set = &s->data[x->data].set,
        .settings = s->a.settings};
    q.settings.max_length = x->cell->max_length;
    q.settings.repeat = x->cell->repeat;
    q.settings.plan = s->a.name;
    return q;
}

static enum status identify(struct sweep *s, struct sweep_cell *x)
{
    const struct plan_cell *c = x->cell;
    const struct model *m = &s->a.setup->model;
    struct sparse_policy policy;
    TRY(plan_cell_policy(
        c, &m->weights, m->fingerprint, s->a.smooth_k, s->a.min_sparse_tokens, NULL, &policy));
    char head[16];
    snprintf(head, sizeof head, "%d", c->head);
    struct cell_tuning tuning = {.rule = tune_rule_name(c->rule), .l1 = c->l1, .pv_l1 = c->pv_l1};
    if (c->tuned) tuning.text = s->groups[x->group].text;
    struct cell_request q = sweep_request(s, x);
    q.policy = &policy;
    q.tuning = c->tuned ? &tuning : NULL;
    q.settings.heads = c->head < 0 ? "all" : arena_str(&s->arena, head);
    struct run_record *r = &x->run;
    cell_identify(&q, r, &s->arena);
    r->argv_json = cell_argv(s, c);
    policy_clear(&policy);
    return OK;
}

/* Cost. */

static double layer_flop(const struct llama_config *c, double n)
{
    double d = c->head_dim, hidden = c->hidden_size;
    double weights =
        hidden * d * (2 * c->n_heads + 2 * c->n_kv_heads) + 3 * hidden * c->intermediate_size;
    return n * (2 * weights + 2 * n * d * c->n_heads); /* two products over the causal half */
}

static double set_flop(
    const struct sweep *s, const struct sample_set *set, int n_layers, int n_heads_of_model)
{
    const struct llama_config *c = &s->a.setup->model.weights.config;
    double sum = 0;
    for (int i = 0; i < set->n_samples; i++) {
        double n = set->samples[i].n;
        sum += n_layers * layer_flop(c, n) +
            n_heads_of_model * 2 * n * c->hidden_size * (double)c->vocab_size;
    }
    return sum;
}

enum status sweep_probe(const struct setup *setup, const char *impl, double *flops)
{
    enum { TOKENS = 128, RUNS = 3 };
    const struct llama_config *c = &setup->model.weights.config;
    int32_t ids[TOKENS];
    struct session *session;
    int64_t best = INT64_MAX;
    for (int i = 0; i < TOKENS; i++) ids[i] = i % c->vocab_size;
    TRY(session_open(&session, &setup->model.weights, setup->par, TOKENS, 0, impl));
    enum status st = OK;
    for (int i = 0; i < RUNS && st == OK; i++) { /* the first one brings the weights in */
        session_reset(session);
        int64_t t0 = clock_ns();
        st = session_forward(session, &(struct forward_args){.tokens = ids, .n = TOKENS});
        if (clock_ns() - t0 < best) best = clock_ns() - t0;
    }
    session_close(&session);
    *flops = c->n_layers * layer_flop(c, TOKENS) / ((double)best * 1e-9);
    return st;
}

struct sweep_bytes sweep_cell_bytes(const struct sweep *s, const struct sweep_cell *x)
{
    const struct weights *w = &s->a.setup->model.weights;
    const struct sample_set *set = &s->data[x->data].set;
    int longest = sample_set_room(set), n_threads = par_threads(s->a.setup->par);
    struct session_plan plan =
        session_plan_for(w, longest, s->a.machine->chunk, !sample_set_writes(set), n_threads);
    size_t rows = (size_t)longest * (size_t)w->config.hidden_size * sizeof(float);
    struct sparse_policy policy = {0};
    struct session_scratch scratch = {0};
    enum status st = plan_cell_policy(x->cell, w, s->a.setup->model.fingerprint, s->a.smooth_k,
        s->a.min_sparse_tokens, NULL, &policy);
    if (st == OK) scratch = session_scratch_for(w, &plan, &policy, n_threads);
    policy_clear(&policy);
    size_t session = plan.total_bytes + scratch.bytes,
           here =
               w->on_device ? scratch.host_bytes : session + compare_workspace(&w->head, n_threads);
    return (struct sweep_bytes){
        .host = here + 2 * rows + (size_t)set->n_tokens * sizeof(struct token_metrics),
        .device = w->on_device ? session : 0};
}

double sweep_free_bytes(const struct sweep *s)
{
    double available = (double)memory_available();
    return s->a.max_memory > 0 && s->a.max_memory < available ? s->a.max_memory : available;
}

/* Tuning in dense passes over what it tunes on: the pass itself and the curves, and the
 * verification of each pair of bounds. Measured on the bundled model at 1 024 and 2 048 tokens;
 * meant to tell minutes from hours. */
static double tuning_passes(int n_bounds) { return 2.5 + .15 * n_bounds; }

double sweep_tune_flop(const struct sweep *s, const struct sweep_group *g)
{
    return tuning_passes(g->n_bounds) *
        set_flop(s, &g->set, s->a.setup->model.weights.config.n_layers, 0);
}

double sweep_dense_flop(const struct sweep *s, const struct sweep_data *d)
{
    return set_flop(s, &d->set, s->a.setup->model.weights.config.n_layers, 0);
}

struct sweep_estimate sweep_estimate(const struct sweep *s)
{
    const struct llama_config *c = &s->a.setup->model.weights.config;
    struct sweep_estimate e = {0};
    bool *used = xcalloc((size_t)s->n_data + 1, sizeof *used),
         *tuned = xcalloc((size_t)s->n_groups + 1, sizeof *tuned);
    struct sweep_bytes *most = xcalloc((size_t)s->n_data + 1, sizeof *most);
    uint8_t *streams = xcalloc((size_t)s->n_data * (size_t)(c->n_layers + 1) + 1, 1);
    for (int i = s->first; i < s->end; i++) {
        const struct sweep_cell *x = &s->cells[i];
        const struct sweep_data *d = &s->data[x->data];
        e.n_done += x->state == CELL_DONE && x->settled;
        e.n_failed += x->state == CELL_FAILED;
        e.n_skipped += x->state == CELL_SKIPPED;
        e.n_stale += x->state == CELL_STALE;
        e.n_elsewhere += x->state == CELL_RUNNING;
        if (x->settled) continue;
        e.n_run++;
        if (d->problem) continue;
        e.cells_flop += x->cost;
        e.separate_flop += set_flop(s, &d->set, 2 * c->n_layers, 2);
        if (x->group >= 0 && !s->groups[x->group].problem) {
            const struct sweep_group *g = &s->groups[x->group];
            double pass = set_flop(s, &g->set, c->n_layers, 0);
            e.separate_flop += tuning_passes(1) * pass;
            if (!tuned[x->group]) e.tune_flop += sweep_tune_flop(s, g);
            e.n_tunings += !tuned[x->group];
            tuned[x->group] = true;
        }
        if (!used[x->data]) e.dense_flop += sweep_dense_flop(s, d);
        e.n_dense_passes += used[x->data] ? 0 : d->set.n_samples;
        used[x->data] = true;
        struct sweep_bytes needs = sweep_cell_bytes(s, x);
        if (needs.host > most[x->data].host) most[x->data].host = needs.host;
        if (needs.device > most[x->data].device) most[x->data].device = needs.device;
        int first = x->cell->first_layer;
        if (first > 0 && first < c->n_layers)
            streams[(size_t)x->data * (size_t)(c->n_layers + 1) + (size_t)first] = 1;
    }
    for (int i = 0; i < s->n_data; i++) {
        if (!used[i]) continue;
        int n = 0;
        for (int l = 0; l <= c->n_layers; l++)
            n += streams[(size_t)i * (size_t)(c->n_layers + 1) + (size_t)l];
        size_t bytes = most[i].host + dense_states_bytes(&s->data[i].set, c->hidden_size, n);
        if (bytes > e.bytes) e.bytes = bytes;
        if (most[i].device > e.device_bytes) e.device_bytes = most[i].device;
        e.n_streams += n;
    }
    free(used);
    free(tuned);
    free(most);
    free(streams);
    return e;
}

/* Order: data sets as they come, within one the cells that begin early first; then as planned. */
static int by_execution(const void *x, const void *y)
{
    const struct sweep_cell *a = x, *b = y;
    if (a->data != b->data) return a->data < b->data ? -1 : 1;
    if (a->cell->first_layer != b->cell->first_layer)
        return a->cell->first_layer < b->cell->first_layer ? -1 : 1;
    return (a->cell > b->cell) - (a->cell < b->cell);
}

/* Has a stored run what is to be kept beside its metrics? */
static enum status check_parts(struct sweep *s, struct sweep_cell *x)
{
    const struct sweep_data *d = &s->data[x->data];
    struct run_parts has;
    TRY(query_parts(s->a.store, x->run.key, &has));
    bool sparse = strcmp(x->cell->method, "dense") != 0;
    x->again = s->a.replace ||
        (!d->set.timed &&
            ((s->a.settings.keep_tokens && !has.tokens) ||
                (s->a.settings.keep_masks && sparse && !has.masks) ||
                (s->a.settings.recall && sparse && !has.recall)));
    s->n_fewer_worst += !x->again && !d->set.timed && has.n_worst < s->a.settings.n_worst;
    return OK;
}

static enum status prepare(struct sweep *s)
{
    const struct plan *p = s->a.plan;
    const struct llama_config *c = &s->a.setup->model.weights.config;
    s->cells = calloc((size_t)p->n, sizeof *s->cells);
    if (!s->cells) return fail(ERR_MEMORY, "no memory for %d cells", p->n);
    for (int i = 0; i < p->n; i++) {
        struct sweep_cell *x = &s->cells[s->n++];
        *x = (struct sweep_cell){.cell = &p->cells[i], .group = -1};
        x->data = find_data(s, x->cell);
        if (s->a.stop && s->a.stop(NULL)) return fail(ERR_CANCELLED, "stopped on request");
        if (x->data < 0) TRY(add_data(s, x->cell, &x->data));
    }
    qsort(s->cells, (size_t)s->n, sizeof *s->cells, by_execution);
    for (int i = 0; i < s->n; i++) {
        struct sweep_cell *x = &s->cells[i];
        const struct sweep_data *d = &s->data[x->data];
        if (s->a.stop && s->a.stop(NULL)) return fail(ERR_CANCELLED, "stopped on request");
        if (x->cell->tuned) TRY(join_group(s, x));
        TRY(identify(s, x));
        int first = x->cell->first_layer < c->n_layers ? x->cell->first_layer : 0;
        x->cost = set_flop(s, &d->set, c->n_layers - first, 2);
        TRY(query_cell(s->a.store, x->run.key, x->run.slot, &x->state));
        bool stored = x->state == CELL_FAILED || x->state == CELL_SKIPPED;
        if (x->state == CELL_DONE) TRY(check_parts(s, x));
        x->settled =
            (x->state == CELL_DONE && !x->again) || (stored && !s->a.retry_failed && !s->a.replace);
    }
    const struct sweep_watch *w = s->a.watch;
    for (int i = 0; w && i < w->n_crashes; i++) /* by an earlier process */
        if (w->crashes[i].stored) s->cells[w->crashes[i].cell].settled = true;
    shard_range(&s->a.shard, s->n, &s->first, &s->end);
    return OK;
}

enum status sweep_open(struct sweep *s, const struct sweep_args *a)
{
    *s = (struct sweep){.a = *a};
    clock_utc(s->opened, sizeof s->opened);
    if (a->watch && a->watch->opened[0]) memcpy(s->opened, a->watch->opened, sizeof s->opened);
    else if (a->watch) memcpy(a->watch->opened, s->opened, sizeof s->opened);
    enum status st = lease_open(&s->leases, a->store, a->worker);
    if (st == OK) st = prepare(s);
    if (st != OK) sweep_close(s);
    return st;
}

void sweep_close(struct sweep *s)
{
    lease_close(&s->leases);
    for (int i = 0; i < s->n_data; i++) {
        dense_states_close(&s->data[i].states);
        sample_set_clear(&s->data[i].set);
        free(s->data[i].problem);
    }
    for (int i = 0; i < s->n_groups; i++) {
        struct sweep_group *g = &s->groups[i];
        for (int b = 0; g->tuned && b < g->n_bounds; b++) tuned_clear(&g->tuned[b]);
        sample_set_clear(&g->set);
        free(g->layers);
        free(g->bounds);
        free(g->problem);
        free(g->text);
        free(g->tuned);
        free(g->hashes);
    }
    free(s->data);
    free(s->groups);
    free(s->cells);
    arena_free(&s->arena);
    *s = (struct sweep){0};
}
