#include "reports/runjson.h"

#include "base/file.h"
#include "base/json.h"
#include "reports/runjson_parts.h"
#include "results/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The overall metrics that the tuning guide's block holds, its own first. */
static const char *const accuracy_names[] = {
    "logits_cosine",
    "logits_l1",
    "logits_rmse",
    "hidden_cosine",
    "hidden_l1",
    "token_accuracy",
    "top5_overlap",
    "ppl_dense",
    "ppl_sparse",
    "ppl_ratio",
    "score_dense",
    "score_sparse",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void put_real(cJSON *o, const char *name, double value)
{
    cJSON_AddItemToObject(
        o, name, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

static void put_text(cJSON *o, const char *name, const char *text)
{
    cJSON_AddItemToObject(o, name, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static void put_count(cJSON *o, const char *name, int64_t value)
{
    cJSON_AddItemToObject(
        o, name, value >= 0 ? cJSON_CreateNumber((double)value) : cJSON_CreateNull());
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

/* The columns of a section, of the run and of the records in it. */
static cJSON *section_json(const struct run_record *r, const char *section)
{
    cJSON *o = cJSON_CreateObject();
    for (int i = 0; i < RUN_PARTS; i++)
        columns_to_json(o, run_parts[i].columns, (const char *)r + run_parts[i].offset, section);
    return o;
}

static cJSON *config_json(const struct run_record *r)
{
    cJSON *o = section_json(r, "config");
    put_text(o, "model", r->model.path ? r->model.path : r->model.name);
    put_layer_range(o, r->layers);
    return o;
}

static cJSON *identity_json(const struct run_record *r)
{
    cJSON *o = section_json(r, "identity");
    cJSON_AddItemToObject(o, "model", section_json(r, "identity.model"));
    cJSON_AddItemToObject(o, "data", section_json(r, "identity.data"));
    return o;
}

static void add_accuracy(cJSON *file, const struct run_view *v)
{
    cJSON *o = cJSON_AddObjectToObject(file, "output_accuracy");
    int64_t longest = v->run->max_length;
    for (size_t i = 0; i < v->samples.n; i++)
        if (i == 0 || v->samples.rows[i].n_tokens > longest) longest = v->samples.rows[i].n_tokens;
    put_count(o, "seq_len", longest);
    for (size_t i = 0; i < COUNT(accuracy_names); i++)
        put_real(o, accuracy_names[i], run_view_metric(v, accuracy_names[i]));
    put_real(o, "kl", run_view_metric(v, "kl"));
    put_real(o, "cosine", run_view_metric(v, "cosine"));
}

/* Over samples, as in the guide. */
static void add_sparsity(cJSON *file, const struct run_view *v)
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
    cJSON *o = cJSON_AddObjectToObject(file, "sparsity");
    put_real(o, "mean", isnan(mean) && n ? sum / (double)n : mean);
    put_real(o, "std", n ? sqrt(squares / (double)n) : NAN);
    put_real(o, "min", min);
    put_real(o, "max", max);
    put_real(o, "qk", run_view_metric(v, "qk_sparsity"));
    put_real(o, "pv", run_view_metric(v, "pv_sparsity"));
}

/* One object a row. */
static cJSON *rows_json(const struct columns *t, const void *rows, size_t n)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        cJSON *o = cJSON_CreateObject();
        columns_to_json(o, t, (const char *)rows + i * t->bytes, NULL);
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static cJSON *generation_json(const struct run_view *v)
{
    cJSON *list = rows_json(&generation_columns, v->generations.rows, v->generations.n);
    for (size_t i = 0; i < v->generations.n; i++)
        if (generation_is_dense(&v->generations.rows[i])) /* on both sides, whatever the settings */
            put_text(cJSON_GetArrayItem(list, (int)i), "prefill", "dense");
    return list;
}

enum status runjson_write(const struct run_view *v, const char *path)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "schema_version", RUNJSON_SCHEMA_VERSION);
    put_text(o, "program", "sparsegauge");
    cJSON_AddItemToObject(o, "config", config_json(v->run));
    add_accuracy(o, v);
    cJSON_AddItemToObject(o, "generation", generation_json(v));
    add_sparsity(o, v);
    cJSON_AddItemToObject(
        o, "detailed_results", rows_json(&sample_columns, v->samples.rows, v->samples.n));
    cJSON_AddItemToObject(o, "metrics", rows_json(&metric_columns, v->metrics.rows, v->metrics.n));
    cJSON_AddItemToObject(o, "tails", runjson_tails(v));
    if (v->items.n)
        cJSON_AddItemToObject(o, "items", rows_json(&item_columns, v->items.rows, v->items.n));
    if (v->latencies.n) /* without them a file could not say that a time is not valid */
        cJSON_AddItemToObject(
            o, "latencies", rows_json(&latency_columns, v->latencies.rows, v->latencies.n));
    cJSON_AddItemToObject(o, "identity", identity_json(v->run));
    cJSON_AddItemToObject(o, "provenance", section_json(v->run, "provenance"));
    enum status st = json_write_file(path, o);
    cJSON_Delete(o);
    return st;
}

enum status runjson_write_stats(const struct run_view *v, const char *path)
{
    if (v->ledger.n == 0)
        return fail(ERR_ARG, "%s: %s holds no per-layer counts to write; name a run of a database",
            path, v->label);
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

static enum status get_object(struct json_in in, const char *name, struct json_in *out)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, name);
    if (!cJSON_IsObject(node))
        return fail(ERR_FORMAT,
            "%s: field %s%s%s: found %s, expected an object; is it a file that eval --output "
            "wrote?",
            in.file, in.path, *in.path ? "." : "", name, json_kind(node));
    *out = (struct json_in){node, in.file, name};
    return OK;
}

static enum status read_section(
    struct json_in in, struct run_record *r, const char *section, struct arena **arena)
{
    const char *dot = strrchr(section, '.');
    struct json_in part;
    TRY(get_object(in, dot ? dot + 1 : section, &part));
    part.path = section;
    for (int i = 0; i < RUN_PARTS; i++)
        TRY(columns_from_json(
            part, run_parts[i].columns, (char *)r + run_parts[i].offset, section, arena));
    return OK;
}

/* The objects of an array as malloced records. */
static enum status read_rows(struct json_in in, const char *name, bool required,
    const struct columns *t, void **rows, size_t *n, struct arena **arena)
{
    const cJSON *node, *array = cJSON_GetObjectItemCaseSensitive(in.node, name);
    if (!array && !required) return OK;
    if (!cJSON_IsArray(array))
        return fail(ERR_FORMAT,
            "%s: field %s: found %s, expected an array; is it a file that eval --output wrote?",
            in.file, name, json_kind(array));
    *rows = calloc((size_t)cJSON_GetArraySize(array) + 1, t->bytes);
    if (!*rows) return fail(ERR_MEMORY, "%s: no memory for its %s", in.file, name);
    cJSON_ArrayForEach(node, array)
    {
        char path[40];
        snprintf(path, sizeof path, "%s[%zu]", name, *n);
        void *record = (char *)*rows + (*n)++ * t->bytes;
        TRY(columns_from_json((struct json_in){node, in.file, path}, t, record, NULL, arena));
    }
    return OK;
}

#define READ_ROWS(in, name, required, columns, list)                                    \
    do {                                                                                \
        void *rows_ = NULL;                                                             \
        enum status st_ =                                                               \
            read_rows(in, name, required, columns, &rows_, &(list)->n, &(list)->arena); \
        (list)->rows = rows_;                                                           \
        TRY(st_);                                                                       \
    } while (0)

static int by_number(const void *a, const void *b)
{
    int x = ((const struct sample_record *)a)->sample,
        y = ((const struct sample_record *)b)->sample;
    return (x > y) - (x < y);
}

/* As a database gives them: in order, each once. */
static enum status order_samples(struct run_view *v, const char *path)
{
    if (v->samples.n) qsort(v->samples.rows, v->samples.n, sizeof *v->samples.rows, by_number);
    for (size_t i = 1; i < v->samples.n; i++)
        if (v->samples.rows[i].sample == v->samples.rows[i - 1].sample)
            return fail(ERR_FORMAT,
                "%s: field detailed_results.text_idx: found %d twice; each text counts once", path,
                v->samples.rows[i].sample);
    return OK;
}

static enum status read_root(struct run_view *v, const cJSON *root, const char *path)
{
    struct json_in in = {root, path, ""}, part;
    if (!cJSON_IsObject(root))
        return fail(ERR_FORMAT, "%s: found %s, expected an object as eval --output writes it", path,
            json_kind(root));
    const cJSON *version_node = cJSON_GetObjectItemCaseSensitive(root, "schema_version");
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
    struct arena **arena = &v->runs.arena;
    TRY(read_section(in, r, "config", arena));
    TRY(get_object(in, "config", &part));
    TRY(json_get_string(part, "model", false, &r->model.path));
    r->model.path = arena_str(arena, r->model.path);
    TRY(read_section(in, r, "identity", arena));
    TRY(get_object(in, "identity", &part));
    TRY(read_section(part, r, "identity.model", arena));
    TRY(read_section(part, r, "identity.data", arena));
    TRY(read_section(in, r, "provenance", arena));
    TRY(get_object(in, "provenance", &part));
    const char *status = NULL;
    TRY(json_get_string(part, "status", true, &status));
    READ_ROWS(in, "metrics", true, &metric_columns, &v->metrics);
    READ_ROWS(in, "latencies", false, &latency_columns, &v->latencies);
    READ_ROWS(in, "detailed_results", true, &sample_columns, &v->samples);
    READ_ROWS(in, "items", false, &item_columns, &v->items);
    TRY(runjson_read_tails(in, &v->tails));
    READ_ROWS(in, "generation", true, &generation_columns, &v->generations);
    for (size_t i = 0; i < v->generations.n; i++) v->generations.rows[i].index = (int)i;
    TRY(order_samples(v, path));
    cJSON *blocks = cJSON_CreateObject();
    add_accuracy(blocks, v);
    add_sparsity(blocks, v);
    cJSON_DeleteItemFromObject(blocks->child, "seq_len"); /* of some text, by the guide's scripts */
    enum status st = runjson_check(v, root, blocks, path);
    cJSON_Delete(blocks);
    return st;
}

enum status runjson_read(struct run_view *v, const char *path)
{
    memset(v, 0, sizeof *v);
    cJSON *root;
    TRY(json_read_file(&root, path));
    enum status st = read_root(v, root, path);
    cJSON_Delete(root);
    if (st == OK) headline_fill(&v->runs.rows->headline, v->metrics.rows, v->metrics.n);
    else run_view_clear(v);
    return st;
}
