/* Real Q, K and V of a model, and the tiles that every method keeps of them, for check_methods.py.
 *
 *   dump_masks MODEL SUITE TOKENS FOLDER LAYER[,LAYER…] [MAPS]
 *
 * With MAPS, which check_methods.py --write makes, maps are compared with those: exit 1 when a
 * method differs in more than one possible tile in a thousand.
 *
 * FOLDER gets layer<L>_{q,k,v}.f32, [heads, tokens, head_dim], a map for each case, [heads, query
 * blocks, key blocks] bytes, and manifest.json, which names them.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/xmalloc.h"
#include "engine/engine.h"
#include "suites/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct map_case {
    const char *method;
    struct block_shape block;
    float theta, keep, topk;
    int pattern, vertical, slash; /* of minference */
    enum smooth_k smooth_k;       /* of sparge */
};

static const struct map_case cases[] = {
    {"sparge", {128, 64}, .3f, .9f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"sparge", {64, 64}, -.1f, 0, .3f, 0, 0, 0, SMOOTH_K_RUNNING},
    {"bound", {128, 64}, 0, .97f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"bound+spread=range+groups=0+rows=8", {128, 128}, 0, .9f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"xattention", {128, 128}, 0, .9f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"xattention+stride=16", {128, 64}, 0, .8f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"flashprefill", {128, 128}, 0, .9f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"flashprefill", {64, 64}, 0, .8f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"subblock", {64, 64}, 0, .25f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"prism", {128, 128}, 0, .95f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"prism", {128, 64}, 0, .8f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"stem", {128, 128}, 0, .3f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"stem+stride=8+lambda=1", {64, 64}, 0, .4f, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"flexprefill", {128, 128}, 0, 0, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"flexprefill+gamma=.8+tau=.4", {64, 64}, 0, 0, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"flexprefill+gamma=.6+tau=0", {64, 64}, 0, 0, 0, 0, 0, 0, SMOOTH_K_RUNNING},
    {"minference", {64, 64}, 0, 0, 0, PATTERN_LINES, 40, 400, SMOOTH_K_RUNNING},
    {"minference", {128, 64}, 0, 0, 0, PATTERN_LINES, 31, 120, SMOOTH_K_RUNNING},
    {"minference", {64, 64}, 0, 0, 0, PATTERN_SHAPE, 100, 300, SMOOTH_K_RUNNING},
    {"minference+blocks=8", {64, 64}, 0, 0, 0, PATTERN_BLOCK, 1, 1, SMOOTH_K_RUNNING},
    {"sparge", {128, 64}, .3f, .9f, 0, 0, 0, 0, SMOOTH_K_GLOBAL},
    {"sparge", {64, 128}, .2f, .97f, 0, 0, 0, 0, SMOOTH_K_GLOBAL},
};

struct dump {
    const char *folder;
    cJSON *layers, *maps;
    bool wanted[1024];
    struct par *par;
    struct str golden; /* all maps one behind the other; empty: none */
    size_t at;
    int n_failed;
};

/* A tile or two may fall on the other side of a threshold, by rounding. */
static void compare(
    struct dump *d, const char *method, const uint8_t *got, size_t size, size_t possible)
{
    size_t off = 0;
    if (!d->golden.len) return;
    if (d->at + size > d->golden.len) off = size;
    for (size_t i = 0; i < size && d->at + size <= d->golden.len; i++)
        off += got[i] != (uint8_t)d->golden.data[d->at + i];
    d->at += size;
    bool good = off <= possible / 1000 + 1;
    d->n_failed += !good;
    if (!good) printf("FAIL %s: %zu of %zu tiles differ\n", method, off, possible);
}

static enum status put(const struct dump *d, const char *name, const void *data, size_t size)
{
    char *path = path_join(d->folder, name);
    enum status st = file_write_atomic(path, data, size);
    free(path);
    return st;
}

static enum status put_plane(const struct dump *d, int layer, char which, const float *x,
    ptrdiff_t row, ptrdiff_t head, int heads, int n, int dim)
{
    char name[64];
    float *all = xmalloc(sizeof *all * (size_t)heads * (size_t)n * (size_t)dim), *to = all;
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < n; i++, to += dim)
            memcpy(to, x + h * head + i * row, sizeof *to * (size_t)dim);
    snprintf(name, sizeof name, "layer%d_%c.f32", layer, which);
    enum status st = put(d, name, all, sizeof *all * (size_t)heads * (size_t)n * (size_t)dim);
    free(all);
    return st;
}

static enum status put_map(struct dump *d, int layer, int number, const struct attn_args *a)
{
    const struct map_case *c = &cases[number];
    const struct mask_method *m;
    struct attn_args own = *a;
    TRY(mask_method_parse(c->method, &m));
    own.block = c->block;
    own.ledger = NULL;
    struct head_params *heads = xmalloc(sizeof *heads * (size_t)a->n_heads);
    for (int h = 0; h < a->n_heads; h++)
        heads[h] = (struct head_params){.theta = c->theta,
            .tau = c->keep,
            .lambda = 50,
            .is_sparse = true,
            .part = (uint8_t)c->pattern,
            .vertical = c->vertical,
            .slash = c->slash};
    struct mask_args args = {
        .attn = &own, .heads = heads, .topk = c->topk, .smooth_k = c->smooth_k};
    struct tile_map map = tile_map_shape(c->block, a->n_heads, 0, a->n_q);
    map.bits = xmalloc(tile_map_bytes(&map));
    void *ws = aligned_alloc(64, (mask_workspace(m, &args, par_threads(d->par)) + 127) / 64 * 64);
    enum status st = ws ? mask_predict(m, &args, &map, ws, d->par) : fail(ERR_MEMORY, "no memory");
    size_t size = (size_t)a->n_heads * (size_t)map.n_qblocks * (size_t)map.n_kblocks;
    uint8_t *bytes = xmalloc(size), *to = bytes;
    size_t possible = 0;
    for (int h = 0; h < a->n_heads && st == OK; h++)
        for (int i = 0; i < map.n_qblocks;
             possible += (size_t)tiles_possible(c->block, i++, a->n_q))
            for (int j = 0; j < map.n_kblocks; j++)
                *to++ = tile_map_row(&map, h, i)[j / 64] >> (j % 64) & 1;
    char name[64];
    snprintf(name, sizeof name, "layer%d_map%d.u8", layer, number);
    if (st == OK) st = put(d, name, bytes, size);
    if (st == OK) compare(d, c->method, bytes, size, possible);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "file", name);
    cJSON_AddNumberToObject(o, "layer", layer);
    cJSON_AddStringToObject(o, "method", c->method);
    cJSON_AddStringToObject(o, "smooth_k", smooth_k_name(c->smooth_k));
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"block_q", c->block.q}, {"block_k", c->block.k},
        {"theta", mask_decimal(c->theta)}, {"keep", mask_decimal(c->keep)},
        {"topk", mask_decimal(c->topk)}, {"pattern", c->pattern}, {"vertical", c->vertical},
        {"slash", c->slash}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        cJSON_AddNumberToObject(o, numbers[i].name, numbers[i].value);
    cJSON_AddItemToArray(d->maps, o);
    free(bytes);
    free(ws);
    free(map.bits);
    free(heads);
    return st;
}

static enum status see_layer(void *ctx, const struct layer_view *v)
{
    struct dump *d = ctx;
    const struct attn_args *a = v->attn;
    if (v->layer >= 1024 || !d->wanted[v->layer]) return OK;
    TRY(put_plane(d, v->layer, 'q', a->q, a->q_row, a->q_head, a->n_heads, a->n_q, a->head_dim));
    TRY(put_plane(d, v->layer, 'k', a->k, a->k_row, a->k_head, a->n_kv_heads, a->n_q, a->head_dim));
    TRY(put_plane(d, v->layer, 'v', a->v, a->v_row, a->v_head, a->n_kv_heads, a->n_q, a->head_dim));
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "layer", v->layer);
    cJSON_AddNumberToObject(o, "heads", a->n_heads);
    cJSON_AddNumberToObject(o, "kv_heads", a->n_kv_heads);
    cJSON_AddNumberToObject(o, "tokens", a->n_q);
    cJSON_AddNumberToObject(o, "head_dim", a->head_dim);
    cJSON_AddItemToArray(d->layers, o);
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) TRY(put_map(d, v->layer, i, a));
    return OK;
}

static enum status run(char **argv, int *n_failed)
{
    struct dump d = {.folder = argv[4], .layers = cJSON_CreateArray(), .maps = cJSON_CreateArray()};
    struct model model;
    struct session *session;
    struct sample_set set;
    for (char *s = argv[5]; *s;) {
        long layer = strtol(s, &s, 10);
        if (layer >= 0 && layer < 1024) d.wanted[layer] = true;
        if (*s) s++;
    }
    TRY(file_make_dirs(d.folder));
    if (argv[6]) TRY(file_read(&d.golden, argv[6]));
    TRY(par_open(&d.par, 0));
    TRY(model_open(&model, argv[1], d.par));
    int n = atoi(argv[3]);
    TRY(suite_load(argv[2],
        &(struct suite_options){.tokenizer = model.tokenizer, .max_length = n, .num_samples = 1},
        &set));
    TRY(session_open(&session, &model.weights, d.par, set.samples[0].n, 0, NULL));
    TRY(session_forward(session,
        &(struct forward_args){.tokens = set.samples[0].ids,
            .n = set.samples[0].n,
            .hook = see_layer,
            .hook_ctx = &d}));
    session_close(&session);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddItemToObject(root, "layers", d.layers);
    cJSON_AddItemToObject(root, "maps", d.maps);
    char *path = path_join(d.folder, "manifest.json");
    TRY(json_write_file(path, root));
    free(path);
    *n_failed = d.n_failed;
    if (d.at < d.golden.len)
        return fail(ERR_FORMAT, "%s: %zu bytes are of no map", argv[6], d.golden.len - d.at);
    return OK;
}

int main(int argc, char **argv)
{
    int n_failed = 0;
    if (argc != 6 && argc != 7) {
        fprintf(stderr, "dump_masks MODEL SUITE TOKENS FOLDER LAYER[,LAYER...] [MAPS]\n");
        return 2;
    }
    if (run(argv, &n_failed) == OK) return n_failed ? 1 : 0;
    fprintf(stderr, "dump_masks: %s\n", status_message());
    return 3;
}
