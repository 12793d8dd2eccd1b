#include "engine/tuner/sparge_pt.h"

#include "kernels/eight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum field { IS_SPARSE, CDFTHRESHD, SIMTHRESHD1, SIMTHRESHD2, PVTHRESHD, N_FIELDS };

static const struct {
    const char *name;
    enum torch_type type; /* as written */
    double lo, hi;
} fields[N_FIELDS] = {
    [IS_SPARSE] = {"is_sparse", TORCH_BOOL, 0, 1},
    [CDFTHRESHD] = {"cdfthreshd", TORCH_FLOAT32, 0, 1},
    [SIMTHRESHD1] = {"simthreshd1", TORCH_FLOAT32, -1, 1},
    [SIMTHRESHD2] = {"simthreshd2", TORCH_FLOAT32, -INFINITY, INFINITY}, /* without meaning */
    [PVTHRESHD] = {"pvthreshd", TORCH_FLOAT32, 0, NEVER_SKIP},
};

static const float DENSE_CDF = 1, DENSE_SIM = 1;

struct layer_tensors {
    const struct torch_tensor *of[N_FIELDS];
};

static bool field_of(const char *key, enum field *out)
{
    const char *dot = strrchr(key, '.');
    const char *name = dot ? dot + 1 : key;
    for (int i = 0; i < N_FIELDS; i++)
        if (strcmp(name, fields[i].name) == 0) {
            *out = (enum field)i;
            return true;
        }
    return false;
}

static bool ends_with(const char *begin, const char *end, const char *what)
{
    size_t n = strlen(what);
    return (size_t)(end - begin) >= n && memcmp(end - n, what, n) == 0;
}

/* The layer in a key: the number behind a part that ends in "layers" or "blocks", or else the only
 * number there is. -1 when there is none, -2 when there are several candidates. */
static long layer_of(const char *key)
{
    long named = -1, any = -1;
    const char *before = key, *before_end = key;
    for (const char *part = key;;) {
        const char *end = strchr(part, '.');
        if (!end) break; /* the last part is the field */
        size_t len = (size_t)(end - part);
        if (len > 0 && len <= 9 && strspn(part, "0123456789") == len) {
            long number = strtol(part, NULL, 10);
            any = any == -1 ? number : -2;
            if (ends_with(before, before_end, "layers") || ends_with(before, before_end, "blocks"))
                named = named == -1 ? number : -2;
        }
        before = part;
        before_end = end;
        part = end + 1;
    }
    return named != -1 ? named : any;
}

static enum status check_shape(const struct torch_tensor *t, const char *path, int n_heads)
{
    char shape[64];
    if (t->n_dims == 1 && t->shape[0] == n_heads) return OK;
    return fail(ERR_FORMAT,
        "%s: %.200s: found shape %s, expected [%d], one value per query head; this file is of "
        "another "
        "model",
        path, t->key, torch_tensor_shape_text(t, shape, sizeof shape), n_heads);
}

static enum status place(struct layer_tensors *layers, const struct torch_tensor *t,
    enum field field, const char *path, int n_layers)
{
    long layer = layer_of(t->key);
    if (layer < 0)
        return fail(ERR_FORMAT,
            "%s: %.200s: found %s layer number, expected one, as in " SPARGE_PT_MODULE ".%s", path,
            t->key, layer == -1 ? "no" : "more than one", 7, fields[field].name);
    if (layer >= n_layers)
        return fail(ERR_FORMAT,
            "%s: %.200s: found layer %ld, expected 0 to %d; this file is of another model", path,
            t->key, layer, n_layers - 1);
    const struct torch_tensor **slot = &layers[layer].of[field];
    if (*slot)
        return fail(ERR_FORMAT,
            "%s: %.200s: found a second %s for layer %ld beside %.200s, expected one attention "
            "module "
            "per layer",
            path, t->key, fields[field].name, layer, (*slot)->key);
    *slot = t;
    return OK;
}

/* The tensor is of a module that was asked for. */
static bool module_is(const char *key, const char *module)
{
    if (!module) return true;
    const char *end = strrchr(key, '.'), *at = strstr(module, "%d");
    size_t len = (size_t)(end - key), n = strlen(module);
    if (!at) /* the last part of the path */
        return len >= n && memcmp(end - n, module, n) == 0 &&
            (len == n || end[-(ptrdiff_t)n - 1] == '.');
    size_t head = (size_t)(at - module), tail = n - head - 2;
    if (len < head + tail + 1 || memcmp(key, module, head) != 0 ||
        memcmp(end - tail, at + 2, tail) != 0)
        return false;
    return strspn(key + head, "0123456789") == len - head - tail;
}

static enum status no_module(const struct torch_file *f, const char *path, const char *module)
{
    for (size_t i = 0; i < f->n_tensors; i++) {
        enum field field;
        const char *key = f->tensors[i].key;
        if (!field_of(key, &field) || !strchr(key, '.')) continue;
        return fail(ERR_FORMAT,
            "%s: found no module \"%s\", expected one as in %.*s, which the file has; drop "
            "--pt-module, or name that",
            path, module, (int)(strrchr(key, '.') - key), key);
    }
    return OK;
}

static enum status find_layers(struct layer_tensors *layers, const struct torch_file *f,
    const char *path, int n_layers, int n_heads, const char *module)
{
    size_t n_found = 0;
    for (size_t i = 0; i < f->n_tensors; i++) {
        enum field field;
        if (!field_of(f->tensors[i].key, &field) || (module && !strchr(f->tensors[i].key, '.')) ||
            !module_is(f->tensors[i].key, module))
            continue;
        TRY(place(layers, &f->tensors[i], field, path, n_layers));
        TRY(check_shape(&f->tensors[i], path, n_heads));
        n_found++;
    }
    if (n_found) return OK;
    if (module) TRY(no_module(f, path, module));
    return fail(ERR_FORMAT,
        "%s: found no key that ends in .is_sparse, .cdfthreshd, .simthreshd1 or .pvthreshd among "
        "%zu "
        "tensors%s%.100s%s; expected what SpargeAttn's extract_sparse_attention_state_dict() saves "
        "after tuning",
        path, f->n_tensors, f->n_tensors ? " (the first is " : "",
        f->n_tensors ? f->tensors[0].key : "", f->n_tensors ? ")" : "");
}

static enum status check_complete(const struct layer_tensors *layer, const char *path)
{
    const struct torch_tensor *present = NULL;
    for (int i = 0; i < N_FIELDS; i++)
        if (layer->of[i]) present = layer->of[i];
    for (int i = 0; i < N_FIELDS && present; i++)
        if (!layer->of[i] && i != SIMTHRESHD2)
            return fail(ERR_FORMAT,
                "%s: %.*s.%s: found nothing, expected it beside %.200s; tune and save again", path,
                (int)(strrchr(present->key, '.') - present->key), present->key, fields[i].name,
                present->key);
    return OK;
}

static enum status value_of(
    const struct torch_tensor *t, enum field field, int head, const char *path, double *out)
{
    double v = *out = torch_tensor_at(t, head);
    if (!isfinite(v))
        return fail(ERR_NUMERIC,
            "%s: %.200s: head %d: found %g, expected a number; tune this layer again", path, t->key,
            head, v);
    if (v < fields[field].lo || v > fields[field].hi)
        return fail(ERR_FORMAT,
            "%s: %.200s: head %d: found %g, expected %g to %g; tune this layer again", path, t->key,
            head, v, fields[field].lo, fields[field].hi);
    if (field == IS_SPARSE && v != 0 && v != 1)
        return fail(ERR_FORMAT, "%s: %.200s: head %d: found %g, expected false or true", path,
            t->key, head, v);
    return OK;
}

static enum status read_layer(
    struct tuned_head *heads, const struct layer_tensors *layer, const char *path, int n_heads)
{
    for (int h = 0; h < n_heads; h++) {
        double v[N_FIELDS] = {0};
        for (int i = 0; i < N_FIELDS; i++)
            if (layer->of[i]) TRY(value_of(layer->of[i], (enum field)i, h, path, &v[i]));
        heads[h].in_range = true;
        heads[h].params = (struct head_params){
            .theta = (float)v[SIMTHRESHD1],
            .tau = (float)v[CDFTHRESHD],
            .lambda = (float)v[PVTHRESHD],
            .is_sparse = v[IS_SPARSE] != 0,
        };
        if (!heads[h].params.is_sparse)
            snprintf(heads[h].reason, sizeof heads[h].reason, "is_sparse is false in the .pt file");
    }
    return OK;
}

static enum status name_layers(struct tuned *t)
{
    struct sparse_policy p;
    TRY(policy_init(&p, NULL, t->n_layers, t->n_heads));
    for (int l = 0; l < t->n_layers; l++) p.layer_on[l] = t->heads[l * t->n_heads].in_range;
    policy_layers_text(&p, t->layers);
    policy_clear(&p);
    return OK;
}

static enum status fill(struct tuned *t, struct layer_tensors *layers, const struct torch_file *f,
    const char *path, const char *module)
{
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        struct tuned_head *h = &t->heads[i];
        h->tune = h->check = h->held_out = head_error_unknown;
        h->qk_sparsity = h->sparsity = NAN;
    }
    TRY(find_layers(layers, f, path, t->n_layers, t->n_heads, module));
    for (int l = 0; l < t->n_layers; l++) {
        TRY(check_complete(&layers[l], path));
        if (layers[l].of[IS_SPARSE])
            TRY(read_layer(t->heads + l * t->n_heads, &layers[l], path, t->n_heads));
    }
    return name_layers(t);
}

enum status sparge_pt_from(struct tuned *out, const struct torch_file *f, const char *path,
    int n_layers, int n_heads, const char *module)
{
    *out = (struct tuned){0};
    if (n_layers < 1 || n_heads < 1)
        return fail(ERR_ARG,
            "%s: for a model of %d layers and %d heads: expected at least one of each", path,
            n_layers, n_heads);
    struct layer_tensors *layers = calloc((size_t)n_layers, sizeof *layers);
    enum status st = layers ? tuned_init(out, n_layers, n_heads)
                            : fail(ERR_MEMORY, "%s: no memory for %d layers", path, n_layers);
    if (st == OK) {
        snprintf(out->method, sizeof out->method, "%s", mask_sparge.name);
        out->rule = RULE_L1;
        out->block = (struct block_shape)BLOCK_DEFAULT;
        out->smooth_k = SMOOTH_K_GLOBAL;
        st = fill(out, layers, f, path, module);
    }
    free(layers);
    if (st != OK) tuned_clear(out);
    return st;
}

enum status sparge_pt_read(
    struct tuned *out, const char *path, int n_layers, int n_heads, const char *module)
{
    struct torch_file f;
    *out = (struct tuned){0};
    TRY(torch_file_open(&f, path));
    enum status st = sparge_pt_from(out, &f, path, n_layers, n_heads, module);
    torch_file_close(&f);
    return st;
}

static bool layer_in_range(const struct tuned *t, int layer)
{
    for (int h = 0; h < t->n_heads; h++)
        if (t->heads[layer * t->n_heads + h].in_range) return true;
    return false;
}

static enum status check_head(const struct tuned *t, const char *path, int layer, int head)
{
    const struct head_params *p = &t->heads[layer * t->n_heads + head].params;
    const double v[N_FIELDS] = {[CDFTHRESHD] = (double)p->tau,
        [SIMTHRESHD1] = (double)p->theta,
        [PVTHRESHD] = (double)p->lambda};
    for (int i = 0; i < N_FIELDS; i++)
        if (!(v[i] >= fields[i].lo && v[i] <= fields[i].hi))
            return fail(ERR_ARG, "%s: layer %d, head %d: %s: found %g, expected %g to %g", path,
                layer, head, fields[i].name, v[i], fields[i].lo, fields[i].hi);
    return OK;
}

/* The five tensors of one layer, one after another in `bytes`: a byte and then four floats per
 * head. */
static enum status encode_layer(
    const struct tuned *t, const char *path, int layer, struct str *bytes)
{
    struct str columns[N_FIELDS] = {{0}};
    enum status st = OK;
    for (int h = 0; h < t->n_heads && st == OK; h++) {
        const struct tuned_head *head = &t->heads[layer * t->n_heads + h];
        bool sparse = head->in_range && head->params.is_sparse;
        if (sparse) st = check_head(t, path, layer, h);
        str_add_char(&columns[IS_SPARSE], sparse);
        const float v[N_FIELDS] = {[CDFTHRESHD] = sparse ? head->params.tau : DENSE_CDF,
            [SIMTHRESHD1] = sparse ? head->params.theta : DENSE_SIM,
            [PVTHRESHD] = sparse ? head->params.lambda : NEVER_SKIP};
        for (int i = IS_SPARSE + 1; i < N_FIELDS; i++)
            str_add_bytes(&columns[i], &v[i], sizeof v[i]);
    }
    for (int i = 0; i < N_FIELDS; i++) {
        str_add_bytes(bytes, columns[i].data, columns[i].len);
        str_clear(&columns[i]);
    }
    return st;
}

static enum status check_module(const char *path, const char *module)
{
    const char *at = strstr(module, "%d");
    if (at && strchr(module, '%') == at && !strchr(at + 1, '%')) {
        char *key = str_format(
            "%.*s%d%s.%s", (int)(at - module), module, 7, at + 2, fields[IS_SPARSE].name);
        long layer = layer_of(key);
        free(key);
        if (layer == 7) return OK; /* so that what is written can be read */
    }
    return fail(ERR_ARG,
        "%s: path of the attention module: found \"%s\", expected one %%d for the layer, as in "
        "model.layers.%%d.self_attn.sparse_attn",
        path, module);
}

static enum status write_layers(
    const struct tuned *t, const char *path, const char *module, struct torch_tensor *tensors)
{
    const char *at = strstr(module, "%d");
    struct str bytes = {0};
    size_t n_tensors = 0, offset = 0;
    enum status st = OK;
    for (int l = 0; l < t->n_layers && st == OK; l++) {
        if (!layer_in_range(t, l)) continue;
        st = encode_layer(t, path, l, &bytes);
        for (int i = 0; i < N_FIELDS; i++)
            tensors[n_tensors++] =
                (struct torch_tensor){.key = str_format("%.*s%d%s.%s", (int)(at - module), module,
                                          l, at + 2, fields[i].name),
                    .type = fields[i].type,
                    .n_dims = 1,
                    .shape = {t->n_heads},
                    .stride = {1},
                    .storage_count = t->n_heads};
    }
    for (size_t i = 0; i < n_tensors; i++) { /* only now do the bytes stay where they are */
        tensors[i].storage = (const uint8_t *)str_get(&bytes) + offset;
        offset += (size_t)t->n_heads * torch_type_size(tensors[i].type);
    }
    if (st == OK && n_tensors == 0)
        st = fail(ERR_ARG,
            "%s: no layer of %d was tuned, so there is nothing to write; tune with --layers", path,
            t->n_layers);
    if (st == OK) st = torch_file_write(path, tensors, n_tensors);
    for (size_t i = 0; i < n_tensors; i++) free(tensors[i].key);
    str_clear(&bytes);
    return st;
}

enum status sparge_pt_write(const struct tuned *t, const char *path, const char *module)
{
    /* a bare name stands where the guide has sparse_attn */
    const char *last = strrchr(SPARGE_PT_MODULE, '.');
    char *full = !module ? str_dup(SPARGE_PT_MODULE)
        : module[0] && !strpbrk(module, ".%")
        ? str_format("%.*s.%s", (int)(last - SPARGE_PT_MODULE), SPARGE_PT_MODULE, module)
        : str_dup(module);
    struct torch_tensor *tensors = NULL;
    enum status st = check_module(path, full);
    if (st == OK && strcmp(t->method, mask_sparge.name) != 0)
        st = fail(ERR_ARG,
            "%s: method: found \"%s\", expected \"%s\": SpargeAttn has no thresholds for another",
            path, t->method, mask_sparge.name);
    if (st == OK && !(tensors = calloc((size_t)t->n_layers * N_FIELDS, sizeof *tensors)))
        st = fail(ERR_MEMORY, "%s: no memory for %d layers", path, t->n_layers);
    if (st == OK) st = write_layers(t, path, full, tensors);
    free(tensors);
    free(full);
    return st;
}

void sparge_pt_caveats(const struct tuned *t, struct str *out)
{
    if (t->block.q != 128 || t->block.k != 64)
        str_addf(out,
            "block: tuned for %dx%d; SpargeAttn uses 128x64, and 64x128 on compute capability "
            "9.0\n",
            t->block.q, t->block.k);
    if (t->smooth_k != SMOOTH_K_GLOBAL)
        str_addf(out,
            "smooth_k: tuned with %s; SpargeAttn centres keys by the mean of the whole sequence "
            "(global)\n",
            smooth_k_name(t->smooth_k));
}

void sparge_pt_options(const struct tuned *t, struct str *out)
{
    if (t->block.q != 128 || t->block.k != 64)
        str_addf(out, " --block %dx%d", t->block.q, t->block.k);
    if (t->smooth_k != SMOOTH_K_GLOBAL) str_addf(out, " --smooth-k %s", smooth_k_name(t->smooth_k));
    if (t->qk) str_addf(out, " --qk %s", precision_name(t->qk));
    if (t->pv) str_addf(out, " --pv %s", precision_name(t->pv));
}
