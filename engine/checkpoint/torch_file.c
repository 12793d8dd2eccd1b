#include "engine/checkpoint/torch_file.h"

#include "engine/checkpoint/torch_pickle.h"
#include "engine/checkpoint/torch_zip.h"
#include "kernels/dtype.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t torch_tensor_elements(const struct torch_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

/* Where element i of the view begins. */
static const uint8_t *element(const struct torch_tensor *t, int64_t i)
{
    int64_t at = t->offset;
    for (int d = t->n_dims - 1; d >= 0; d--) {
        at += i % t->shape[d] * t->stride[d];
        i /= t->shape[d];
    }
    return t->storage + (size_t)at * torch_type_size(t->type);
}

static double half(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double v = exponent == 31 ? (fraction ? NAN : INFINITY)
        : exponent            ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return bits & 0x8000 ? -v : v;
}

double torch_tensor_at(const struct torch_tensor *t, int64_t i)
{
    const uint8_t *p = element(t, i);
    union {
        uint8_t u8;
        int8_t i8;
        int16_t i16;
        uint16_t u16;
        int32_t i32;
        int64_t i64;
        float f32;
        double f64;
    } v;
    memcpy(&v, p, torch_type_size(t->type)); /* the archive aligns nothing for certain */
    switch (t->type) {
    case TORCH_BOOL: return v.u8 != 0;
    case TORCH_UINT8: return v.u8;
    case TORCH_INT8: return v.i8;
    case TORCH_INT16: return v.i16;
    case TORCH_INT32: return v.i32;
    case TORCH_INT64: return (double)v.i64;
    case TORCH_FLOAT16: return half(v.u16);
    case TORCH_BFLOAT16: return (double)bf16_to_f32(v.u16);
    case TORCH_FLOAT32: return (double)v.f32;
    case TORCH_FLOAT64:
    case TORCH_TYPES: break;
    }
    return v.f64;
}

char *torch_tensor_shape_text(const struct torch_tensor *t, char *out, size_t size)
{
    struct str s = {0};
    str_add_char(&s, '[');
    for (int i = 0; i < t->n_dims; i++)
        str_addf(&s, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    str_add_char(&s, ']');
    snprintf(out, size, "%s", str_get(&s));
    str_clear(&s);
    return out;
}

static enum status read_text(struct torch_zip *z, const char *name, bool required, char out[16])
{
    const struct zip_entry *e;
    TRY(torch_zip_find(z, name, &e));
    out[0] = 0;
    if (!e && required)
        return fail(ERR_FORMAT,
            "%s: entry %s: found nothing, expected a short text; not a file of torch.save", z->file,
            name);
    if (!e) return OK;
    size_t n = e->size < 15 ? e->size : 15;
    while (n > 0 && (e->data[n - 1] == '\n' || e->data[n - 1] == '\r')) n--;
    for (size_t i = 0; i < n; i++)
        out[i] = e->data[i] >= 32 && e->data[i] < 127 ? (char)e->data[i] : '?';
    out[n] = 0;
    return OK;
}

static enum status check_container(struct torch_zip *z)
{
    char text[16];
    TRY(read_text(z, "version", true, text));
    char *end;
    long version = strtol(text, &end, 10);
    if (end == text || *end || version < 1 || version > 10)
        return fail(ERR_UNSUPPORTED,
            "%s: entry version: found \"%s\", expected 1 to 10; save the file with an older torch",
            z->file, text);
    TRY(read_text(z, "byteorder", false,
        text)); /* torch 2.1 began to say; before, files were little-endian */
    if (text[0] && strcmp(text, "little") != 0)
        return fail(ERR_UNSUPPORTED,
            "%s: entry byteorder: found \"%s\", expected \"little\"; save the file on a "
            "little-endian machine",
            z->file, text);
    return OK;
}

static enum status attach_storage(struct torch_zip *z, struct torch_tensor *t)
{
    char name[40];
    snprintf(name, sizeof name, "data/%s", t->storage_name);
    const struct zip_entry *e;
    TRY(torch_zip_find(z, name, &e));
    if (!e)
        return fail(ERR_FORMAT, "%s: %.200s: found no entry %s, expected its elements there",
            z->file, t->key, name);
    size_t size = torch_type_size(t->type);
    if (e->size % size != 0 || e->size / size != (size_t)t->storage_count)
        return fail(ERR_FORMAT,
            "%s: %.200s: entry %s: found %zu bytes, expected %lld elements of %s; the file is "
            "damaged",
            z->file, t->key, name, e->size, (long long)t->storage_count, torch_type_name(t->type));
    t->storage = e->data;
    return OK;
}

static int tensor_order(const void *a, const void *b)
{
    return strcmp(((const struct torch_tensor *)a)->key, ((const struct torch_tensor *)b)->key);
}

static enum status read_archive(struct torch_file *f, struct torch_zip *z)
{
    TRY(check_container(z));
    const struct zip_entry *e;
    TRY(torch_zip_find(z, "data.pkl", &e));
    struct torch_pickle p;
    TRY(torch_pickle_read(&p, z->file, e->data, e->size));
    f->tensors = p.tensors;
    f->n_tensors = p.n_tensors;
    f->n_other = p.n_other;
    for (size_t i = 0; i < f->n_tensors; i++) TRY(attach_storage(z, &f->tensors[i]));
    qsort(f->tensors, f->n_tensors, sizeof *f->tensors, tensor_order);
    for (size_t i = 1; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i - 1].key, f->tensors[i].key) == 0)
            return fail(ERR_FORMAT, "%s: %.200s: stands there twice; torch.save never writes that",
                z->file, f->tensors[i].key);
    return OK;
}

enum status torch_file_parse(struct torch_file *f, const char *name, const void *data, size_t size)
{
    *f = (struct torch_file){0};
    struct torch_zip z;
    TRY(torch_zip_open(&z, name, data, size));
    enum status st = read_archive(f, &z);
    torch_zip_close(&z);
    if (st != OK) torch_file_close(f);
    return st;
}

enum status torch_file_open(struct torch_file *f, const char *path)
{
    struct file_map map;
    *f = (struct torch_file){0};
    TRY(file_map_open(&map, path));
    enum status st = torch_file_parse(f, path, map.data, map.size);
    if (st == OK) f->map = map;
    else file_map_close(&map);
    return st;
}

void torch_file_close(struct torch_file *f)
{
    for (size_t i = 0; i < f->n_tensors; i++) free(f->tensors[i].key);
    free(f->tensors);
    file_map_close(&f->map);
    *f = (struct torch_file){0};
}

const struct torch_tensor *torch_file_find(const struct torch_file *f, const char *key)
{
    size_t lo = 0, hi = f->n_tensors;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = strcmp(key, f->tensors[mid].key);
        if (c == 0) return &f->tensors[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

static void put_number(struct str *s, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) str_add_char(s, (char)(v >> (8 * i) & 0xff));
}

static void put_int(struct str *s, int64_t v)
{
    if (v >= 0 && v <= 0xff) {
        str_add_char(s, 'K');
        put_number(s, (uint64_t)v, 1);
    } else if (v >= INT32_MIN && v <= INT32_MAX) {
        str_add_char(s, 'J');
        put_number(s, (uint64_t)v, 4);
    } else {
        str_add_bytes(s, "\x8a\x08", 2);
        put_number(s, (uint64_t)v, 8);
    }
}

static void put_string(struct str *s, const char *text)
{
    str_add_char(s, 'X');
    put_number(s, strlen(text), 4);
    str_add(s, text);
}

static void put_name(struct str *s, const char *module, const char *name)
{
    str_addf(s, "c%s\n%s\n", module, name);
}

static void put_tuple(struct str *s, const int64_t *v, int n)
{
    str_add_char(s, '(');
    for (int i = 0; i < n; i++) put_int(s, v[i]);
    str_add_char(s, 't');
}

/* The dictionary; tensor i is contiguous in storage "i" on the CPU. Nothing is memoised: names are
 * repeated, which costs some hundred bytes a tensor and spares the book-keeping. */
static void put_pickle(struct str *out, const struct torch_tensor *tensors, size_t n_tensors)
{
    str_add_bytes(out, "\x80\x02}(", 4);
    for (size_t i = 0; i < n_tensors; i++) {
        const struct torch_tensor *t = &tensors[i];
        char name[24];
        snprintf(name, sizeof name, "%zu", i);
        put_string(out, t->key);
        put_name(out, "torch._utils", "_rebuild_tensor_v2");
        str_add(out, "((");
        put_string(out, "storage");
        put_name(out, "torch", torch_type_storage(t->type));
        put_string(out, name);
        put_string(out, "cpu");
        put_int(out, torch_tensor_elements(t));
        str_add(out, "tQ");
        put_int(out, 0);
        int64_t stride[TORCH_MAX_DIMS], step_size = 1;
        for (int d = t->n_dims - 1; d >= 0; d--) {
            stride[d] = step_size;
            step_size *= t->shape[d] > 0 ? t->shape[d] : 1;
        }
        put_tuple(out, t->shape, t->n_dims);
        put_tuple(out, stride, t->n_dims);
        str_add_char(out, '\x89'); /* requires no gradient */
        put_name(out, "collections", "OrderedDict");
        str_add(out, ")RtR");
    }
    str_add(out, "u.");
}

static void add_text(struct torch_zip_writer *w, const char *name, const char *text)
{
    torch_zip_add(w, name, text, strlen(text));
}

enum status torch_file_write(const char *path, const struct torch_tensor *tensors, size_t n_tensors)
{
    struct torch_zip_writer w = {0};
    struct str bytes = {0};
    put_pickle(&bytes, tensors, n_tensors);
    torch_zip_add(&w, "archive/data.pkl", bytes.data, bytes.len);
    add_text(&w, "archive/byteorder", "little");
    for (size_t i = 0; i < n_tensors; i++) {
        const struct torch_tensor *t = &tensors[i];
        char name[40];
        snprintf(name, sizeof name, "archive/data/%zu", i);
        str_reset(&bytes);
        for (int64_t k = 0, n = torch_tensor_elements(t); k < n; k++)
            str_add_bytes(&bytes, element(t, k), torch_type_size(t->type));
        torch_zip_add(&w, name, bytes.data, bytes.len);
    }
    add_text(&w, "archive/version", "3\n");
    enum status st = torch_zip_finish(&w);
    if (st != OK) st = fail_context(st, "%s", path);
    if (st == OK) st = file_write_atomic(path, w.out.data, w.out.len);
    torch_zip_writer_clear(&w);
    str_clear(&bytes);
    return st;
}
