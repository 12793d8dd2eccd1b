#include "reports/runjson.h"
#include "reports/runjson_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROUNDED 1e-6 /* between numbers that went through 17 digits of text */
#define OF_FLOATS 1e-5

static const struct range {
    const char *name;
    double lo, hi;
} ranges[] = {
    {"cosine", -1, 1},
    {"cosine_centred", -1, 1},
    {"logits_cosine", -1, 1},
    {"hidden_cosine", -1, 1},
    {"row_hidden_cosine", -1, 1},
    {"kl", 0, INFINITY},
    {"token_accuracy", 0, 1},
    {"top1", 0, 1},
    {"top5", 0, 1},
    {"top5_overlap", 0, 1},
    {"sparsity", 0, 1},
    {"qk_sparsity", 0, 1},
    {"pv_sparsity", 0, 1},
    {"ppl_dense", 0, INFINITY},
    {"ppl_sparse", 0, INFINITY},
    {"ppl_ratio", 0, INFINITY},
    {"logits_l1", 0, INFINITY},
    {"logits_rmse", 0, INFINITY},
    {"hidden_l1", 0, INFINITY},
    {"score_dense", 0, 1},
    {"score_sparse", 0, 1},
    {"score_drop", -1, 1},
    {"latency_ratio", 0, INFINITY},
};

static enum status in_range(const char *path, const char *field, const char *name, double value)
{
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const struct range *r = &ranges[i];
        if (strcmp(r->name, name) != 0) continue;
        if (value < r->lo - OF_FLOATS || value > r->hi + OF_FLOATS)
            return fail(ERR_FORMAT, "%s: field %s: found %.9g, expected %g to %g; evaluate again",
                path, field, value, r->lo, r->hi);
    }
    return OK;
}

static enum status check_metrics(const struct run_view *v, const char *path)
{
    char field[160];
    for (size_t i = 0; i < v->metrics.n; i++) {
        const struct metric_record *m = &v->metrics.rows[i];
        const struct {
            const char *name;
            double value;
        } parts[] = {
            {"mean", m->mean}, {"lo", m->lo}, {"hi", m->hi}, {"p1", m->p1}, {"p99_9", m->p99_9}};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            snprintf(field, sizeof field, "metrics[%zu] (%.60s %.40s).%s", i, m->scope, m->name,
                parts[k].name);
            TRY(in_range(path, field, m->name, parts[k].value));
        }
        if (m->lo > m->hi)
            return fail(ERR_FORMAT,
                "%s: field metrics[%zu] (%s %s).lo: found %.9g, expected at most hi, %.9g", path, i,
                m->scope, m->name, m->lo, m->hi);
    }
    return OK;
}

static enum status check_samples(const struct run_view *v, const char *path)
{
    const struct run_record *r = v->run;
    bool compared = metric_list_find(&v->metrics, "overall", "cosine") != NULL;
    const struct {
        const char *field;
        int n;
    } wanted[] = {
        {"config.num_samples", r->num_samples}, {"identity.data.n_samples", r->dataset.n_samples}};
    for (int i = 0; i < 2; i++)
        if (r->status == RUN_DONE && (v->samples.n || compared) && wanted[i].n > 0 &&
            v->samples.n != (size_t)wanted[i].n)
            return fail(ERR_FORMAT,
                "%s: field detailed_results: found %zu samples, expected %d as %s says; evaluate "
                "again",
                path, v->samples.n, wanted[i].n, wanted[i].field);
    for (size_t i = 0; i < v->samples.n; i++) {
        const struct sample_record *s = &v->samples.rows[i];
        const struct {
            const char *field, *name;
            double value;
        } parts[] = {{"cosine_mean", "cosine", s->cosine_mean}, {"kl_mean", "kl", s->kl_mean},
            {"token_accuracy", "token_accuracy", s->token_accuracy},
            {"top5_overlap", "top5_overlap", s->top5_overlap},
            {"logits_cosine", "logits_cosine", s->logits_cosine},
            {"hidden_cosine", "hidden_cosine", s->hidden_cosine},
            {"sparsity", "sparsity", s->sparsity}, {"qk_sparsity", "qk_sparsity", s->qk_sparsity},
            {"pv_sparsity", "pv_sparsity", s->pv_sparsity}};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            char field[80];
            snprintf(field, sizeof field, "detailed_results[%zu].%s", i, parts[k].field);
            TRY(in_range(path, field, parts[k].name, parts[k].value));
        }
    }
    return OK;
}

/* A number of one of the guide's blocks against the one that the rest of the file gives; nothing
 * where either is missing. */
static enum status same_number(
    const cJSON *node, const cJSON *wanted, const char *block, const char *path)
{
    char field[80];
    if (!node || cJSON_IsNull(node)) return OK;
    snprintf(field, sizeof field, "%s.%s", block, wanted->string);
    if (!cJSON_IsNumber(node))
        return fail(ERR_FORMAT, "%s: field %s: is no number; evaluate again", path, field);
    TRY(in_range(
        path, field, strcmp(block, "sparsity") == 0 ? block : wanted->string, node->valuedouble));
    if (!cJSON_IsNumber(wanted) ||
        fabs(node->valuedouble - wanted->valuedouble) <=
            ROUNDED * fmax(1, fabs(wanted->valuedouble)))
        return OK;
    return fail(ERR_FORMAT,
        "%s: field %s: found %.9g, expected %.9g, as the rest of the file says; evaluate again",
        path, field, node->valuedouble, wanted->valuedouble);
}

enum status runjson_check(
    const struct run_view *v, const cJSON *root, const cJSON *blocks, const char *path)
{
    const cJSON *block, *wanted;
    TRY(check_samples(v, path));
    TRY(check_metrics(v, path));
    cJSON_ArrayForEach(block, blocks)
    {
        const cJSON *found = cJSON_GetObjectItemCaseSensitive(root, block->string);
        cJSON_ArrayForEach(wanted, block)
        {
            const cJSON *node = cJSON_GetObjectItemCaseSensitive(found, wanted->string);
            TRY(same_number(node, wanted, block->string, path));
        }
    }
    return OK;
}
