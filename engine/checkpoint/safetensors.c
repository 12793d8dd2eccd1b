#include "engine/checkpoint/safetensors.h"

#include "base/json.h"
#include "engine/checkpoint/locate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_LENGTH_BYTES 8
#define MAX_HEADER_BYTES ((uint64_t)100000000) /* the limit of the format's own library */
#define MAX_EXACT 9007199254740992.0           /* 2^53: JSON numbers are doubles here */
#define AGAIN "download the file again"

/* Bits of an element, 0 for a name this reader does not know: such a tensor may be there, but not
 * used. */
static int type_bits(const char *type)
{
    static const struct {
        const char *name;
        int bits;
    } types[] = {
        {"F32", 32},
        {"F16", 16},
        {"BF16", 16},
        {"F64", 64},
        {"I64", 64},
        {"I32", 32},
        {"I16", 16},
        {"I8", 8},
        {"U64", 64},
        {"U32", 32},
        {"U16", 16},
        {"U8", 8},
        {"BOOL", 8},
        {"F8_E4M3", 8},
        {"F8_E5M2", 8},
        {"F8_E8M0", 8},
        {"F6_E2M3", 6},
        {"F6_E3M2", 6},
        {"F4", 4},
        {"C64", 64},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, type)) return types[i].bits;
    return 0;
}

static bool whole_number(const cJSON *node, int64_t *out)
{
    if (!cJSON_IsNumber(node)) return false;
    double v = node->valuedouble;
    if (!(v >= 0 && v <= MAX_EXACT) || v != floor(v)) return false;
    *out = (int64_t)v;
    return true;
}

int64_t tensor_elements(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

bool tensor_aligned(const struct tensor *t)
{
    return !t->is_float || (uintptr_t)t->data % dtype_size(t->dtype) == 0;
}

char *tensor_shape_text(const struct tensor *t, char *out, size_t size)
{
    struct str s = {0};
    str_add_char(&s, '[');
    for (int i = 0; i < t->n_dims; i++)
        str_addf(&s, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    str_add_char(&s, ']');
    if (size > 0) {
        size_t n = s.len < size - 1 ? s.len : size - 1;
        memcpy(out, str_get(&s), n);
        out[n] = 0;
    }
    str_clear(&s);
    return out;
}

static enum status parse_type(struct tensor *t, const cJSON *entry)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    if (!cJSON_IsString(type) || !*type->valuestring)
        return fail(ERR_FORMAT, "%s: tensor %s: field dtype: found %s, expected a name; " AGAIN,
            t->file, t->name, json_kind(type));
    strncpy(t->type, type->valuestring, sizeof t->type - 1);
    t->is_float = true;
    if (!strcmp(t->type, "F32")) t->dtype = DTYPE_F32;
    else if (!strcmp(t->type, "F16")) t->dtype = DTYPE_F16;
    else if (!strcmp(t->type, "BF16")) t->dtype = DTYPE_BF16;
    else t->is_float = false;
    return OK;
}

/* Also gives the number of elements, or refuses what does not fit 63 bits. */
static enum status parse_shape(struct tensor *t, const cJSON *entry, int64_t *elements)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    if (!cJSON_IsArray(shape))
        return fail(ERR_FORMAT, "%s: tensor %s: field shape: found %s, expected an array; " AGAIN,
            t->file, t->name, json_kind(shape));
    *elements = 1;
    const cJSON *item;
    cJSON_ArrayForEach(item, shape)
    {
        int64_t extent;
        if (t->n_dims == TENSOR_MAX_DIMS)
            return fail(ERR_UNSUPPORTED, "%s: tensor %s: found more than %d dimensions", t->file,
                t->name, TENSOR_MAX_DIMS);
        if (!whole_number(item, &extent))
            return fail(ERR_FORMAT,
                "%s: tensor %s: field shape: expected whole numbers from 0; " AGAIN, t->file,
                t->name);
        if (__builtin_mul_overflow(*elements, extent, elements))
            return fail(ERR_FORMAT,
                "%s: tensor %s: its shape has more elements than any file; " AGAIN, t->file,
                t->name);
        t->shape[t->n_dims++] = extent;
    }
    return OK;
}

static enum status parse_range(
    struct tensor *t, const cJSON *entry, int64_t elements, const uint8_t *data, size_t data_size)
{
    const cJSON *range = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    int64_t begin, end;
    if (!cJSON_IsArray(range) || cJSON_GetArraySize(range) != 2 ||
        !whole_number(range->child, &begin) || !whole_number(range->child->next, &end) ||
        begin > end)
        return fail(ERR_FORMAT,
            "%s: tensor %s: field data_offsets: expected [begin, end] with begin <= end; " AGAIN,
            t->file, t->name);
    if ((uint64_t)end > data_size)
        return fail(ERR_FORMAT,
            "%s: tensor %s: data_offsets end at byte %lld, but the file holds only %zu bytes of "
            "data: it is truncated; " AGAIN,
            t->file, t->name, (long long)end, data_size);
    int bits = type_bits(t->type);
    int64_t need;
    bool overflow = __builtin_mul_overflow(elements, (int64_t)bits, &need);
    if (bits && (overflow || need % 8 != 0 || need / 8 != end - begin)) {
        char shape[128];
        return fail(ERR_FORMAT,
            "%s: tensor %s: data_offsets span %lld bytes, but %s of shape %s needs %lld; " AGAIN,
            t->file, t->name, (long long)(end - begin), t->type,
            tensor_shape_text(t, shape, sizeof shape),
            overflow ? -1LL : (long long)((need + 7) / 8));
    }
    t->data = data + begin;
    t->bytes = (size_t)(end - begin);
    return OK;
}

static enum status parse_tensor(
    struct tensor *t, const cJSON *entry, const uint8_t *data, size_t data_size)
{
    int64_t elements = 0;
    if (!cJSON_IsObject(entry))
        return fail(ERR_FORMAT, "%s: tensor %s: found %s, expected an object; " AGAIN, t->file,
            t->name, json_kind(entry));
    TRY(parse_type(t, entry));
    TRY(parse_shape(t, entry, &elements));
    return parse_range(t, entry, elements, data, data_size);
}

static int by_place(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* The tensors of one file, sorted by place, must cover its data exactly. */
static enum status check_coverage(
    const struct tensor *t, size_t n, const char *path, const uint8_t *data, size_t data_size)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)(t[i].data - data);
        if (begin < at)
            return fail(ERR_FORMAT,
                "%s: tensor %s: begins at byte %zu of the data, inside tensor %s that ends at "
                "%zu; " AGAIN,
                path, t[i].name, begin, t[i - 1].name, at);
        if (begin > at)
            return fail(ERR_FORMAT,
                "%s: tensor %s: begins at byte %zu of the data, expected %zu: the bytes between "
                "belong to no tensor; " AGAIN,
                path, t[i].name, begin, at);
        at += t[i].bytes;
    }
    if (at != data_size)
        return fail(ERR_FORMAT,
            "%s: the tensors end at byte %zu of the data, found %zu bytes: the rest belongs to no "
            "tensor; " AGAIN,
            path, at, data_size);
    return OK;
}

static enum status read_header_length(
    const char *path, const uint8_t *data, size_t size, uint64_t *length)
{
    static const char lfs[] = "version https://git-lfs";
    if (size >= sizeof lfs - 1 && !memcmp(data, lfs, sizeof lfs - 1))
        return fail(ERR_FORMAT,
            "%s: is a Git LFS pointer, not the weights; run `git lfs pull` in its directory", path);
    if (size < HEADER_LENGTH_BYTES)
        return fail(ERR_FORMAT, "%s: found %zu bytes, too short for a safetensors file; " AGAIN,
            path, size);
    *length = 0;
    for (int i = HEADER_LENGTH_BYTES - 1; i >= 0; i--) *length = *length << 8 | data[i];
    if (*length > MAX_HEADER_BYTES)
        return fail(ERR_FORMAT,
            "%s: the header length field says %llu bytes, more than the format's limit of %llu: "
            "not a safetensors file; " AGAIN,
            path, (unsigned long long)*length, (unsigned long long)MAX_HEADER_BYTES);
    if (*length > size - HEADER_LENGTH_BYTES)
        return fail(ERR_FORMAT,
            "%s: the header length field says %llu bytes, but the file has only %zu: it is "
            "truncated; " AGAIN,
            path, (unsigned long long)*length, size);
    if (*length == 0 || data[HEADER_LENGTH_BYTES] != '{')
        return fail(ERR_FORMAT,
            "%s: the header does not begin with '{': not a safetensors file; " AGAIN, path);
    return OK;
}

/* Append the tensors of one file in memory to s->tensors; on failure those appended so far stay
 * owned. */
static enum status append_tensors(struct safetensors *s, const cJSON *root, const char *path,
    const uint8_t *data, size_t data_size)
{
    size_t n = (size_t)cJSON_GetArraySize(root), first = s->n_tensors;
    struct tensor *grown = realloc(s->tensors, (first + n + 1) * sizeof *grown);
    if (!grown) return fail(ERR_MEMORY, "%s: no memory for %zu tensors", path, n);
    s->tensors = grown;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root)
    {
        if (!strcmp(entry->string, "__metadata__")) continue;
        struct tensor *t = &s->tensors[s->n_tensors];
        *t = (struct tensor){.name = str_dup(entry->string), .file = path};
        s->n_tensors++;
        TRY(parse_tensor(t, entry, data, data_size));
    }
    n = s->n_tensors - first;
    qsort(s->tensors + first, n, sizeof *s->tensors, by_place);
    return check_coverage(s->tensors + first, n, path, data, data_size);
}

static enum status parse_file(
    struct safetensors *s, const char *path, const uint8_t *data, size_t size)
{
    uint64_t length = 0;
    TRY(read_header_length(path, data, size, &length));
    const uint8_t *header = data + HEADER_LENGTH_BYTES;
    cJSON *root;
    char *label = str_format("%s (header)", path);
    enum status st = json_parse(&root, label, (const char *)header, (size_t)length);
    free(label);
    if (st != OK) return st;
    st =
        append_tensors(s, root, path, header + length, size - HEADER_LENGTH_BYTES - (size_t)length);
    cJSON_Delete(root);
    s->bytes += size;
    return st;
}

static enum status check_names(const struct safetensors *s)
{
    for (size_t i = 1; i < s->n_tensors; i++) {
        const struct tensor *a = &s->tensors[i - 1], *b = &s->tensors[i];
        if (strcmp(a->name, b->name) != 0) continue;
        return fail(ERR_FORMAT, "%s: tensor %s: found in %s too; " AGAIN, a->file, a->name,
            path_base(b->file));
    }
    return OK;
}

enum status safetensors_sort(struct safetensors *s)
{
    if (s->n_tensors > 0) qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
    return check_names(s);
}

static enum status add_file(struct safetensors *s, char *path)
{
    struct safetensors_file *grown = realloc(s->files, (size_t)(s->n_files + 1) * sizeof *grown);
    if (!grown) {
        free(path);
        return fail(ERR_MEMORY, "no memory for a list of %d files", s->n_files + 1);
    }
    s->files = grown;
    s->files[s->n_files++] = (struct safetensors_file){.path = path};
    return OK;
}

static enum status map_file(struct safetensors *s, char *path)
{
    TRY(add_file(s, path));
    struct file_map *map = &s->files[s->n_files - 1].map;
    TRY(file_map_open(map, path));
    return parse_file(s, path, map->data, map->size);
}

static void drop_tensor(struct tensor *t) { free((char *)t->name); }

void safetensors_close(struct safetensors *s)
{
    for (size_t i = 0; i < s->n_tensors; i++) drop_tensor(&s->tensors[i]);
    free(s->tensors);
    for (int i = 0; i < s->n_files; i++) {
        file_map_close(&s->files[i].map);
        free(s->files[i].path);
    }
    free(s->files);
    for (size_t i = 0; i < s->n_absent; i++) {
        free(s->absent[i].name);
        free(s->absent[i].shard);
    }
    free(s->absent);
    free(s->unpacked);
    *s = (struct safetensors){0};
}

/* Weight names and their shards, from the index. */
struct placement {
    const char *name, *shard; /* borrowed from the JSON tree */
};

static int placement_by_name(const void *a, const void *b)
{
    return strcmp(((const struct placement *)a)->name, ((const struct placement *)b)->name);
}

static int placement_by_shard(const void *a, const void *b)
{
    return strcmp(((const struct placement *)a)->shard, ((const struct placement *)b)->shard);
}

static enum status read_placements(
    const cJSON *root, const char *index, struct placement **out, size_t *n_out)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
    if (!cJSON_IsObject(map) || !map->child)
        return fail(ERR_FORMAT,
            "%s: field weight_map: found %s, expected an object of tensor names and files", index,
            cJSON_IsObject(map) ? "an empty object" : json_kind(map));
    size_t n = 0;
    struct placement *p = malloc((size_t)cJSON_GetArraySize(map) * sizeof *p);
    if (!p) return fail(ERR_MEMORY, "%s: no memory for its tensor names", index);
    *out = p;
    const cJSON *item;
    cJSON_ArrayForEach(item, map)
    {
        const char *shard = cJSON_IsString(item) ? item->valuestring : "";
        if (!*shard || strchr(shard, '/') || !strcmp(shard, ".."))
            return fail(ERR_FORMAT,
                "%s: field weight_map.%s: found %s%s%s, expected the name of a file beside the "
                "index",
                index, item->string, *shard ? "\"" : "", *shard ? shard : json_kind(item),
                *shard ? "\"" : "");
        p[n++] = (struct placement){item->string, shard};
    }
    *n_out = n;
    return OK;
}

/* Open each shard once; say all at once which are missing. */
static enum status map_shards(
    struct safetensors *s, const char *dir, const char *index, struct placement *p, size_t n)
{
    qsort(p, n, sizeof *p, placement_by_shard);
    int n_shards = 0, n_missing = 0;
    struct str missing = {0};
    for (size_t i = 0; i < n; i++) {
        if (i && !strcmp(p[i].shard, p[i - 1].shard)) continue;
        char *path = path_join(dir, p[i].shard);
        n_shards++;
        if (!file_exists(path)) {
            n_missing++;
            str_addf(&missing, "%s%s", missing.len ? ", " : "", p[i].shard);
        }
        free(path);
    }
    enum status st = OK;
    if (n_missing)
        st = fail(ERR_IO, "%s: %d of its %d shards are missing in %s: %s; download them again",
            index, n_missing, n_shards, dir, str_get(&missing));
    str_clear(&missing);
    for (size_t i = 0; st == OK && i < n; i++)
        if (!i || strcmp(p[i].shard, p[i - 1].shard) != 0)
            st = map_file(s, path_join(dir, p[i].shard));
    return st;
}

/* Of a tensor that several shards have, the copy where the index says stays. */
static void drop_other_copies(struct safetensors *s, const struct placement *p, size_t n)
{
    size_t kept = 0;
    for (size_t first = 0, end; first < s->n_tensors; first = end) {
        struct placement key = {s->tensors[first].name, ""};
        const struct placement *found = bsearch(&key, p, n, sizeof *p, placement_by_name);
        bool placed = false;
        for (end = first; end < s->n_tensors && !strcmp(s->tensors[end].name, key.name); end++)
            placed |= found && !strcmp(found->shard, path_base(s->tensors[end].file));
        for (size_t i = first; i < end; i++) {
            if (placed && strcmp(found->shard, path_base(s->tensors[i].file)) != 0)
                drop_tensor(&s->tensors[i]);
            else s->tensors[kept++] = s->tensors[i];
        }
    }
    s->n_tensors = kept;
}

/* As transformers does, everything in the shards counts. What the index lists and no shard has is
 * only remembered: many list a tied head or a buffer that was never saved, and whether a model
 * needs it is not known here. */
static enum status apply_placements(struct safetensors *s, struct placement *p, size_t n)
{
    qsort(p, n, sizeof *p, placement_by_name);
    qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
    drop_other_copies(s, p, n);
    TRY(check_names(s));
    for (size_t i = 0; i < n; i++) {
        if (safetensors_find(s, p[i].name)) continue;
        struct absent_tensor *grown = realloc(s->absent, (s->n_absent + 1) * sizeof *grown);
        if (!grown) return fail(ERR_MEMORY, "no memory for a list of %zu tensors", s->n_absent + 1);
        s->absent = grown;
        s->absent[s->n_absent++] = (struct absent_tensor){str_dup(p[i].name), str_dup(p[i].shard)};
    }
    return OK;
}

static enum status open_sharded(struct safetensors *s, const char *dir, const char *index)
{
    cJSON *root;
    struct placement *p = NULL;
    size_t n = 0;
    TRY(json_read_foreign(&root, index));
    enum status st = read_placements(root, index, &p, &n);
    if (st == OK) st = map_shards(s, dir, index, p, n);
    if (st == OK) st = apply_placements(s, p, n);
    free(p);
    cJSON_Delete(root);
    return st;
}

enum status safetensors_open(struct safetensors *s, const char *dir)
{
    *s = (struct safetensors){0};
    char *single = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    enum status st;
    if (file_exists(single)) st = safetensors_open_file(s, single);
    else if (file_exists(index)) st = open_sharded(s, dir, index);
    else st = checkpoint_explain(dir, "model.safetensors");
    if (st != OK) safetensors_close(s);
    free(single);
    free(index);
    return st;
}

enum status safetensors_open_file(struct safetensors *s, const char *path)
{
    *s = (struct safetensors){0};
    enum status st = map_file(s, str_dup(path));
    if (st == OK) st = safetensors_sort(s);
    if (st != OK) safetensors_close(s);
    return st;
}

enum status safetensors_parse(
    struct safetensors *s, const char *path, const uint8_t *data, size_t size)
{
    *s = (struct safetensors){0};
    enum status st = add_file(s, str_dup(path));
    if (st == OK) st = parse_file(s, s->files[0].path, data, size);
    if (st == OK) st = safetensors_sort(s);
    if (st != OK) safetensors_close(s);
    return st;
}

const char *safetensors_absent(const struct safetensors *s, const char *name)
{
    for (size_t i = 0; i < s->n_absent; i++)
        if (!strcmp(s->absent[i].name, name)) return s->absent[i].shard;
    return NULL;
}

const struct tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    if (s->n_tensors == 0) return NULL;
    struct tensor key = {.name = name};
    return bsearch(&key, s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
}
