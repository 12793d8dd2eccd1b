#include "reports/runjson.h"

#include "base/file.h"
#include "base/json.h"
#include "reports/runjson_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One table of columns drives writing and reading of each kind of row. */
struct field {
    const char *name;
    size_t offset;
};
#define FIELD(record, member)                    \
    {                                            \
#member, offsetof(struct record, member) \
    }

static const struct field metric_fields[] = {
    FIELD(metric_record, mean),   FIELD(metric_record, std_error), FIELD(metric_record, min),
    FIELD(metric_record, p0_1),   FIELD(metric_record, p1),        FIELD(metric_record, p5),
    FIELD(metric_record, median), FIELD(metric_record, p95),       FIELD(metric_record, p99),
    FIELD(metric_record, p99_9),  FIELD(metric_record, max),       FIELD(metric_record, lo),
    FIELD(metric_record, hi),
};

static const struct field sample_fields[] = {
    FIELD(sample_record, logits_cosine), FIELD(sample_record, logits_l1),
    FIELD(sample_record, logits_rmse),   FIELD(sample_record, hidden_cosine),
    FIELD(sample_record, hidden_l1),     FIELD(sample_record, token_accuracy),
    FIELD(sample_record, top5_overlap),  FIELD(sample_record, sparsity),
    FIELD(sample_record, qk_sparsity),   FIELD(sample_record, pv_sparsity),
    FIELD(sample_record, nll_dense_sum), FIELD(sample_record, nll_sparse_sum),
    FIELD(sample_record, cosine_mean),   FIELD(sample_record, cosine_p1),
    FIELD(sample_record, cosine_min),    FIELD(sample_record, kl_mean),
    FIELD(sample_record, kl_p99_9),      FIELD(sample_record, kl_max),
    FIELD(sample_record, delta_p_mean),  FIELD(sample_record, cosine_centred_mean),
    FIELD(sample_record, row_rmse_mean), FIELD(sample_record, row_hidden_cosine_mean),
};

/* The overall metrics that the tuning guide's block holds, its own first. */
static const char *const accuracy_names[] = {
    "logits_cosine", "logits_l1", "logits_rmse", "hidden_cosine", "hidden_l1",   "token_accuracy",
    "top5_overlap",  "ppl_dense", "ppl_sparse",  "ppl_ratio",     "score_dense", "score_sparse",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static double *real_at(void *record, struct field f) { return (double *)((char *)record + f.offset); }
static double real_of(const void *record, struct field f)
{
    return *(const double *)((const char *)record + f.offset);
}

static void put_real(cJSON *o, const char *name, double value)
{
    cJSON_AddItemToObject(o, name, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

static void put_text(cJSON *o, const char *name, const char *text)
{
    cJSON_AddItemToObject(o, name, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static void put_count(cJSON *o, const char *name, int64_t value)
{
    cJSON_AddItemToObject(o, name, value >= 0 ? cJSON_CreateNumber((double)value) : cJSON_CreateNull());
}

/* JSON numbers hold 53 bits, a seed has 64. */
static void put_seed(cJSON *o, const char *name, uint64_t seed)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    put_text(o, name, text);
}

/* "16-31" is the guide's "16,32"; several ranges have no such form. */
static void put_layer_range(cJSON *o, const char *layers)
{
    int lo, hi, used = 0;
    char text[32];
    if (sscanf(layers, "%d-%d%n", &lo, &hi, &used) == 2 && !layers[used])
        snprintf(text, sizeof text, "%d,%d", lo, hi + 1);
    else if (sscanf(layers, "%d%n", &lo, &used) == 1 && !layers[used])
        snprintf(text, sizeof text, "%d,%d", lo, lo + 1);
    else {
        put_text(o, "layer_range", strcmp(layers, "all") ? layers : NULL);
        return;
    }
    put_text(o, "layer_range", text);
}

static cJSON *config_json(const struct run_record *r)
{
    cJSON *o = cJSON_CreateObject();
    put_text(o, "model", r->model.path ? r->model.path : r->model.name);
    put_real(o, "simthreshd1", r->simthreshd1);
    put_real(o, "cdfthreshd", r->cdfthreshd);
    put_real(o, "pvthreshd", r->pvthreshd);
    put_count(o, "num_samples", r->num_samples);
    put_count(o, "max_length", r->max_length);
    put_layer_range(o, r->layers);
    put_real(o, "l1", r->l1);
    put_real(o, "pv_l1", r->pv_l1);
    put_text(o, "method", r->method);
    put_text(o, "rule", r->rule);
    put_real(o, "topk", r->topk);
    put_count(o, "window", r->window);
    put_count(o, "block_q", r->block_q);
    put_count(o, "block_k", r->block_k);
    put_text(o, "smooth_k", r->smooth_k);
    put_text(o, "layers", r->layers);
    put_text(o, "heads", r->heads);
    put_text(o, "tuned_hash", r->tuned_hash);
    put_text(o, "score", r->score);
    put_seed(o, "seed", r->seed);
    put_count(o, "repeat", r->repeat);
    put_count(o, "threads", r->threads);
    put_text(o, "device", r->device);
    put_text(o, "impls", r->impls);
    put_count(o, "min_sparse_tokens", r->min_sparse_tokens);
    return o;
}

static cJSON *identity_json(const struct run_record *r)
{
    cJSON *o = cJSON_CreateObject(), *m = cJSON_CreateObject(), *d = cJSON_CreateObject();
    put_text(o, "key", r->key);
    put_text(o, "slot", r->slot);
    put_text(m, "fingerprint", r->model.fingerprint);
    put_text(m, "name", r->model.name);
    put_count(m, "n_layers", r->model.n_layers);
    put_count(m, "n_heads", r->model.n_heads);
    put_count(m, "n_kv_heads", r->model.n_kv_heads);
    put_count(m, "head_dim", r->model.head_dim);
    put_count(m, "vocab", r->model.vocab);
    put_count(m, "n_params", r->model.n_params);
    put_text(d, "fingerprint", r->dataset.fingerprint);
    put_text(d, "suite", r->dataset.suite);
    put_text(d, "name", r->dataset.name);
    put_count(d, "n_samples", r->dataset.n_samples);
    put_count(d, "max_length", r->dataset.max_length);
    put_count(d, "n_tokens", r->dataset.n_tokens);
    cJSON_AddItemToObject(o, "model", m);
    cJSON_AddItemToObject(o, "data", d);
    return o;
}

static cJSON *provenance_json(const struct run_record *r)
{
    cJSON *o = cJSON_CreateObject();
    put_text(o, "status", r->status == RUN_DONE ? "done" : r->status == RUN_FAILED ? "failed" : "skipped");
    put_text(o, "reason", r->reason);
    put_text(o, "version", r->software.version);
    put_text(o, "engine", r->software.engine);
    put_text(o, "compiler", r->software.compiler);
    put_text(o, "commit", r->software.commit);
    cJSON_AddBoolToObject(o, "dirty", r->software.dirty);
    put_text(o, "machine", r->machine.fingerprint);
    put_text(o, "cpu", r->machine.cpu);
    put_count(o, "cores", r->machine.n_cores);
    put_count(o, "ram_bytes", r->machine.ram_bytes);
    put_text(o, "gpus", r->machine.gpus);
    put_text(o, "driver", r->machine.driver);
    put_text(o, "os", r->machine.os);
    cJSON *argv = r->argv_json ? cJSON_Parse(r->argv_json) : NULL;
    cJSON_AddItemToObject(o, "argv", argv ? argv : cJSON_CreateNull());
    put_text(o, "started", r->started);
    put_text(o, "ended", r->ended);
    put_real(o, "wall_s", r->wall_s);
    put_count(o, "peak_bytes", r->peak_bytes);
    put_count(o, "peak_device_bytes", r->peak_device_bytes);
    put_count(o, "attention_calls", r->attention_calls);
    put_count(o, "dense_fallback_calls", r->dense_fallback_calls);
    return o;
}

static cJSON *accuracy_json(const struct run_view *v)
{
    cJSON *o = cJSON_CreateObject();
    int64_t longest = v->run->max_length;
    for (size_t i = 0; i < v->samples.n; i++)
        if (i == 0 || v->samples.rows[i].n_tokens > longest) longest = v->samples.rows[i].n_tokens;
    put_count(o, "seq_len", longest);
    for (size_t i = 0; i < COUNT(accuracy_names); i++)
        put_real(o, accuracy_names[i], run_view_metric(v, accuracy_names[i]));
    put_real(o, "kl", run_view_metric(v, "kl"));
    put_real(o, "cosine", run_view_metric(v, "cosine"));
    return o;
}

/* Over samples, as in the guide. */
static cJSON *sparsity_json(const struct run_view *v)
{
    double sum = 0, squares = 0, min = NAN, max = NAN, mean = run_view_metric(v, "sparsity");
    size_t n = 0;
    for (size_t i = 0; i < v->samples.n; i++) {
        double s = v->samples.rows[i].sparsity;
        if (isnan(s)) continue;
        sum += s;
        min = fmin(min, s);
        max = fmax(max, s);
        n++;
    }
    for (size_t i = 0; i < v->samples.n; i++)
        if (!isnan(v->samples.rows[i].sparsity))
            squares += pow(v->samples.rows[i].sparsity - sum / (double)n, 2);
    cJSON *o = cJSON_CreateObject();
    put_real(o, "mean", isnan(mean) && n ? sum / (double)n : mean);
    put_real(o, "std", n ? sqrt(squares / (double)n) : NAN);
    put_real(o, "min", min);
    put_real(o, "max", max);
    put_real(o, "qk", run_view_metric(v, "qk_sparsity"));
    put_real(o, "pv", run_view_metric(v, "pv_sparsity"));
    return o;
}

static cJSON *generation_json(const struct run_view *v)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < v->generations.n; i++) {
        const struct generation_record *g = &v->generations.rows[i];
        cJSON *o = cJSON_CreateObject();
        put_text(o, "prompt", g->prompt);
        put_text(o, "dense", g->dense);
        put_text(o, "sparse", g->sparse);
        put_real(o, "token_match", g->token_match);
        put_real(o, "text_similarity", g->text_similarity);
        put_count(o, "n_tokens", g->n_tokens);
        if (generation_is_dense(g)) put_text(o, "prefill", "dense"); /* on both sides, whatever the settings */
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static cJSON *samples_json(const struct run_view *v)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < v->samples.n; i++) {
        const struct sample_record *s = &v->samples.rows[i];
        cJSON *o = cJSON_CreateObject();
        put_count(o, "text_idx", s->sample);
        put_count(o, "seq_len", s->n_tokens);
        put_count(o, "n_scored", s->n_scored);
        cJSON_AddBoolToObject(o, "fell_back", s->fell_back);
        for (size_t k = 0; k < COUNT(sample_fields); k++)
            put_real(o, sample_fields[k].name, real_of(s, sample_fields[k]));
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static cJSON *metrics_json(const struct run_view *v)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < v->metrics.n; i++) {
        const struct metric_record *m = &v->metrics.rows[i];
        cJSON *o = cJSON_CreateObject();
        put_text(o, "scope", m->scope);
        put_text(o, "name", m->name);
        put_count(o, "n", m->n);
        for (size_t k = 0; k < COUNT(metric_fields); k++) {
            double value = real_of(m, metric_fields[k]);
            if (!isnan(value)) put_real(o, metric_fields[k].name, value);
        }
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

enum status runjson_write(const struct run_view *v, const char *path)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "schema_version", RUNJSON_SCHEMA_VERSION);
    put_text(o, "program", "sparsegauge");
    cJSON_AddItemToObject(o, "config", config_json(v->run));
    cJSON_AddItemToObject(o, "output_accuracy", accuracy_json(v));
    cJSON_AddItemToObject(o, "generation", generation_json(v));
    cJSON_AddItemToObject(o, "sparsity", sparsity_json(v));
    cJSON_AddItemToObject(o, "detailed_results", samples_json(v));
    cJSON_AddItemToObject(o, "metrics", metrics_json(v));
    if (v->latencies.n) cJSON_AddItemToObject(o, "latencies", runjson_latencies(v));
    cJSON_AddItemToObject(o, "identity", identity_json(v->run));
    cJSON_AddItemToObject(o, "provenance", provenance_json(v->run));
    enum status st = json_write_file(path, o);
    cJSON_Delete(o);
    return st;
}

enum status runjson_write_stats(const struct run_view *v, const char *path)
{
    if (v->ledger.n == 0)
        return fail(ERR_ARG, "%s: %s holds no per-layer counts to write; name a run of a database", path,
                    v->label);
    cJSON *list = cJSON_CreateArray();
    for (size_t from = 0, to; from < v->ledger.n; from = to) {
        const struct ledger_record *rows = v->ledger.rows;
        double qk = 0, pv = 0, theta = 0, tau = 0, lambda = 0;
        int n_sparse = 0;
        for (to = from; to < v->ledger.n && rows[to].layer == rows[from].layer; to++) {
            const struct ledger_record *r = &rows[to];
            qk += r->tiles_possible ? 1 - (double)r->tiles_computed / (double)r->tiles_possible : 0;
            pv += r->pv_possible ? 1 - (double)r->pv_computed / (double)r->pv_possible : 0;
            if (isnan(r->theta) || isnan(r->tau)) continue;
            n_sparse++;
            theta += r->theta;
            tau += r->tau;
            lambda += r->lambda;
        }
        double n = (double)(to - from);
        cJSON *o = cJSON_CreateObject();
        put_count(o, "layer_idx", rows[from].layer);
        put_real(o, "mean_sparsity", .5 * (qk + pv) / n);
        put_real(o, "cdfthreshd", n_sparse ? tau / n_sparse : NAN);
        put_real(o, "simthreshd1", n_sparse ? theta / n_sparse : NAN);
        put_real(o, "pvthreshd", n_sparse ? lambda / n_sparse : NAN);
        put_real(o, "qk_sparsity", qk / n);
        put_real(o, "pv_sparsity", pv / n);
        put_count(o, "num_heads", (int64_t)(to - from));
        put_count(o, "num_sparse_heads", n_sparse);
        cJSON_AddItemToArray(list, o);
    }
    enum status st = json_write_file(path, list);
    cJSON_Delete(list);
    return st;
}

/* Texts, counts and reals of one object, each optional unless `required` says otherwise. */
static enum status get_text(struct json_in in, const char *name, bool required, struct arena **arena,
                            const char **out)
{
    const char *text = NULL;
    TRY(json_get_string(in, name, required, &text));
    *out = arena_str(arena, text);
    return OK;
}

static enum status get_count(struct json_in in, const char *name, bool required, int64_t *out)
{
    *out = -1;
    return json_get_int(in, name, required, 0, (int64_t)1 << 53, out);
}

static enum status get_int(struct json_in in, const char *name, int *out)
{
    int64_t value = 0;
    TRY(json_get_int(in, name, false, 0, 1 << 30, &value));
    *out = (int)value;
    return OK;
}

static enum status get_real(struct json_in in, const char *name, double *out)
{
    *out = NAN;
    return json_get_double(in, name, false, -INFINITY, INFINITY, out);
}

static enum status get_object(struct json_in in, const char *name, struct json_in *out)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, name);
    if (!cJSON_IsObject(node))
        return fail(ERR_FORMAT,
                    "%s: field %s%s%s: found %s, expected an object; is it a file that eval --output wrote?",
                    in.file, in.path, *in.path ? "." : "", name, json_kind(node));
    *out = (struct json_in){node, in.file, name};
    return OK;
}

static enum status get_array(struct json_in in, const char *name, const cJSON **out)
{
    *out = cJSON_GetObjectItemCaseSensitive(in.node, name);
    if (!cJSON_IsArray(*out))
        return fail(ERR_FORMAT,
                    "%s: field %s: found %s, expected an array; is it a file that eval --output wrote?",
                    in.file, name, json_kind(*out));
    return OK;
}

static enum status read_config(struct json_in in, struct run_record *r, struct arena **arena)
{
    int64_t window;
    const char *seed = NULL;
    TRY(get_real(in, "simthreshd1", &r->simthreshd1));
    TRY(get_real(in, "cdfthreshd", &r->cdfthreshd));
    TRY(get_real(in, "pvthreshd", &r->pvthreshd));
    TRY(get_real(in, "l1", &r->l1));
    TRY(get_real(in, "pv_l1", &r->pv_l1));
    TRY(get_real(in, "topk", &r->topk));
    TRY(get_count(in, "window", false, &window));
    r->window = window;
    TRY(get_int(in, "num_samples", &r->num_samples));
    TRY(get_int(in, "max_length", &r->max_length));
    TRY(get_int(in, "block_q", &r->block_q));
    TRY(get_int(in, "block_k", &r->block_k));
    TRY(get_int(in, "repeat", &r->repeat));
    TRY(get_int(in, "threads", &r->threads));
    TRY(get_int(in, "min_sparse_tokens", &r->min_sparse_tokens));
    TRY(get_text(in, "method", true, arena, &r->method));
    TRY(get_text(in, "layers", true, arena, &r->layers));
    TRY(get_text(in, "heads", false, arena, &r->heads));
    TRY(get_text(in, "rule", false, arena, &r->rule));
    TRY(get_text(in, "smooth_k", false, arena, &r->smooth_k));
    TRY(get_text(in, "tuned_hash", false, arena, &r->tuned_hash));
    TRY(get_text(in, "score", false, arena, &r->score));
    TRY(get_text(in, "device", false, arena, &r->device));
    TRY(get_text(in, "impls", false, arena, &r->impls));
    TRY(json_get_string(in, "seed", false, &seed));
    r->seed = seed ? strtoull(seed, NULL, 10) : 0;
    return OK;
}

static enum status read_identity(struct json_in in, struct run_record *r, struct arena **arena)
{
    struct json_in m, d;
    TRY(get_object(in, "model", &m));
    TRY(get_object(in, "data", &d));
    m.path = "identity.model";
    d.path = "identity.data";
    TRY(get_text(in, "key", false, arena, &r->key));
    TRY(get_text(in, "slot", false, arena, &r->slot));
    TRY(get_text(m, "fingerprint", true, arena, &r->model.fingerprint));
    TRY(get_text(m, "name", true, arena, &r->model.name));
    TRY(get_int(m, "n_layers", &r->model.n_layers));
    TRY(get_int(m, "n_heads", &r->model.n_heads));
    TRY(get_int(m, "n_kv_heads", &r->model.n_kv_heads));
    TRY(get_int(m, "head_dim", &r->model.head_dim));
    TRY(get_int(m, "vocab", &r->model.vocab));
    TRY(get_count(m, "n_params", false, &r->model.n_params));
    TRY(get_text(d, "fingerprint", true, arena, &r->dataset.fingerprint));
    TRY(get_text(d, "suite", true, arena, &r->dataset.suite));
    TRY(get_text(d, "name", true, arena, &r->dataset.name));
    TRY(get_int(d, "n_samples", &r->dataset.n_samples));
    TRY(get_int(d, "max_length", &r->dataset.max_length));
    TRY(get_count(d, "n_tokens", false, &r->dataset.n_tokens));
    return OK;
}

static enum status read_provenance(struct json_in in, struct run_record *r, struct arena **arena)
{
    const char *status = "done";
    TRY(json_get_string(in, "status", false, &status));
    r->status = !strcmp(status, "done") ? RUN_DONE : !strcmp(status, "failed") ? RUN_FAILED : RUN_SKIPPED;
    TRY(get_text(in, "reason", false, arena, &r->reason));
    TRY(get_text(in, "version", false, arena, &r->software.version));
    TRY(get_text(in, "engine", false, arena, &r->software.engine));
    TRY(get_text(in, "compiler", false, arena, &r->software.compiler));
    TRY(get_text(in, "commit", false, arena, &r->software.commit));
    TRY(json_get_bool(in, "dirty", false, &r->software.dirty));
    TRY(get_text(in, "machine", false, arena, &r->machine.fingerprint));
    TRY(get_text(in, "cpu", false, arena, &r->machine.cpu));
    TRY(get_int(in, "cores", &r->machine.n_cores));
    TRY(get_count(in, "ram_bytes", false, &r->machine.ram_bytes));
    TRY(get_text(in, "gpus", false, arena, &r->machine.gpus));
    TRY(get_text(in, "driver", false, arena, &r->machine.driver));
    TRY(get_text(in, "os", false, arena, &r->machine.os));
    TRY(get_text(in, "started", false, arena, &r->started));
    TRY(get_text(in, "ended", false, arena, &r->ended));
    TRY(get_real(in, "wall_s", &r->wall_s));
    TRY(get_count(in, "peak_bytes", false, &r->peak_bytes));
    TRY(get_count(in, "peak_device_bytes", false, &r->peak_device_bytes));
    TRY(get_count(in, "attention_calls", false, &r->attention_calls));
    TRY(get_count(in, "dense_fallback_calls", false, &r->dense_fallback_calls));
    const cJSON *argv = cJSON_GetObjectItemCaseSensitive(in.node, "argv");
    if (cJSON_IsArray(argv)) {
        char *text = cJSON_PrintUnformatted(argv);
        r->argv_json = arena_str(arena, text);
        cJSON_free(text);
    }
    return OK;
}

/* Room for all rows of an array, so that they need not grow. */
static enum status rows_for(const cJSON *array, size_t record_bytes, const char *file, void **rows)
{
    *rows = calloc((size_t)cJSON_GetArraySize(array) + 1, record_bytes);
    return *rows ? OK : fail(ERR_MEMORY, "%s: no memory for its rows", file);
}

static enum status read_metrics(const cJSON *array, const char *file, struct metric_list *out)
{
    void *rows;
    TRY(rows_for(array, sizeof *out->rows, file, &rows));
    out->rows = rows;
    const cJSON *node;
    cJSON_ArrayForEach(node, array)
    {
        char path[40];
        snprintf(path, sizeof path, "metrics[%zu]", out->n);
        struct json_in in = {node, file, path};
        struct metric_record *m = &out->rows[out->n++];
        TRY(get_text(in, "scope", true, &out->arena, &m->scope));
        TRY(get_text(in, "name", true, &out->arena, &m->name));
        TRY(get_count(in, "n", false, &m->n));
        for (size_t k = 0; k < COUNT(metric_fields); k++)
            TRY(get_real(in, metric_fields[k].name, real_at(m, metric_fields[k])));
    }
    return OK;
}

static enum status read_samples(const cJSON *array, const char *file, struct sample_list *out)
{
    void *rows;
    TRY(rows_for(array, sizeof *out->rows, file, &rows));
    out->rows = rows;
    const cJSON *node;
    cJSON_ArrayForEach(node, array)
    {
        char path[40];
        snprintf(path, sizeof path, "detailed_results[%zu]", out->n);
        struct json_in in = {node, file, path};
        struct sample_record *s = &out->rows[out->n++];
        TRY(get_int(in, "text_idx", &s->sample));
        TRY(get_count(in, "seq_len", true, &s->n_tokens));
        TRY(get_count(in, "n_scored", false, &s->n_scored));
        TRY(json_get_bool(in, "fell_back", false, &s->fell_back));
        for (size_t k = 0; k < COUNT(sample_fields); k++)
            TRY(get_real(in, sample_fields[k].name, real_at(s, sample_fields[k])));
    }
    return OK;
}

static enum status read_generations(const cJSON *array, const char *file, struct generation_list *out)
{
    void *rows;
    TRY(rows_for(array, sizeof *out->rows, file, &rows));
    out->rows = rows;
    const cJSON *node;
    cJSON_ArrayForEach(node, array)
    {
        char path[40];
        snprintf(path, sizeof path, "generation[%zu]", out->n);
        struct json_in in = {node, file, path};
        struct generation_record *g = &out->rows[out->n];
        g->index = (int)out->n++;
        TRY(get_text(in, "prompt", true, &out->arena, &g->prompt));
        TRY(get_text(in, "dense", true, &out->arena, &g->dense));
        TRY(get_text(in, "sparse", true, &out->arena, &g->sparse));
        TRY(get_int(in, "n_tokens", &g->n_tokens));
        TRY(get_real(in, "token_match", &g->token_match));
        TRY(get_real(in, "text_similarity", &g->text_similarity));
    }
    return OK;
}

static enum status read_root(struct run_view *v, const cJSON *root, const char *path)
{
    struct json_in in = {root, path, ""}, part;
    if (!cJSON_IsObject(root))
        return fail(ERR_FORMAT, "%s: found %s, expected an object as eval --output writes it", path,
                    json_kind(root));
    const cJSON *array, *version_node = cJSON_GetObjectItemCaseSensitive(root, "schema_version");
    if (!version_node)
        return fail(ERR_FORMAT,
                    "%s: field schema_version is missing: not a file of this program; make one with eval "
                    "--output",
                    path);
    int64_t version = 0;
    TRY(json_get_int(in, "schema_version", true, 1, 1 << 20, &version));
    if (version > RUNJSON_SCHEMA_VERSION)
        return fail(ERR_FORMAT,
                    "%s: field schema_version: found %lld, this program reads up to %d; update it", path,
                    (long long)version, RUNJSON_SCHEMA_VERSION);
    v->from_file = true;
    v->runs.rows = calloc(1, sizeof *v->runs.rows);
    if (!v->runs.rows) return fail(ERR_MEMORY, "%s: no memory for a run", path);
    v->runs.n = 1;
    struct run_record *r = v->runs.rows;
    v->run = r;
    v->label = arena_str(&v->runs.arena, path_base(path));
    TRY(get_object(in, "config", &part));
    TRY(read_config(part, r, &v->runs.arena));
    TRY(get_text(part, "model", false, &v->runs.arena, &r->model.path));
    TRY(get_object(in, "identity", &part));
    TRY(read_identity(part, r, &v->runs.arena));
    TRY(get_object(in, "provenance", &part));
    TRY(read_provenance(part, r, &v->runs.arena));
    TRY(get_array(in, "metrics", &array));
    TRY(read_metrics(array, path, &v->metrics));
    TRY(runjson_read_latencies(in, &v->latencies));
    TRY(get_array(in, "detailed_results", &array));
    TRY(read_samples(array, path, &v->samples));
    TRY(get_array(in, "generation", &array));
    TRY(read_generations(array, path, &v->generations));
    return runjson_check(v, root, path);
}

/* What the database keeps beside the metrics. */
static void fill_headline(const struct run_view *v, struct headline *h)
{
    const struct metric_record *c = metric_list_find(&v->metrics, "overall", "cosine");
    const struct metric_record *k = metric_list_find(&v->metrics, "overall", "kl");
    const struct metric_record *p = metric_list_find(&v->metrics, "overall", "ppl_ratio");
    *h = (struct headline){
        .sparsity = run_view_metric(v, "sparsity"),
        .qk_sparsity = run_view_metric(v, "qk_sparsity"),
        .pv_sparsity = run_view_metric(v, "pv_sparsity"),
        .cosine_mean = c ? c->mean : NAN,
        .cosine_lo = c ? c->lo : NAN,
        .cosine_hi = c ? c->hi : NAN,
        .cosine_p1 = c ? c->p1 : NAN,
        .kl_mean = k ? k->mean : NAN,
        .kl_lo = k ? k->lo : NAN,
        .kl_hi = k ? k->hi : NAN,
        .kl_p99_9 = k ? k->p99_9 : NAN,
        .ppl_dense = run_view_metric(v, "ppl_dense"),
        .ppl_sparse = run_view_metric(v, "ppl_sparse"),
        .ppl_ratio = p ? p->mean : NAN,
        .ppl_ratio_lo = p ? p->lo : NAN,
        .ppl_ratio_hi = p ? p->hi : NAN,
        .token_accuracy = run_view_metric(v, "token_accuracy"),
        .top5_overlap = run_view_metric(v, "top5_overlap"),
        .logits_cosine = run_view_metric(v, "logits_cosine"),
        .logits_l1 = run_view_metric(v, "logits_l1"),
        .logits_rmse = run_view_metric(v, "logits_rmse"),
        .hidden_cosine = run_view_metric(v, "hidden_cosine"),
        .hidden_l1 = run_view_metric(v, "hidden_l1"),
        .score_dense = run_view_metric(v, "score_dense"),
        .score_sparse = run_view_metric(v, "score_sparse"),
        .score_drop = run_view_metric(v, "score_drop"),
        .latency_dense = run_view_metric(v, "latency_dense"),
        .latency_sparse = run_view_metric(v, "latency_sparse"),
        .latency_ratio = run_view_metric(v, "latency_ratio"),
    };
}

enum status runjson_read(struct run_view *v, const char *path)
{
    memset(v, 0, sizeof *v);
    cJSON *root;
    TRY(json_read_file(&root, path));
    enum status st = read_root(v, root, path);
    cJSON_Delete(root);
    if (st == OK) fill_headline(v, &v->runs.rows->headline);
    else run_view_clear(v);
    return st;
}
