#include "results/columns.h"

#include "base/json.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMN(record, name, member, type, use, json, label)                   \
    {                                                                          \
        name, json, label, COLUMN_##type, use, offsetof(struct record, member) \
    }
#define TABLE(record, rows) \
    .at = (rows), .n = sizeof(rows) / sizeof *(rows), .bytes = sizeof(struct record)

enum {
    KEY = COLUMN_KEY | COLUMN_SETTING,
    SPARSE = KEY | COLUMN_SPARSE,
    BOUND = SPARSE | COLUMN_BOUND,
    PLACE = SPARSE | COLUMN_PLACE,
    NAMED = COLUMN_NAMED,
    SETTING = COLUMN_SETTING,
    WHERE = COLUMN_PROVENANCE,
    MEASURED = COLUMN_MEASURED,
    TIMED = COLUMN_MEASURED | COLUMN_TIMING,
};

/* clang-format off */
#define RUN(member, type, use, json, label) COLUMN(run_record, #member, member, type, use, json, label)
#define HEAD(member) COLUMN(run_record, #member, headline.member, REAL, COLUMN_HEADLINE, NULL, NULL)
static const struct column run_table[] = {
    RUN(key, TEXT, NAMED, "identity.key", NULL),
    RUN(slot, TEXT, NAMED, "identity.slot", NULL),
    RUN(key_json, TEXT, NAMED, "identity.key_json", NULL),
    RUN(plan, TEXT, 0, NULL, NULL),
    RUN(status, STATUS, MEASURED, "provenance.status", NULL),
    RUN(reason, TEXT, 0, "provenance.reason", NULL),
    /* settings, in the order of the key */
    RUN(max_length, INT, KEY, "config.max_length", "length"),
    RUN(num_samples, INT, KEY | COLUMN_DATA, "config.num_samples", "samples"),
    RUN(score, TEXT, KEY | COLUMN_DATA, "config.score", NULL),
    RUN(method, TEXT, KEY | NAMED | COLUMN_REQUIRED, "config.method", NULL),
    RUN(block_q, BLOCK, SPARSE, "config.block_q", NULL),
    RUN(block_k, BLOCK, SPARSE, "config.block_k", NULL),
    RUN(smooth_k, TEXT, SPARSE, "config.smooth_k", NULL),
    RUN(qk, TEXT, KEY, "config.qk", "Q·K"),
    RUN(pv, TEXT, KEY, "config.pv", "P·V"),
    RUN(layers, TEXT, PLACE | NAMED | COLUMN_REQUIRED, "config.layers", NULL),
    RUN(heads, TEXT, PLACE | NAMED, "config.heads", NULL),
    RUN(rule, TEXT, SPARSE, "config.rule", NULL),
    RUN(l1, REAL, BOUND, "config.l1", NULL),
    RUN(pv_l1, REAL, BOUND, "config.pv_l1", NULL),
    RUN(simthreshd1, REAL, BOUND, "config.simthreshd1", NULL),
    RUN(cdfthreshd, REAL, BOUND, "config.cdfthreshd", NULL),
    RUN(pvthreshd, REAL, BOUND, "config.pvthreshd", NULL),
    RUN(topk, REAL, SPARSE, "config.topk", NULL),
    RUN(window, INT64, SPARSE | COLUMN_OPTIONAL, "config.window", NULL),
    RUN(min_sparse_tokens, INT, SPARSE, "config.min_sparse_tokens", NULL),
    RUN(device, TEXT, KEY | NAMED, "config.device", NULL),
    RUN(residual, TEXT, KEY, "config.residual", NULL),
    RUN(graph, BOOL, KEY | COLUMN_UNSAID, "config.graph", NULL),
    RUN(impl, TEXT, KEY, "config.impl", NULL),
    RUN(repeat, INT, KEY | COLUMN_UNSAID, "config.repeat", NULL),
    RUN(confirming, BOOL, KEY | COLUMN_UNSAID, "config.confirming", NULL),
    RUN(seed, UNSIGNED, KEY | COLUMN_UNSAID, "config.seed", NULL),
    RUN(tuned_hash, TEXT, SETTING | COLUMN_PLACE | COLUMN_BOUND, "config.tuned_hash", "tuned"),
    /* how and where */
    RUN(threads, INT, WHERE, "config.threads", NULL),
    RUN(impls, TEXT, WHERE | MEASURED, "config.impls", "kernels"),
    RUN(blas, TEXT, WHERE | COLUMN_ARITHMETIC, "provenance.blas", NULL),
    RUN(isa, TEXT, WHERE | COLUMN_ARITHMETIC, "provenance.isa", "instructions"),
    COLUMN(run_record, "argv", argv_json, JSON, 0, "provenance.argv", NULL),
    /* found out */
    RUN(attention_calls, INT64, MEASURED, "provenance.attention_calls", NULL),
    RUN(dense_fallback_calls, INT64, MEASURED, "provenance.dense_fallback_calls", NULL),
    RUN(started, TEXT, COLUMN_TIMING, "provenance.started", NULL),
    RUN(ended, TEXT, COLUMN_TIMING, "provenance.ended", NULL),
    RUN(wall_s, REAL, TIMED, "provenance.wall_s", NULL),
    RUN(peak_bytes, INT64, TIMED | COLUMN_OPTIONAL, "provenance.peak_bytes", NULL),
    RUN(peak_device_bytes, INT64, TIMED | COLUMN_OPTIONAL, "provenance.peak_device_bytes", NULL),
    RUN(digest, TEXT, NAMED, NULL, NULL),
    HEAD(sparsity), HEAD(qk_sparsity), HEAD(pv_sparsity),
    HEAD(cosine_mean), HEAD(cosine_lo), HEAD(cosine_hi), HEAD(cosine_p1),
    HEAD(kl_mean), HEAD(kl_lo), HEAD(kl_hi), HEAD(kl_p99_9),
    HEAD(ppl_dense), HEAD(ppl_sparse), HEAD(ppl_ratio), HEAD(ppl_ratio_lo), HEAD(ppl_ratio_hi),
    HEAD(token_accuracy), HEAD(top5_overlap),
    HEAD(logits_cosine), HEAD(logits_l1), HEAD(logits_rmse), HEAD(hidden_cosine), HEAD(hidden_l1),
    HEAD(score_dense), HEAD(score_sparse), HEAD(score_drop),
    HEAD(latency_dense), HEAD(latency_sparse), HEAD(latency_ratio),
};
const struct columns run_columns = {.table = "run", TABLE(run_record, run_table)};

#define MODEL(name, member, type, use, json, label) COLUMN(model_record, name, member, type, use, json, label)
static const struct column model_table[] = {
    MODEL("fingerprint", fingerprint, TEXT, WHERE | NAMED | COLUMN_REQUIRED, "identity.model.fingerprint", "model"),
    MODEL("name", name, TEXT, NAMED | COLUMN_REQUIRED, "identity.model.name", NULL),
    MODEL("path", path, TEXT, 0, NULL, NULL), /* "config.model" of a file, see reports/runjson.c */
    MODEL("config", config_json, TEXT, 0, NULL, NULL),
    MODEL("n_layers", n_layers, SIZE, 0, "identity.model.n_layers", NULL),
    MODEL("n_heads", n_heads, SIZE, 0, "identity.model.n_heads", NULL),
    MODEL("n_kv_heads", n_kv_heads, SIZE, 0, "identity.model.n_kv_heads", NULL),
    MODEL("head_dim", head_dim, SIZE, 0, "identity.model.head_dim", NULL),
    MODEL("vocab", vocab, INT, 0, "identity.model.vocab", NULL),
    MODEL("n_params", n_params, INT64, 0, "identity.model.n_params", NULL),
};
const struct columns model_columns = {.table = "model", TABLE(model_record, model_table)};

#define DATA(member, type, use, label) \
    COLUMN(dataset_record, #member, member, type, use, "identity.data." #member, label)
static const struct column dataset_table[] = {
    DATA(fingerprint, TEXT, WHERE | NAMED | COLUMN_REQUIRED, "data"),
    DATA(suite, TEXT, NAMED | COLUMN_REQUIRED, NULL),
    DATA(name, TEXT, NAMED | COLUMN_REQUIRED, NULL),
    DATA(n_samples, INT, 0, NULL),
    DATA(max_length, INT, 0, NULL),
    DATA(n_tokens, INT64, 0, NULL),
};
const struct columns dataset_columns = {.table = "dataset", TABLE(dataset_record, dataset_table)};

#define MACHINE(member, type, use, json, label) COLUMN(machine_record, #member, member, type, use, json, label)
static const struct column machine_table[] = {
    MACHINE(fingerprint, TEXT, NAMED, "provenance.machine", NULL),
    MACHINE(hostname, TEXT, 0, NULL, NULL),
    MACHINE(cpu, TEXT, WHERE | NAMED, "provenance.cpu", "machine"),
    MACHINE(n_cores, INT, 0, "provenance.cores", NULL),
    MACHINE(ram_bytes, INT64, 0, "provenance.ram_bytes", NULL),
    MACHINE(gpus, TEXT, WHERE | COLUMN_ARITHMETIC, "provenance.gpus", "GPUs"),
    MACHINE(driver, TEXT, WHERE | COLUMN_ARITHMETIC, "provenance.driver", NULL),
    MACHINE(os, TEXT, 0, "provenance.os", NULL),
};
const struct columns machine_columns = {.table = "machine", TABLE(machine_record, machine_table)};

#define SOFTWARE(name, member, type, use) \
    COLUMN(software_record, name, member, type, use, "provenance." #member, #member)
static const struct column software_table[] = {
    SOFTWARE("version", version, TEXT, WHERE | NAMED),
    SOFTWARE("engine", engine, TEXT, WHERE | NAMED),
    SOFTWARE("compiler", compiler, TEXT, WHERE | NAMED | COLUMN_ARITHMETIC),
    SOFTWARE("git_commit", commit, TEXT, WHERE | NAMED | COLUMN_EMPTY),
    SOFTWARE("dirty", dirty, BOOL, WHERE),
};
const struct columns software_columns = {.table = "software", TABLE(software_record, software_table)};

const struct run_part run_parts[RUN_PARTS] = {
    {&run_columns, 0},
    {&model_columns, offsetof(struct run_record, model)},
    {&dataset_columns, offsetof(struct run_record, dataset)},
    {&machine_columns, offsetof(struct run_record, machine)},
    {&software_columns, offsetof(struct run_record, software)},
};

#define METRIC(member, type, use) COLUMN(metric_record, #member, member, type, use, #member, NULL)
static const struct column metric_table[] = {
    METRIC(scope, TEXT, NAMED | COLUMN_REQUIRED), METRIC(name, TEXT, NAMED | COLUMN_REQUIRED), METRIC(n, INT64, 0),
    METRIC(mean, REAL, 0), METRIC(std_error, REAL, 0), METRIC(min, REAL, 0), METRIC(p0_1, REAL, 0),
    METRIC(p1, REAL, 0), METRIC(p5, REAL, 0), METRIC(median, REAL, 0), METRIC(p95, REAL, 0), METRIC(p99, REAL, 0),
    METRIC(p99_9, REAL, 0), METRIC(max, REAL, 0), METRIC(lo, REAL, 0), METRIC(hi, REAL, 0),
};
const struct columns metric_columns = {
    .table = "metric", TABLE(metric_record, metric_table), .ordinal = true, .brief = true};

#define SAMPLE(member) COLUMN(sample_record, #member, member, REAL, 0, #member, NULL)
static const struct column sample_table[] = {
    COLUMN(sample_record, "sample", sample, SAMPLE, 0, "text_idx", NULL),
    COLUMN(sample_record, "n_tokens", n_tokens, INT64, COLUMN_REQUIRED, "seq_len", NULL),
    COLUMN(sample_record, "n_scored", n_scored, INT64, 0, "n_scored", NULL),
    COLUMN(sample_record, "fell_back", fell_back, BOOL, 0, "fell_back", NULL),
    SAMPLE(logits_cosine), SAMPLE(logits_l1), SAMPLE(logits_rmse), SAMPLE(hidden_cosine), SAMPLE(hidden_l1),
    SAMPLE(token_accuracy), SAMPLE(top5_overlap), SAMPLE(sparsity), SAMPLE(qk_sparsity), SAMPLE(pv_sparsity),
    SAMPLE(nll_dense_sum), SAMPLE(nll_sparse_sum), SAMPLE(cosine_mean), SAMPLE(cosine_p1), SAMPLE(cosine_min),
    SAMPLE(kl_mean), SAMPLE(kl_p99_9), SAMPLE(kl_max), SAMPLE(delta_p_mean), SAMPLE(cosine_centred_mean),
    SAMPLE(row_rmse_mean), SAMPLE(row_hidden_cosine_mean), SAMPLE(logits_dense_rms), SAMPLE(logits_sparse_rms),
    SAMPLE(hidden_dense_rms), SAMPLE(hidden_sparse_rms), SAMPLE(tiles_possible), SAMPLE(pv_possible),
};
const struct columns sample_columns = {.table = "sample", TABLE(sample_record, sample_table)};

/* One row a head, as in v_ledger; the table itself holds a row a layer. */
#define LEDGER(member, type) COLUMN(ledger_record, #member, member, type, 0, NULL, NULL)
static const struct column ledger_table[] = {
    LEDGER(layer, INDEX), LEDGER(head, HEAD), LEDGER(tiles_possible, INT64), LEDGER(tiles_computed, INT64),
    LEDGER(pv_possible, INT64), LEDGER(pv_computed, INT64), LEDGER(forced_sink, INT64),
    LEDGER(forced_diagonal, INT64), LEDGER(forced_theta_q, INT64), LEDGER(forced_theta_k, INT64),
    LEDGER(calls, INT64), LEDGER(dense_head, INT64), LEDGER(dense_layer, INT64), LEDGER(dense_short, INT64),
    LEDGER(eight, INT64), LEDGER(tiles_corrected, INT64),
    LEDGER(theta, REAL), LEDGER(tau, REAL), LEDGER(lambda, REAL),
};
const struct columns ledger_columns = {.table = "v_ledger", TABLE(ledger_record, ledger_table)};

#define ERROR(member, type) COLUMN(layer_error_record, #member, member, type, 0, NULL, NULL)
static const struct column layer_error_table[] = {
    ERROR(sample, SAMPLE), ERROR(layer, INDEX), ERROR(head, HEAD), ERROR(isolated_l1, REAL), ERROR(isolated_cosine, REAL),
    ERROR(propagated_l1, REAL), ERROR(propagated_cosine, REAL),
};
const struct columns layer_error_columns = {.table = "layer_error", TABLE(layer_error_record, layer_error_table)};

#define ITEM(name, member, type, use) COLUMN(item_record, name, member, type, use, #member, NULL)
static const struct column item_table[] = {
    ITEM("item", item, TEXT, NAMED | COLUMN_REQUIRED), ITEM("grp", group, TEXT, 0), ITEM("sample", sample, INT, COLUMN_OPTIONAL),
    ITEM("depth", depth, REAL, 0), ITEM("length", length, INT64, COLUMN_OPTIONAL),
    ITEM("dense_score", dense_score, REAL, 0), ITEM("sparse_score", sparse_score, REAL, 0),
    ITEM("dense_right", dense_right, BOOL, 0), ITEM("sparse_right", sparse_right, BOOL, 0),
    ITEM("dense_right_norm", dense_right_norm, INT, COLUMN_OPTIONAL),
    ITEM("sparse_right_norm", sparse_right_norm, INT, COLUMN_OPTIONAL),
    ITEM("chance", chance, REAL, 0), ITEM("kl", kl, REAL, 0),
    ITEM("recall", recall, REAL, 0), ITEM("recall_oracle", recall_oracle, REAL, 0),
    ITEM("recall_p5", recall_p5, REAL, 0), ITEM("recall_group", recall_group, REAL, 0),
    ITEM("dense_value", dense_value, REAL, 0), ITEM("sparse_value", sparse_value, REAL, 0),
    ITEM("expected", expected, TEXT, 0), ITEM("dense_text", dense_text, TEXT, 0), ITEM("sparse_text", sparse_text, TEXT, 0),
};
const struct columns item_columns = {.table = "item", TABLE(item_record, item_table), .ordinal = true};

#define GENERATION(name, member, type, use, json) COLUMN(generation_record, name, member, type, use, json, NULL)
static const struct column generation_table[] = {
    GENERATION("idx", index, INT, 0, NULL),
    GENERATION("prompt", prompt, TEXT, NAMED | COLUMN_REQUIRED, "prompt"),
    GENERATION("dense", dense, TEXT, NAMED | COLUMN_REQUIRED, "dense"),
    GENERATION("sparse", sparse, TEXT, NAMED | COLUMN_REQUIRED, "sparse"),
    GENERATION("token_match", token_match, REAL, 0, "token_match"),
    GENERATION("text_similarity", text_similarity, REAL, 0, "text_similarity"),
    GENERATION("n_tokens", n_tokens, INT, 0, "n_tokens"),
};
const struct columns generation_columns = {.table = "generation", TABLE(generation_record, generation_table)};

#define LATENCY(member, type, use) COLUMN(latency_record, #member, member, type, use, #member, NULL)
static const struct column latency_table[] = {
    LATENCY(part, TEXT, NAMED | COLUMN_REQUIRED), LATENCY(n_tokens, INT64, COLUMN_REQUIRED), LATENCY(n, INT, COLUMN_REQUIRED),
    LATENCY(min, REAL, COLUMN_TIMING), LATENCY(p5, REAL, COLUMN_TIMING), LATENCY(q1, REAL, COLUMN_TIMING),
    LATENCY(median, REAL, COLUMN_TIMING), LATENCY(q3, REAL, COLUMN_TIMING), LATENCY(p95, REAL, COLUMN_TIMING),
    LATENCY(max, REAL, COLUMN_TIMING), LATENCY(mean, REAL, COLUMN_TIMING), LATENCY(valid, BOOL, COLUMN_REQUIRED),
    LATENCY(note, TEXT, 0),
};
const struct columns latency_columns = {.table = "latency", TABLE(latency_record, latency_table), .brief = true};

#define WORST(member, type) COLUMN(worst_token_record, #member, member, type, 0, NULL, NULL)
static const struct column worst_token_table[] = {
    WORST(sample, SAMPLE), WORST(position, INT64), WORST(token, INT64), WORST(kl, REAL), WORST(cosine, REAL),
    WORST(nll_dense, REAL), WORST(nll_sparse, REAL), WORST(row_sparsity, REAL), WORST(context, TEXT),
    WORST(token_text, TEXT), WORST(top_dense, TEXT), WORST(top_sparse, TEXT),
};
const struct columns worst_token_columns = {.table = "worst_token", TABLE(worst_token_record, worst_token_table)};

#define MASK(member, type) COLUMN(mask_record, #member, member, type, 0, NULL, NULL)
static const struct column mask_table[] = {
    MASK(sample, SAMPLE), MASK(layer, INDEX), MASK(head, HEAD), MASK(n_q, TILES), MASK(n_k, TILES),
};
const struct columns mask_columns = {.table = "block_mask", TABLE(mask_record, mask_table)};

#define TUNED(member, type, use) COLUMN(tuned_record, #member, member, type, use, NULL, NULL)
static const struct column tuned_table[] = {
    TUNED(hash, TEXT, NAMED), TUNED(model_fingerprint, TEXT, NAMED), TUNED(data_fingerprint, TEXT, NAMED),
    TUNED(method, TEXT, NAMED), TUNED(rule, TEXT, NAMED), TUNED(smooth_k, TEXT, NAMED), TUNED(layers, TEXT, NAMED),
    TUNED(l1, REAL, 0), TUNED(pv_l1, REAL, 0), TUNED(block_q, BLOCK, COLUMN_REQUIRED),
    TUNED(block_k, BLOCK, COLUMN_REQUIRED), TUNED(json, TEXT, 0), TUNED(wall_s, REAL, 0),
};
const struct columns tuned_columns = {.table = "tuned", TABLE(tuned_record, tuned_table)};

#define TUNED_HEAD(member, type) COLUMN(tuned_head_record, #member, member, type, 0, NULL, NULL)
static const struct column tuned_head_table[] = {
    TUNED_HEAD(layer, INDEX), TUNED_HEAD(head, INDEX), TUNED_HEAD(is_sparse, BOOL), TUNED_HEAD(theta, REAL),
    TUNED_HEAD(tau, REAL), TUNED_HEAD(lambda, REAL), TUNED_HEAD(l1_tune, REAL), TUNED_HEAD(l1_held_out, REAL),
    TUNED_HEAD(tail_tune, REAL), TUNED_HEAD(tail_held_out, REAL), TUNED_HEAD(qk_sparsity, REAL),
    TUNED_HEAD(sparsity, REAL), TUNED_HEAD(back_offs, INT), TUNED_HEAD(reason, TEXT),
};
const struct columns tuned_head_columns = {.table = "tuned_head", TABLE(tuned_head_record, tuned_head_table)};

#define CURVE(member, type, use) COLUMN(curve_key, #member, member, type, use, NULL, NULL)
static const struct column curve_table[] = {
    CURVE(model_fingerprint, TEXT, NAMED), CURVE(data_fingerprint, TEXT, NAMED), CURVE(kind, TEXT, NAMED),
    CURVE(method, TEXT, NAMED), CURVE(smooth_k, TEXT, NAMED), CURVE(block_q, BLOCK, 0), CURVE(block_k, BLOCK, 0),
    CURVE(layer, INDEX, 0), CURVE(head, INDEX, 0), CURVE(sample, SAMPLE, 0),
};
const struct columns curve_columns = {.table = "curve", TABLE(curve_key, curve_table)};
/* clang-format on */

static const char *const status_names[] = {"done", "failed", "skipped"};

const char *run_status_name(enum run_status status) { return status_names[status]; }

enum run_status run_status_of(const char *name)
{
    return !strcmp(name, "done") ? RUN_DONE : !strcmp(name, "failed") ? RUN_FAILED : RUN_SKIPPED;
}

/* Members by type. */
static const void *member_of(const struct column *c, const void *record)
{
    return (const char *)record + c->offset;
}
static const char *text_of(const struct column *c, const void *record)
{
    return *(const char *const *)member_of(c, record);
}

bool column_is_text(const struct column *c)
{
    return c->type == COLUMN_TEXT || c->type == COLUMN_JSON;
}

bool column_is_int(const struct column *c, int *lo, int *hi)
{
    static const int ranges[][2] = {
        [COLUMN_INT] = {0, INT_MAX},
        [COLUMN_SAMPLE] = {-1, INT_MAX},
        [COLUMN_INDEX] = {0, 65535},
        [COLUMN_HEAD] = {-1, 65535},
        [COLUMN_SIZE] = {1, 65535},
        [COLUMN_BLOCK] = {0, 4096},
        [COLUMN_TILES] = {0, 1 << 20},
    };
    if (c->type < COLUMN_INT || c->type > COLUMN_TILES) return false;
    *lo = ranges[c->type][0];
    *hi = ranges[c->type][1];
    if (c->use & COLUMN_REQUIRED && *lo < 1) *lo = 1;
    return true;
}

/* The integer types, widened. */
static int64_t integer_of(const struct column *c, const void *record)
{
    const void *m = member_of(c, record);
    int lo, hi;
    if (column_is_int(c, &lo, &hi)) return *(const int *)m;
    switch (c->type) {
    case COLUMN_INT64: return *(const int64_t *)m;
    case COLUMN_UNSIGNED: return (int64_t) * (const uint64_t *)m;
    case COLUMN_BOOL: return *(const bool *)m;
    case COLUMN_STATUS: return *(const enum run_status *)m;
    default: assert(!"an integer"); return 0;
    }
}

void columns_blank(const struct columns *t, void *record)
{
    memset(record, 0, t->bytes);
    for (size_t i = 0; i < t->n; i++) {
        void *m = (char *)record + t->at[i].offset;
        if (t->at[i].type == COLUMN_REAL) *(double *)m = NAN;
        if (!(t->at[i].use & COLUMN_OPTIONAL)) continue;
        if (t->at[i].type == COLUMN_INT64) *(int64_t *)m = -1;
        else *(int *)m = -1;
    }
}

double column_real(const struct column *c, const void *record)
{
    return c->type == COLUMN_REAL ? *(const double *)member_of(c, record)
                                  : (double)integer_of(c, record);
}

bool column_missing(const struct column *c, const void *record)
{
    if (column_is_text(c)) return !text_of(c, record);
    if (c->type == COLUMN_REAL) return isnan(column_real(c, record));
    return c->use & COLUMN_OPTIONAL && integer_of(c, record) < 0;
}

bool column_same(const struct column *c, const void *a, const void *b)
{
    if (column_is_text(c)) return text_same(text_of(c, a), text_of(c, b));
    if (c->type != COLUMN_REAL) return integer_of(c, a) == integer_of(c, b);
    double x = column_real(c, a), y = column_real(c, b);
    return x == y || (isnan(x) && isnan(y));
}

const char *column_label(const struct column *c) { return c->label ? c->label : c->name; }

void column_describe(const struct column *c, const void *record, struct str *out)
{
    if (column_missing(c, record)) str_add(out, "-");
    else if (column_is_text(c)) str_add(out, text_of(c, record));
    else if (c->type == COLUMN_REAL) str_addf(out, "%.6g", column_real(c, record));
    else if (c->type == COLUMN_BOOL) str_add(out, integer_of(c, record) ? "yes" : "no");
    else if (c->type == COLUMN_STATUS) str_add(out, status_names[integer_of(c, record)]);
    else if (c->type == COLUMN_UNSIGNED)
        str_addf(out, "%llu", (unsigned long long)integer_of(c, record));
    else str_addf(out, "%lld", (long long)integer_of(c, record));
}

const struct column *columns_find(const struct columns *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->at[i].name, name)) return &t->at[i];
    return NULL;
}

bool columns_same(const struct columns *t, const void *a, const void *b, unsigned use, unsigned but)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->at[i].use & use && !(t->at[i].use & but) && !column_same(&t->at[i], a, b))
            return false;
    return true;
}

static size_t column_bytes(const struct column *c)
{
    switch (c->type) {
    case COLUMN_TEXT:
    case COLUMN_JSON: return sizeof(char *);
    case COLUMN_REAL: return sizeof(double);
    case COLUMN_BOOL: return sizeof(bool);
    case COLUMN_INT64:
    case COLUMN_UNSIGNED: return sizeof(int64_t);
    case COLUMN_STATUS: return sizeof(enum run_status);
    default: return sizeof(int);
    }
}

void columns_copy(const struct columns *t, void *to, const void *from, unsigned use)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct column *c = &t->at[i];
        if (c->use & use) memcpy((char *)to + c->offset, member_of(c, from), column_bytes(c));
    }
}

/* JSON. */

static cJSON *column_json(const struct column *c, const void *record)
{
    char text[24];
    if (column_missing(c, record)) return cJSON_CreateNull();
    switch (c->type) {
    case COLUMN_TEXT: return cJSON_CreateString(text_of(c, record));
    case COLUMN_JSON: {
        cJSON *value = json_stored(text_of(c, record));
        return value ? value : cJSON_CreateNull();
    }
    case COLUMN_REAL: {
        double value = column_real(c, record);
        return isfinite(value) ? cJSON_CreateNumber(value + 0.0) : cJSON_CreateNull(); /* -0 is 0 */
    }
    case COLUMN_BOOL: return cJSON_CreateBool(integer_of(c, record) != 0);
    case COLUMN_STATUS: return cJSON_CreateString(status_names[integer_of(c, record)]);
    case COLUMN_UNSIGNED:
        snprintf(text, sizeof text, "%llu", (unsigned long long)integer_of(c, record));
        return cJSON_CreateString(text);
    default: return cJSON_CreateNumber((double)integer_of(c, record));
    }
}

/* "l1" of "config.l1" in section "config"; NULL when the column is not in it. */
static const char *name_in(const struct column *c, const char *section)
{
    const char *dot = c->json ? strrchr(c->json, '.') : NULL;
    if (!c->json || !section) return dot ? NULL : c->json;
    size_t n = strlen(section);
    return dot && (size_t)(dot - c->json) == n && !strncmp(c->json, section, n) ? dot + 1 : NULL;
}

void columns_to_json(cJSON *o, const struct columns *t, const void *record, const char *section)
{
    for (size_t i = 0; i < t->n; i++) {
        const char *name = name_in(&t->at[i], section);
        cJSON *value = name ? column_json(&t->at[i], record) : NULL;
        if (value && t->brief && cJSON_IsNull(value)) cJSON_Delete(value);
        else if (value) cJSON_AddItemToObject(o, name, value);
    }
}

static enum status integer_from_json(
    struct json_in in, const struct column *c, const char *name, void *m)
{
    bool required = c->use & COLUMN_REQUIRED;
    int64_t value = c->use & COLUMN_OPTIONAL ? -1 : 0;
    int lo, hi;
    bool narrow = column_is_int(c, &lo, &hi);
    TRY(json_get_int(in, name, required, required, narrow ? hi : COLUMN_MOST, &value));
    if (narrow) *(int *)m = (int)value;
    else *(int64_t *)m = value;
    return OK;
}

static enum status column_from_json(
    struct json_in in, const struct column *c, const char *name, void *m, struct arena **arena)
{
    bool required = c->use & COLUMN_REQUIRED;
    const char *text = NULL;
    const cJSON *node;
    switch (c->type) {
    case COLUMN_TEXT:
        TRY(json_get_string(in, name, required, &text));
        *(const char **)m = arena_str(arena, text);
        return OK;
    case COLUMN_JSON:
        node = cJSON_GetObjectItemCaseSensitive(in.node, name);
        if (node && !cJSON_IsNull(node)) {
            char *printed = cJSON_PrintUnformatted(node);
            *(const char **)m = arena_str(arena, printed);
            cJSON_free(printed);
        }
        return OK;
    case COLUMN_REAL:
        *(double *)m = NAN;
        return json_get_double(
            in, name, required, c->use & COLUMN_TIMING ? 0 : -INFINITY, INFINITY, m);
    case COLUMN_BOOL: return json_get_bool(in, name, required, m);
    case COLUMN_STATUS:
        text = status_names[RUN_DONE];
        TRY(json_get_string(in, name, required, &text));
        *(enum run_status *)m = run_status_of(text);
        return OK;
    case COLUMN_UNSIGNED:
        TRY(json_get_string(in, name, required, &text));
        *(uint64_t *)m = text ? strtoull(text, NULL, 10) : 0;
        return OK;
    default: return integer_from_json(in, c, name, m);
    }
}

enum status columns_from_json(struct json_in in, const struct columns *t, void *record,
    const char *section, struct arena **arena)
{
    for (size_t i = 0; i < t->n; i++) {
        const char *name = name_in(&t->at[i], section);
        if (name)
            TRY(column_from_json(in, &t->at[i], name, (char *)record + t->at[i].offset, arena));
    }
    return OK;
}

void columns_to_key(cJSON *o, const struct run_record *r, bool sparse)
{
    for (size_t i = 0; i < run_columns.n; i++) {
        const struct column *c = &run_columns.at[i];
        if (!(c->use & COLUMN_KEY) || (c->use & COLUMN_SPARSE && !sparse) || column_missing(c, r))
            continue;
        if (c->use & COLUMN_UNSAID && integer_of(c, r) == 0) continue;
        cJSON_AddItemToObject(o, c->name, column_json(c, r));
    }
}

/* "kl_lo": the column lo of the metric kl; a name that no column of a metric ends is the metric
 * whose mean it is. */
static double headline_of(const char *name, const struct metric_record *rows, size_t n)
{
    size_t length = strlen(name);
    const struct column *part = columns_find(&metric_columns, "mean");
    for (size_t i = 0; i < metric_columns.n; i++) {
        const struct column *c = &metric_columns.at[i];
        size_t suffix = strlen(c->name);
        if (c->type != COLUMN_REAL || strlen(name) <= suffix + 1) continue;
        const char *tail = name + strlen(name) - suffix;
        if (tail[-1] != '_' || strcmp(tail, c->name)) continue;
        part = c;
        length = (size_t)(tail - name) - 1;
    }
    for (size_t i = 0; i < n; i++)
        if (!strcmp(rows[i].scope, "overall") && !strncmp(rows[i].name, name, length) &&
            !rows[i].name[length])
            return column_real(part, &rows[i]);
    return NAN;
}

void headline_fill(struct headline *h, const struct metric_record *rows, size_t n)
{
    for (size_t i = 0; i < run_columns.n; i++) {
        const struct column *c = &run_columns.at[i];
        if (c->use & COLUMN_HEADLINE)
            *(double *)((char *)h + c->offset - offsetof(struct run_record, headline)) =
                headline_of(c->name, rows, n);
    }
}

void columns_names(const struct columns *t, const char *prefix, const char *suffix,
    const char *between, struct str *out)
{
    for (size_t i = 0; i < t->n; i++)
        str_addf(out, "%s%s%s%s", i ? between : "", prefix, t->at[i].name, suffix);
}
