#include "engine/checkpoint/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN "download the file again"
enum { MAX_VALUES = 1 << 16, MAX_TENSORS = 1 << 20, MAX_KEY = 1 << 16 };

/* Where reading stands; `failed` once something did not fit. */
struct gguf_reader {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    bool failed;
};

static const uint8_t *reader_take(struct gguf_reader *r, uint64_t n)
{
    if (r->failed || n > r->size - r->at) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += n;
    return p;
}

static uint32_t reader_u32(struct gguf_reader *r)
{
    uint32_t v = 0;
    const uint8_t *p = reader_take(r, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t reader_u64(struct gguf_reader *r)
{
    uint64_t v = 0;
    const uint8_t *p = reader_take(r, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return v;
}

static struct gguf_text reader_text(struct gguf_reader *r)
{
    uint64_t n = reader_u64(r);
    if (n > INT32_MAX) r->failed = true; /* lengths of texts are printed as ints */
    const uint8_t *p = reader_take(r, n);
    return p ? (struct gguf_text){(const char *)p, (size_t)n} : (struct gguf_text){"", 0};
}

static enum status reader_check(const struct gguf_reader *r, const char *what)
{
    if (!r->failed) return OK;
    return fail(ERR_FORMAT, "%s: ends within %s, at byte %zu of %zu; " AGAIN, r->path, what, r->at,
        r->size);
}

static size_t type_width(enum gguf_type t)
{
    static const uint8_t widths[N_GGUF_TYPES] = {
        [GGUF_U8] = 1,
        [GGUF_I8] = 1,
        [GGUF_U16] = 2,
        [GGUF_I16] = 2,
        [GGUF_U32] = 4,
        [GGUF_I32] = 4,
        [GGUF_F32] = 4,
        [GGUF_BOOL] = 1,
        [GGUF_U64] = 8,
        [GGUF_I64] = 8,
        [GGUF_F64] = 8,
    };
    return widths[t];
}

static enum status read_value(struct gguf_reader *r, struct gguf_value *v)
{
    v->key = reader_text(r);
    uint32_t type = reader_u32(r);
    v->n = 1;
    if (type == GGUF_ARRAY) {
        v->is_array = true;
        type = reader_u32(r);
        v->n = reader_u64(r);
    }
    TRY(reader_check(r, "its metadata"));
    if (type >= N_GGUF_TYPES || type == GGUF_ARRAY)
        return fail(ERR_FORMAT,
            "%s: metadata %.*s: found value type %u, expected one from 0 to 12 and no array of "
            "arrays; " AGAIN,
            r->path, (int)(v->key.n < 200 ? v->key.n : 200), v->key.s, type);
    v->type = (enum gguf_type)type;
    v->data = r->data + r->at;
    if (v->type == GGUF_STRING)
        for (uint64_t i = 0; i < v->n && !r->failed; i++) reader_text(r);
    else if (v->n > r->size) r->failed = true;
    else reader_take(r, v->n * type_width(v->type));
    v->bytes = (size_t)(r->data + r->at - v->data);
    return reader_check(r, "its metadata");
}

/* What llama.cpp calls the types that are not read here. */
static const char *other_type(uint32_t type)
{
    static const char *const names[] = {[9] = "Q8_1",
        [10] = "Q2_K",
        [11] = "Q3_K",
        [15] = "Q8_K",
        [16] = "IQ2_XXS",
        [17] = "IQ2_XS",
        [18] = "IQ3_XXS",
        [19] = "IQ1_S",
        [20] = "IQ4_NL",
        [21] = "IQ3_S",
        [22] = "IQ2_S",
        [23] = "IQ4_XS",
        [24] = "I8",
        [25] = "I16",
        [26] = "I32",
        [27] = "I64",
        [28] = "F64",
        [29] = "IQ1_M",
        [34] = "TQ1_0",
        [35] = "TQ2_0",
        [39] = "MXFP4"};
    return type < sizeof names / sizeof *names && names[type] ? names[type] : "unknown here";
}

static enum status read_tensor(struct gguf_reader *r, struct gguf_tensor *t, uint64_t *offset)
{
    t->name = reader_text(r);
    uint32_t n_dims = reader_u32(r);
    TRY(reader_check(r, "its list of tensors"));
    int width = (int)(t->name.n < 200 ? t->name.n : 200);
    if (n_dims < 1 || n_dims > 4)
        return fail(ERR_FORMAT, "%s: tensor %.*s: found %u dimensions, expected 1 to 4; " AGAIN,
            r->path, width, t->name.s, n_dims);
    t->n_dims = (int)n_dims;
    uint64_t elements = 1;
    for (int i = 0; i < t->n_dims; i++) {
        t->dims[i] = reader_u64(r);
        if (r->failed || t->dims[i] < 1 || t->dims[i] > ((uint64_t)1 << 40) / elements)
            return r->failed
                ? reader_check(r, "its list of tensors")
                : fail(ERR_FORMAT, "%s: tensor %.*s: found a dimension of %llu; " AGAIN, r->path,
                      width, t->name.s, (unsigned long long)t->dims[i]);
        elements *= t->dims[i];
    }
    t->type = reader_u32(r);
    *offset = reader_u64(r);
    TRY(reader_check(r, "its list of tensors"));
    int values, bytes;
    if (!gguf_quant_name(t->type, &values, &bytes))
        return fail(ERR_UNSUPPORTED,
            "%s: tensor %.*s: found type %u (%s), supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
            "Q5_0, Q5_1, Q4_K, Q5_K and Q6_K; take a file in one of these",
            r->path, width, t->name.s, t->type, other_type(t->type));
    if (t->dims[0] % (uint64_t)values)
        return fail(ERR_FORMAT,
            "%s: tensor %.*s: found rows of %llu values, expected a multiple of %d for its "
            "type; " AGAIN,
            r->path, width, t->name.s, (unsigned long long)t->dims[0], values);
    t->bytes = (size_t)(elements / (uint64_t)values * (uint64_t)bytes);
    return OK;
}

static enum status read_tensors(struct gguf *g, struct gguf_reader *r)
{
    uint64_t *offsets = calloc(g->n_tensors ? g->n_tensors : 1, sizeof *offsets);
    if (!offsets) return fail(ERR_MEMORY, "%s: no memory for %zu tensors", r->path, g->n_tensors);
    enum status st = OK;
    for (size_t i = 0; i < g->n_tensors && st == OK; i++)
        st = read_tensor(r, &g->tensors[i], &offsets[i]);
    const struct gguf_value *align = gguf_find(g, "general.alignment");
    double step = align && align->type == GGUF_U32 && !align->is_array ? gguf_number(align, 0) : 32;
    if (st == OK && !(step >= 1 && step <= 1 << 20))
        st = fail(ERR_FORMAT, "%s: metadata general.alignment: found %g, expected 1 to %d; " AGAIN,
            r->path, step, 1 << 20);
    size_t unit = st == OK ? (size_t)step : 1, begin = (r->at + unit - 1) / unit * unit;
    for (size_t i = 0; i < g->n_tensors && st == OK; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (begin > r->size || offsets[i] > r->size - begin ||
            t->bytes > r->size - begin - offsets[i])
            st = fail(ERR_FORMAT,
                "%s: tensor %.*s: its %zu bytes at %llu reach past the end of the file, %zu; the "
                "download is incomplete: " AGAIN,
                r->path, (int)(t->name.n < 200 ? t->name.n : 200), t->name.s, t->bytes,
                (unsigned long long)(begin + offsets[i]), r->size);
        else t->data = r->data + begin + offsets[i];
    }
    free(offsets);
    return st;
}

static enum status read_all(struct gguf *g, struct gguf_reader *r)
{
    const uint8_t *magic = reader_take(r, 4);
    uint32_t version = reader_u32(r);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return fail(ERR_FORMAT, "%s: is no GGUF file", r->path);
    if (version == 2u << 24 || version == 3u << 24)
        return fail(ERR_UNSUPPORTED,
            "%s: found a big-endian file, supported is little-endian; convert the model again",
            r->path);
    if (version != 2 && version != 3)
        return fail(ERR_UNSUPPORTED,
            "%s: found GGUF version %u, supported are 2 and 3 in little-endian; convert the model "
            "again",
            r->path, version);
    uint64_t n_tensors = reader_u64(r), n_values = reader_u64(r);
    TRY(reader_check(r, "its header"));
    if (n_tensors > MAX_TENSORS || n_values > MAX_VALUES)
        return fail(ERR_FORMAT,
            "%s: found %llu tensors and %llu metadata, expected up to %d and %d; " AGAIN, r->path,
            (unsigned long long)n_tensors, (unsigned long long)n_values, MAX_TENSORS, MAX_VALUES);
    g->values = calloc(n_values ? n_values : 1, sizeof *g->values);
    g->tensors = calloc(n_tensors ? n_tensors : 1, sizeof *g->tensors);
    if (!g->values || !g->tensors) return fail(ERR_MEMORY, "%s: no memory for its header", r->path);
    for (; g->n_values < n_values; g->n_values++) TRY(read_value(r, &g->values[g->n_values]));
    g->n_tensors = n_tensors;
    return read_tensors(g, r);
}

enum status gguf_parse(struct gguf *g, const char *path, const uint8_t *data, size_t size)
{
    *g = (struct gguf){.path = str_dup(path)};
    enum status st = read_all(g, &(struct gguf_reader){.path = path, .data = data, .size = size});
    if (st != OK) gguf_close(g);
    return st;
}

enum status gguf_open(struct gguf *g, const char *path)
{
    struct file_map map;
    *g = (struct gguf){0};
    TRY(file_map_open(&map, path));
    enum status st = gguf_parse(g, path, map.data, map.size);
    if (st == OK) g->map = map;
    else file_map_close(&map);
    return st;
}

void gguf_close(struct gguf *g)
{
    file_map_close(&g->map);
    free(g->values);
    free(g->tensors);
    free(g->path);
    *g = (struct gguf){0};
}

bool gguf_is(const char *path)
{
    char magic[4] = "";
    if (!file_is_regular(path)) return false;
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(magic, 1, sizeof magic, f) : 0;
    if (f) fclose(f);
    return n == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
}

bool gguf_text_is(struct gguf_text t, const char *s)
{
    return t.n == strlen(s) && memcmp(t.s, s, t.n) == 0;
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    for (size_t i = 0; i < g->n_values; i++)
        if (gguf_text_is(g->values[i].key, key)) return &g->values[i];
    return NULL;
}

#define NUMBER_AS(type)                                  \
    do {                                                 \
        type x_;                                         \
        memcpy(&x_, v->data + i * sizeof x_, sizeof x_); \
        return (double)x_;                               \
    } while (0)

double gguf_number(const struct gguf_value *v, uint64_t i)
{
    switch (v->type) {
    case GGUF_U8:
    case GGUF_BOOL: NUMBER_AS(uint8_t);
    case GGUF_I8: NUMBER_AS(int8_t);
    case GGUF_U16: NUMBER_AS(uint16_t);
    case GGUF_I16: NUMBER_AS(int16_t);
    case GGUF_U32: NUMBER_AS(uint32_t);
    case GGUF_I32: NUMBER_AS(int32_t);
    case GGUF_F32: NUMBER_AS(float);
    case GGUF_U64: NUMBER_AS(uint64_t);
    case GGUF_I64: NUMBER_AS(int64_t);
    case GGUF_F64: NUMBER_AS(double);
    default: return 0;
    }
}

struct gguf_text gguf_next_text(const uint8_t **at)
{
    uint64_t n;
    memcpy(&n, *at, sizeof n);
    struct gguf_text t = {(const char *)*at + sizeof n, (size_t)n};
    *at += sizeof n + n;
    return t;
}
