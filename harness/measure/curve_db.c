#include "harness/measure/curve_db.h"

#include "kernels/cpu/cpu_ops.h"
#include "kernels/eight.h"
#include "results/query.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void curve_pack(const struct curve *c, struct str *out)
{
    str_add_bytes(out, &c->n_possible, sizeof c->n_possible);
    for (int t = 0; t < N_THETAS; t++) {
        const struct curve_point *p = c->points[t];
        /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): of floats every bit */
        bool fresh = t == 0 || memcmp(p, c->points[t - 1], sizeof c->points[t]) != 0;
        str_add_char(out, (char)fresh);
        for (int u = 0; fresh && u < N_TAUS;) {
            int run = 1;
            /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): of floats every bit */
            while (u + run < N_TAUS && memcmp(&p[u], &p[u + run], sizeof *p) == 0) run++;
            str_add_char(out, (char)run);
            str_add_bytes(out, &p[u], sizeof *p);
            u += run;
        }
    }
}

enum status curve_unpack(const void *blob, size_t size, struct curve *out)
{
    const uint8_t *p = blob, *end = p + size;
    if (size < sizeof out->n_possible) goto damaged;
    memcpy(&out->n_possible, p, sizeof out->n_possible);
    p += sizeof out->n_possible;
    for (int t = 0; t < N_THETAS; t++) {
        if (p == end || *p > 1 || (t == 0 && *p == 0)) goto damaged;
        if (*p++ == 0) {
            memcpy(out->points[t], out->points[t - 1], sizeof out->points[t]);
            continue;
        }
        for (int u = 0; u < N_TAUS;) {
            if ((size_t)(end - p) < 1 + sizeof out->points[t][u]) goto damaged;
            int run = *p++;
            if (run < 1 || run > N_TAUS - u) goto damaged;
            for (int i = 0; i < run; i++)
                memcpy(&out->points[t][u + i], p, sizeof out->points[t][u]);
            p += sizeof out->points[t][u];
            u += run;
        }
    }
    if (p != end) goto damaged;
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) {
            const struct curve_point *x = &out->points[t][u];
            if (x->n_kept > out->n_possible || !isfinite(x->error.l1) || !isfinite(x->error.tail) ||
                !isfinite(x->error.cosine) || !isfinite(x->error.rmse))
                goto damaged;
        }
    return OK;
damaged:
    return fail(ERR_FORMAT,
        "a stored tuning curve is damaged; delete its row from the table of curves or use another "
        "--db");
}

static int longest_of(const struct sample_set *set)
{
    int n = 0;
    for (int i = 0; i < set->n_samples; i++)
        if (set->samples[i].n > n) n = set->samples[i].n;
    return n;
}

enum status curve_db_open(struct curve_db *db, struct store *store, const struct setup *setup,
    const struct sample_set *set, const struct sparse_policy *policy)
{
    struct hash h;
    hash_init(&h);
    hash_add_str(&h, ENGINE_VERSION);
    struct weights_device_info device;
    weights_device_describe(&setup->model.weights, &device);
    hash_add_str(&h, device.name);
    if (device.residual) hash_add_str(&h, device.residual);
    /* Tensors of a device can have curves by the device or by the CPU: they differ by rounding and
     * are kept apart. */
    const char *place = tune_place(&setup->model.weights, policy, longest_of(set), NULL);
    hash_add_str(&h, strcmp(place, "cpu") == 0 ? cpu_ops()->name : place);
    hash_add_str(&h, set->fingerprint);
    if (policy_is_eight(policy)) {
        hash_add_str(&h, precision_name(policy->qk));
        hash_add_str(&h, precision_name(policy->pv));
    }
    *db = (struct curve_db){.store = store, .method = policy->method};
    hash_hex(&h, db->data);
    db->key = (struct curve_key){.model_fingerprint = setup->model.fingerprint,
        .data_fingerprint = db->data,
        .kind = CURVE_KIND,
        .method = policy->method->name,
        .smooth_k = smooth_k_name(policy->smooth_k),
        .block_q = policy->block.q,
        .block_k = policy->block.k};
    return OK;
}

static struct curve_key key_of(const struct curve_db *db, int layer, int head, int part, int sample)
{
    struct curve_key key = db->key;
    key.data_fingerprint = db->data;
    key.method = mask_part(db->method, part)->name;
    key.layer = layer;
    key.head = head;
    key.sample = sample;
    return key;
}

static enum status get(
    void *ctx, int layer, int head, int part, int sample, struct curve *out, bool *found)
{
    struct curve_db *db = ctx;
    struct curve_key key = key_of(db, layer, head, part, sample);
    void *blob;
    size_t size;
    TRY(query_curve(db->store, &key, &blob, &size));
    *found = blob != NULL;
    enum status st = blob ? curve_unpack(blob, size, out) : OK;
    free(blob);
    return st;
}

static enum status put(void *ctx, int layer, int head, int part, int sample, const struct curve *c)
{
    struct curve_db *db = ctx;
    struct curve_key key = key_of(db, layer, head, part, sample);
    struct str blob = {0};
    enum status st = OK;
    if (!db->writing) st = store_begin(db->store);
    db->writing |= st == OK;
    curve_pack(c, &blob);
    if (st == OK) st = store_curve_put(db->store, &key, blob.data, blob.len);
    str_clear(&blob);
    return st;
}

static enum status layer_done(void *ctx, int layer)
{
    (void)layer;
    struct curve_db *db = ctx;
    if (!db->writing) return OK;
    db->writing = false;
    return store_commit(db->store);
}

struct curve_store curve_db_store(struct curve_db *db)
{
    return (struct curve_store){db, get, put, layer_done};
}

void curve_db_close(struct curve_db *db)
{
    if (db->store && db->writing && store_commit(db->store) != OK) db->writing = false;
    *db = (struct curve_db){0};
}
