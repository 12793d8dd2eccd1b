#include "engine/tuner/tuned.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/xmalloc.h"
#include "kernels/eight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 2: num_check and `check` for what was backed off by; num_held_out and `held_out` are of samples
 * beyond those. */
enum { TUNED_SCHEMA_VERSION = 2 };

static const char *const rule_names[] = {"l1", "tail", "cosine", "rmse", "both"};

const char *tune_rule_name(enum tune_rule r) { return rule_names[r]; }

enum status tune_rule_parse(const char *text, enum tune_rule *out)
{
    for (int i = 0; i < N_RULES; i++)
        if (strcmp(text, rule_names[i]) == 0) {
            *out = (enum tune_rule)i;
            return OK;
        }
    return fail(ERR_ARG, "--rule: found \"%s\", expected l1, tail, cosine, rmse or both", text);
}

const struct head_error head_error_unknown = {NAN, NAN, NAN, NAN};

struct head_error head_error_of(const struct output_error *e)
{
    return (struct head_error){(double)e->l1, (double)e->tail, (double)e->cosine, (double)e->rmse};
}

double head_error_by(const struct head_error *e, enum tune_rule rule)
{
    switch (rule) {
    case RULE_L1: return e->l1;
    case RULE_TAIL: return e->tail;
    case RULE_COSINE: return e->cosine;
    case RULE_RMSE: return e->rmse;
    case RULE_BOTH: break;
    }
    return fmax(e->tail, 10 * e->l1);
}

struct head_error head_error_worst(struct head_error a, struct head_error b)
{
    return (struct head_error){
        fmax(a.l1, b.l1), fmax(a.tail, b.tail), fmax(a.cosine, b.cosine), fmax(a.rmse, b.rmse)};
}

enum status tuned_init(struct tuned *t, int n_layers, int n_heads)
{
    *t = (struct tuned){.n_layers = n_layers, .n_heads = n_heads};
    t->heads = calloc((size_t)n_layers * (size_t)n_heads, sizeof *t->heads);
    return t->heads ? OK : fail(ERR_MEMORY, "no memory for %d x %d tuned heads", n_layers, n_heads);
}

void tuned_clear(struct tuned *t)
{
    free(t->heads);
    free(t->costs);
    *t = (struct tuned){0};
}

static double bound_of(const struct tuned *t, const struct tuned_head *h, double bound)
{
    return bound > 0 ? bound : h->pv_l1 > 0 ? h->pv_l1 : t->pv_l1;
}

void tuned_ratios(
    const struct tuned *t, const struct head_error *errors, double bound, double *ratios)
{
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[i];
        bool sparse = h->in_range && h->params.is_sparse;
        ratios[i] = sparse ? head_error_by(&errors[i], t->rule) / bound_of(t, h, bound) : NAN;
    }
}

struct over_bound tuned_over(
    const struct tuned *t, const struct head_error *errors, int n_samples, double bound)
{
    int n = t->n_layers * t->n_heads;
    struct over_bound_count count;
    double *ratios = xmalloc(sizeof *ratios * (size_t)n + 1);
    over_bound_begin(&count, n);
    for (int s = 0; s < n_samples; s++) {
        tuned_ratios(t, errors + (size_t)s * (size_t)n, bound, ratios);
        over_bound_add(&count, ratios);
    }
    free(ratios);
    return over_bound_end(&count);
}

void tuned_judge(struct tuned *t, const struct head_error *errors, int n_samples)
{
    int n = t->n_layers * t->n_heads;
    for (int i = 0; i < n; i++) {
        struct tuned_head *h = &t->heads[i];
        if (!h->in_range) continue;
        h->held_out = (struct head_error){0};
        for (int s = 0; s < n_samples && h->params.is_sparse; s++)
            h->held_out = head_error_worst(h->held_out, errors[(size_t)s * (size_t)n + (size_t)i]);
    }
    t->num_held_out = n_samples;
    t->over = tuned_over(t, errors, n_samples, 0);
}

char *tuned_hash(const struct tuned *t, char *out)
{
    struct hash h;
    hash_init(&h);
    hash_add_str(&h, t->model_fingerprint);
    hash_add_str(&h, t->method);
    hash_add_str(&h, tune_rule_name(t->rule));
    double bounds[2] = {t->l1, t->pv_l1};
    hash_add(&h, bounds, sizeof bounds);
    hash_add_u64(&h, (uint64_t)t->block.q << 32 | (uint64_t)t->block.k);
    hash_add_str(&h, smooth_k_name(t->smooth_k));
    if (t->qk || t->pv) {
        hash_add_str(&h, precision_name(t->qk));
        hash_add_str(&h, precision_name(t->pv));
    }
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct head_params *p = &t->heads[i].params;
        float thresholds[3] = {p->theta, p->tau, p->lambda};
        hash_add_u64(&h, p->is_sparse);
        if (p->is_sparse) hash_add(&h, thresholds, sizeof thresholds);
        if (p->is_sparse && p->part) hash_add_u64(&h, p->part);
        if (p->is_sparse && p->vertical)
            hash_add_u64(&h, (uint64_t)p->vertical << 32 | (uint64_t)p->slash);
    }
    return hash_hex(&h, out);
}

static void add_real(cJSON *o, const char *name, double value)
{
    if (isnan(value)) cJSON_AddNullToObject(o, name);
    else cJSON_AddNumberToObject(o, name, value);
}

/* The shortest decimal that reads back as the same float, so that .6 is not written as
 * .60000002384. */
static double short_float(float f)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f) break;
    }
    return strtod(text, NULL);
}

static void add_error(cJSON *o, const char *name, const struct head_error *e)
{
    cJSON *x = cJSON_AddObjectToObject(o, name);
    add_real(x, "l1", e->l1);
    add_real(x, "tail", e->tail);
    add_real(x, "cosine", e->cosine);
    add_real(x, "rmse", e->rmse);
}

static void add_costs(cJSON *root, const struct tuned *t)
{
    cJSON *costs = cJSON_AddArrayToObject(root, "layer_costs");
    for (int l = 0; l < t->n_layers; l++) {
        const struct layer_cost *c = &t->costs[l];
        if (!(c->bound > 0)) continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToArray(costs, o);
        cJSON_AddNumberToObject(o, "layer", l);
        cJSON_AddNumberToObject(o, "bound", c->bound);
        cJSON_AddNumberToObject(o, "sparsity", c->sparsity);
        cJSON_AddNumberToObject(o, "cosine", c->cosine);
        cJSON_AddNumberToObject(o, "kl", c->kl);
        cJSON_AddNumberToObject(o, "ppl_ratio", c->ppl_ratio);
    }
}

static void add_over(cJSON *root, const struct over_bound *over)
{
    cJSON *o = cJSON_AddObjectToObject(root, "held_out_over_bound");
    cJSON_AddNumberToObject(o, "samples", over->n_samples);
    cJSON_AddNumberToObject(o, "sparse_heads", over->n_heads);
    cJSON_AddNumberToObject(o, "pairs_over", over->n_over);
    cJSON_AddNumberToObject(o, "heads_over", over->heads_over);
    cJSON_AddNumberToObject(o, "samples_over", over->samples_over);
    add_real(o, "share", over->share);
    add_real(o, "share_lo", over->lo);
    add_real(o, "share_hi", over->hi);
    cJSON_AddNumberToObject(o, "worst_ratio", over->worst);
}

/* The method of the file when every head has one of several; else NULL. */
static const struct mask_method *mixture_of(const struct tuned *t)
{
    const struct mask_method *m = mask_method_find(t->method);
    return m && m->n_parts ? m : NULL;
}

/* Of everything in the file but the checksum itself: thresholds belong to the errors that were
 * measured with them. */
static void checksum_of(const cJSON *root, char out[HASH_HEX_SIZE])
{
    struct hash h;
    char *text = cJSON_PrintUnformatted(root);
    hash_init(&h);
    hash_add_str(&h, text ? text : "");
    hash_hex(&h, out);
    cJSON_free(text);
}

static cJSON *tuned_json(const struct tuned *t)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddNumberToObject(root, "schema_version", TUNED_SCHEMA_VERSION);
    cJSON_AddStringToObject(root, "kind", "sparsegauge tuned thresholds");
    cJSON_AddStringToObject(root, "model_fingerprint", t->model_fingerprint);
    cJSON_AddStringToObject(root, "model", t->model_name);
    cJSON_AddNumberToObject(root, "num_layers", t->n_layers);
    cJSON_AddNumberToObject(root, "num_heads", t->n_heads);
    cJSON_AddStringToObject(root, "method", t->method);
    cJSON_AddStringToObject(root, "rule", tune_rule_name(t->rule));
    cJSON_AddNumberToObject(root, "l1", t->l1);
    cJSON_AddNumberToObject(root, "pv_l1", t->pv_l1);
    if (t->goal[0]) cJSON_AddStringToObject(root, "goal", t->goal);
    cJSON_AddBoolToObject(root, "verified", t->verified);
    cJSON_AddNumberToObject(root, "block_q", t->block.q);
    cJSON_AddNumberToObject(root, "block_k", t->block.k);
    cJSON_AddStringToObject(root, "smooth_k", smooth_k_name(t->smooth_k));
    if (t->qk || t->pv) {
        cJSON_AddStringToObject(root, "qk", precision_name(t->qk));
        cJSON_AddStringToObject(root, "pv", precision_name(t->pv));
    }
    cJSON_AddStringToObject(root, "layers", t->layers);
    cJSON_AddStringToObject(root, "data_fingerprint", t->data_fingerprint);
    cJSON_AddStringToObject(root, "data", t->data_name);
    cJSON_AddNumberToObject(root, "max_length", t->max_length);
    cJSON_AddNumberToObject(root, "num_samples", t->num_samples);
    cJSON_AddNumberToObject(root, "num_check", t->num_check);
    cJSON_AddNumberToObject(root, "num_held_out", t->num_held_out);
    if (t->coverage > 0) {
        cJSON_AddNumberToObject(root, "coverage", t->coverage);
        cJSON_AddNumberToObject(root, "tightened", t->tightened);
    }
    if (t->over.n_samples) add_over(root, &t->over);
    cJSON *heads = cJSON_AddArrayToObject(root, "heads");
    const struct mask_method *mixture = mixture_of(t);
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[i];
        if (!h->in_range) continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToArray(heads, o);
        cJSON_AddNumberToObject(o, "layer", i / t->n_heads);
        cJSON_AddNumberToObject(o, "head", i % t->n_heads);
        if (h->params.is_sparse && mixture)
            cJSON_AddStringToObject(o, "method", mask_part(mixture, h->params.part)->name);
        cJSON_AddBoolToObject(o, "is_sparse", h->params.is_sparse);
        cJSON_AddNumberToObject(o, "simthreshd1", short_float(h->params.theta));
        cJSON_AddNumberToObject(o, "cdfthreshd", short_float(h->params.tau));
        cJSON_AddNumberToObject(o, "pvthreshd", short_float(h->params.lambda));
        add_error(o, "achieved", &h->tune);
        add_error(o, "check", &h->check);
        add_error(o, "held_out", &h->held_out);
        add_real(o, "qk_sparsity", h->qk_sparsity);
        add_real(o, "sparsity", h->sparsity);
        cJSON_AddNumberToObject(o, "back_offs", h->back_offs);
        if (h->pv_l1 > 0) {
            cJSON_AddNumberToObject(o, "l1", h->l1);
            cJSON_AddNumberToObject(o, "pv_l1", h->pv_l1);
        }
        if (h->reason[0]) cJSON_AddStringToObject(o, "reason", h->reason);
    }
    if (t->costs) add_costs(root, t);
    char checksum[HASH_HEX_SIZE];
    checksum_of(root, checksum);
    cJSON_AddStringToObject(root, "checksum", checksum);
    return root;
}

enum status tuned_write(const struct tuned *t, const char *path)
{
    cJSON *root = tuned_json(t);
    enum status st = json_write_file(path, root);
    cJSON_Delete(root);
    return st;
}

static cJSON *layer_stats(const struct tuned *t, int layer)
{
    double theta = 0, tau = 0, lambda = 0, sparsity = 0, qk = 0, worst = 0;
    int n = 0, n_sparse = 0;
    for (int i = 0; i < t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[layer * t->n_heads + i];
        if (!h->in_range) continue;
        n++;
        if (!h->params.is_sparse) continue;
        n_sparse++;
        theta += (double)h->params.theta;
        tau += (double)h->params.tau;
        lambda += (double)h->params.lambda;
        sparsity += h->sparsity;
        qk += h->qk_sparsity;
        worst = fmax(worst, head_error_by(&h->tune, t->rule));
    }
    if (!n) return NULL;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "layer_idx", layer);
    cJSON_AddNumberToObject(o, "mean_sparsity", sparsity / n);
    add_real(o, "cdfthreshd", n_sparse ? tau / n_sparse : NAN);
    add_real(o, "simthreshd1", n_sparse ? theta / n_sparse : NAN);
    add_real(o, "pvthreshd", n_sparse ? lambda / n_sparse : NAN);
    cJSON_AddNumberToObject(o, "qk_sparsity", qk / n);
    cJSON_AddNumberToObject(o, "worst_error", worst);
    cJSON_AddNumberToObject(o, "num_heads", n);
    cJSON_AddNumberToObject(o, "num_sparse_heads", n_sparse);
    return o;
}

enum status tuned_write_stats(const struct tuned *t, const char *path)
{
    cJSON *list = cJSON_CreateArray();
    for (int l = 0; l < t->n_layers; l++) {
        cJSON *o = layer_stats(t, l);
        if (o) cJSON_AddItemToArray(list, o);
    }
    enum status st = json_write_file(path, list);
    cJSON_Delete(list);
    return st;
}

void tuned_print(const struct tuned *t, struct str *out, int indent)
{
    cJSON *root = tuned_json(t);
    json_print(out, root, indent);
    cJSON_Delete(root);
}

static enum status copy_text(struct json_in in, const char *field, char *out, size_t size)
{
    const char *text;
    TRY(json_get_string(in, field, true, &text));
    if (strlen(text) >= size)
        return fail(ERR_FORMAT, "%s: field %s is longer than %zu bytes", in.file, field, size - 1);
    memcpy(out, text, strlen(text) + 1);
    return OK;
}

static enum status get_int(struct json_in in, const char *field, int lo, int hi, int *out)
{
    int64_t value;
    TRY(json_get_int(in, field, true, lo, hi, &value));
    *out = (int)value;
    return OK;
}

static enum status read_error(struct json_in in, const char *field, struct head_error *e)
{
    struct json_in x = {cJSON_GetObjectItemCaseSensitive(in.node, field), in.file, field};
    *e = head_error_unknown;
    TRY(json_get_double(x, "l1", false, 0, INFINITY, &e->l1));
    TRY(json_get_double(x, "tail", false, 0, INFINITY, &e->tail));
    TRY(json_get_double(x, "cosine", false, -1e-6, 2, &e->cosine));
    return json_get_double(x, "rmse", false, 0, INFINITY, &e->rmse);
}

/* Which part of a mixture ranks the head. */
static enum status read_part(const struct tuned *t, struct json_in in, struct head_params *p)
{
    const struct mask_method *mixture = mixture_of(t);
    const char *name = NULL;
    TRY(json_get_string(in, "method", mixture && p->is_sparse, &name));
    if (!mixture && name)
        return fail(ERR_FORMAT,
            "%s: %s: field method: found \"%s\", but field method of the file is %s, no mixture",
            in.file, in.path, name, t->method);
    for (int i = 0; name && i < mixture->n_parts; i++)
        if (strcmp(mixture->parts[i]->name, name) == 0) {
            p->part = (uint8_t)i;
            return OK;
        }
    return name ? fail(ERR_FORMAT, "%s: %s: field method: found \"%s\", expected one of %s",
                      in.file, in.path, name, t->method)
                : OK;
}

static enum status read_head(struct tuned *t, struct json_in in)
{
    int layer, head;
    double theta, tau, lambda;
    TRY(get_int(in, "layer", 0, t->n_layers - 1, &layer));
    TRY(get_int(in, "head", 0, t->n_heads - 1, &head));
    struct tuned_head *h = &t->heads[layer * t->n_heads + head];
    if (h->in_range)
        return fail(ERR_FORMAT, "%s: %s: layer %d, head %d stands there twice", in.file, in.path,
            layer, head);
    TRY(json_get_bool(in, "is_sparse", true, &h->params.is_sparse));
    TRY(read_part(t, in, &h->params));
    TRY(json_get_double(in, "simthreshd1", true, -1, 1, &theta));
    TRY(json_get_double(in, "cdfthreshd", true, 0, 1, &tau));
    TRY(json_get_double(in, "pvthreshd", true, 0, NEVER_SKIP, &lambda));
    h->params.theta = (float)theta;
    h->params.tau = (float)tau;
    h->params.lambda = (float)lambda;
    h->in_range = true;
    TRY(read_error(in, "achieved", &h->tune));
    TRY(read_error(in, "check", &h->check));
    TRY(read_error(in, "held_out", &h->held_out));
    h->qk_sparsity = h->sparsity = NAN;
    TRY(json_get_double(in, "qk_sparsity", false, 0, 1, &h->qk_sparsity));
    TRY(json_get_double(in, "sparsity", false, 0, 1, &h->sparsity));
    const char *reason = "";
    TRY(json_get_string(in, "reason", false, &reason));
    snprintf(h->reason, sizeof h->reason, "%s", reason);
    TRY(json_get_double(in, "l1", false, 0, 20, &h->l1));
    TRY(json_get_double(in, "pv_l1", false, 0, 20, &h->pv_l1));
    return get_int(in, "back_offs", 0, 1 << 20, &h->back_offs);
}

static enum status read_over(struct json_in in, struct over_bound *o)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, "held_out_over_bound");
    struct json_in x = {node, in.file, "held_out_over_bound"};
    o->share = o->lo = o->hi = NAN;
    if (!node) return OK;
    if (!cJSON_IsObject(node))
        return fail(ERR_FORMAT, "%s: field held_out_over_bound: found %s, expected an object",
            in.file, json_kind(node));
    TRY(get_int(x, "samples", 0, 1 << 30, &o->n_samples));
    TRY(get_int(x, "sparse_heads", 0, 1 << 20, &o->n_heads));
    TRY(get_int(x, "pairs_over", 0, INT32_MAX, &o->n_over));
    TRY(get_int(x, "heads_over", 0, o->n_heads, &o->heads_over));
    TRY(get_int(x, "samples_over", 0, o->n_samples, &o->samples_over));
    TRY(json_get_double(x, "share", false, 0, 1, &o->share));
    TRY(json_get_double(x, "share_lo", false, 0, 1, &o->lo));
    TRY(json_get_double(x, "share_hi", false, 0, 1, &o->hi));
    return json_get_double(x, "worst_ratio", true, 0, INFINITY, &o->worst);
}

static enum status read_costs(struct tuned *t, struct json_in in)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(in.node, "layer_costs"), *item;
    if (!list) return OK;
    if (!cJSON_IsArray(list))
        return fail(ERR_FORMAT, "%s: field layer_costs: found %s, expected an array", in.file,
            json_kind(list));
    t->costs = calloc((size_t)t->n_layers, sizeof *t->costs);
    if (!t->costs) return fail(ERR_MEMORY, "no memory for the costs of %d layers", t->n_layers);
    int i = 0, layer;
    cJSON_ArrayForEach(item, list)
    {
        char path[32];
        snprintf(path, sizeof path, "layer_costs[%d]", i++);
        struct json_in at = {item, in.file, path};
        TRY(get_int(at, "layer", 0, t->n_layers - 1, &layer));
        struct layer_cost *c = &t->costs[layer];
        TRY(json_get_double(at, "bound", true, 0, 20, &c->bound));
        TRY(json_get_double(at, "sparsity", true, 0, 1, &c->sparsity));
        TRY(json_get_double(at, "cosine", true, -1, 1.001, &c->cosine));
        TRY(json_get_double(at, "kl", true, -1, INFINITY, &c->kl));
        TRY(json_get_double(at, "ppl_ratio", true, 0, INFINITY, &c->ppl_ratio));
    }
    return OK;
}

static enum status read_smooth_k(struct json_in in, enum smooth_k *out)
{
    const char *text;
    TRY(json_get_string(in, "smooth_k", true, &text));
    if (smooth_k_parse(text, out)) return OK;
    return fail(ERR_FORMAT, "%s: field smooth_k: found \"%s\", expected running, global or off",
        in.file, text);
}

/* Files of full products do not name them. */
static enum status read_precision(struct json_in in, const char *field, enum precision *out)
{
    const char *text = "full";
    TRY(json_get_string(in, field, false, &text));
    if (precision_parse(text, out) && !(*out == PRECISION_INT8 && strcmp(field, "pv") == 0))
        return OK;
    return fail(ERR_FORMAT, "%s: field %s: found \"%s\", expected full%s or fp8", in.file, field,
        text, strcmp(field, "qk") == 0 ? ", int8" : "");
}

static enum status get_block(struct json_in in, const char *field, int *out)
{
    TRY(get_int(in, field, 64, 128, out));
    if (*out == 64 || *out == 128) return OK;
    return fail(ERR_FORMAT, "%s: field %s: found %d, expected 64 or 128", in.file, field, *out);
}

/* All heads of a layer that the file has anything on, and of every layer its field `layers` names:
 * a head left out would run dense without a word. */
static enum status check_complete(const struct tuned *t, const char *path)
{
    struct sparse_policy named;
    TRY(policy_init(&named, &mask_sparge, t->n_layers, t->n_heads));
    /* says nothing */
    if (policy_set_layers(&named, t->layers) != OK) memset(named.layer_on, 0, (size_t)t->n_layers);
    enum status st = OK;
    for (int l = 0; l < t->n_layers && st == OK; l++) {
        int n = 0, missing = -1;
        for (int h = t->n_heads - 1; h >= 0; h--) {
            n += t->heads[l * t->n_heads + h].in_range;
            if (!t->heads[l * t->n_heads + h].in_range) missing = h;
        }
        if (missing >= 0 && (n || named.layer_on[l]))
            st = fail(ERR_FORMAT,
                "%s: field heads: found %d of layer %d, the first missing is head %d; expected all "
                "%d of every layer in "
                "layers \"%s\"; tune again",
                path, n, l, missing, t->n_heads, t->layers);
    }
    policy_clear(&named);
    return st;
}

static enum status read_root(struct tuned *t, struct json_in in)
{
    const char *kind = NULL, *rule;
    int version, n_layers, n_heads;
    if (cJSON_IsObject(in.node)) TRY(json_get_string(in, "kind", false, &kind));
    if (!kind || strcmp(kind, "sparsegauge tuned thresholds") != 0)
        return fail(ERR_FORMAT,
            "%s: not a tuned file: field kind: found %s, expected \"sparsegauge tuned "
            "thresholds\"; "
            "make one with `tune -o FILE`",
            in.file, kind ? kind : "nothing");
    TRY(get_int(in, "schema_version", 1, 1 << 20, &version));
    if (version > TUNED_SCHEMA_VERSION)
        return fail(ERR_FORMAT,
            "%s: schema_version: found %d, expected at most %d; use a newer sparsegauge", in.file,
            version, TUNED_SCHEMA_VERSION);
    TRY(get_int(in, "num_layers", 1, MAX_MODEL_LAYERS, &n_layers));
    TRY(get_int(in, "num_heads", 1, 1024, &n_heads));
    TRY(tuned_init(t, n_layers, n_heads));
    TRY(copy_text(in, "model_fingerprint", t->model_fingerprint, sizeof t->model_fingerprint));
    TRY(copy_text(in, "model", t->model_name, sizeof t->model_name));
    TRY(copy_text(in, "method", t->method, sizeof t->method));
    TRY(copy_text(in, "layers", t->layers, sizeof t->layers));
    TRY(copy_text(in, "data_fingerprint", t->data_fingerprint, sizeof t->data_fingerprint));
    TRY(copy_text(in, "data", t->data_name, sizeof t->data_name));
    TRY(json_get_string(in, "rule", true, &rule));
    if (tune_rule_parse(rule, &t->rule) != OK)
        return fail(ERR_FORMAT,
            "%s: field rule: found \"%s\", expected l1, tail, cosine, rmse or both; use the "
            "sparsegauge that wrote it",
            in.file, rule);
    TRY(json_get_double(in, "l1", true, 0, 2, &t->l1));
    TRY(json_get_double(in, "pv_l1", true, 0, 2, &t->pv_l1));
    const char *goal = "";
    TRY(json_get_string(in, "goal", false, &goal));
    snprintf(t->goal, sizeof t->goal, "%s", goal);
    t->verified = true; /* files from before the field */
    TRY(json_get_bool(in, "verified", false, &t->verified));
    TRY(get_block(in, "block_q", &t->block.q));
    TRY(get_block(in, "block_k", &t->block.k));
    TRY(read_smooth_k(in, &t->smooth_k));
    TRY(read_precision(in, "qk", &t->qk));
    TRY(read_precision(in, "pv", &t->pv));
    /* 0: unknown, from an imported file */
    TRY(get_int(in, "max_length", 0, 1 << 30, &t->max_length));
    TRY(get_int(in, "num_samples", 0, 1 << 30, &t->num_samples));
    TRY(get_int(in, "num_held_out", 0, 1 << 30, &t->num_held_out));
    if (version == 1) t->num_check = t->num_held_out, t->num_held_out = 0;
    else TRY(get_int(in, "num_check", 0, 1 << 30, &t->num_check));
    TRY(json_get_double(in, "coverage", false, 0, 1, &t->coverage));
    TRY(json_get_double(in, "tightened", false, 0, 1, &t->tightened));
    TRY(read_over(in, &t->over));
    const cJSON *heads = cJSON_GetObjectItemCaseSensitive(in.node, "heads"), *head;
    if (!cJSON_IsArray(heads))
        return fail(
            ERR_FORMAT, "%s: field heads: found %s, expected an array", in.file, json_kind(heads));
    int i = 0;
    cJSON_ArrayForEach(head, heads)
    {
        char path[32];
        snprintf(path, sizeof path, "heads[%d]", i++);
        TRY(read_head(t, (struct json_in){head, in.file, path}));
    }
    for (int k = 0; k < n_layers * n_heads && version == 1; k++) {
        t->heads[k].check = t->heads[k].held_out;
        t->heads[k].held_out = head_error_unknown;
    }
    TRY(check_complete(t, in.file));
    return read_costs(t, in);
}

static enum status read_json(struct tuned *t, cJSON *root, const char *name)
{
    cJSON *checksum = cJSON_DetachItemFromObjectCaseSensitive(root, "checksum");
    char found[HASH_HEX_SIZE];
    checksum_of(root, found);
    enum status st = read_root(t, (struct json_in){root, name, ""});
    t->edited = !cJSON_IsString(checksum) || strcmp(checksum->valuestring, found) != 0;
    if (t->edited) t->verified = false;
    cJSON_Delete(checksum);
    cJSON_Delete(root);
    if (st != OK) tuned_clear(t);
    return st;
}

enum status tuned_read(struct tuned *t, const char *path)
{
    *t = (struct tuned){0};
    cJSON *root;
    TRY(json_read_file(&root, path));
    return read_json(t, root, path);
}

enum status tuned_parse(struct tuned *t, const char *text, const char *name)
{
    *t = (struct tuned){0};
    cJSON *root;
    TRY(json_parse(&root, name, text, strlen(text)));
    return read_json(t, root, name);
}

enum status tuned_apply(const struct tuned *t, const char *path, const struct weights *w,
    const char *model_fingerprint, struct sparse_policy *p)
{
    const struct llama_config *c = &w->config;
    if (t->n_layers != c->n_layers || t->n_heads != c->n_heads)
        return fail(ERR_ARG,
            "%s: num_layers x num_heads: found %dx%d, expected the model's %dx%d; tune this model",
            path, t->n_layers, t->n_heads, c->n_layers, c->n_heads);
    if (strcmp(t->model_fingerprint, model_fingerprint) != 0)
        return fail(ERR_ARG, "%s: model_fingerprint: found %s (%s), expected %s; tune this model",
            path, t->model_fingerprint, t->model_name, model_fingerprint);
    p->block = t->block;
    p->smooth_k = t->smooth_k;
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        p->heads[i] = t->heads[i].params;
        p->heads[i].is_sparse = t->heads[i].in_range && t->heads[i].params.is_sparse;
    }
    /* a layer outside the tuned range is outside, not merely dense by choice */
    for (int l = 0; l < t->n_layers; l++) {
        bool any = false;
        for (int h = 0; h < t->n_heads; h++) any |= t->heads[l * t->n_heads + h].in_range;
        if (!any) p->layer_on[l] = 0;
    }
    return OK;
}
