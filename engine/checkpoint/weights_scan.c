/* The two passes over a whole checkpoint: the scan for values that are not finite, and the
 * fingerprint. */
#include "engine/checkpoint/fingerprint_memory.h"
#include "engine/checkpoint/weights.h"

#include "engine/checkpoint/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Not finite: all bits of the exponent set. Blocks of a fixed size with counters as wide as the
 * values let the compiler use whole vectors. */
#define SCAN_BLOCK 1024

static unsigned scan_block16(const uint8_t *p, uint16_t exponent)
{
    uint16_t count = 0;
    for (int i = 0; i < SCAN_BLOCK; i++) {
        uint16_t v;
        memcpy(&v, p + 2 * (size_t)i, 2);
        count = (uint16_t)(count + ((v & exponent) == exponent));
    }
    return count;
}

static unsigned scan_block32(const uint8_t *p)
{
    uint32_t count = 0;
    for (int i = 0; i < SCAN_BLOCK; i++) {
        uint32_t v;
        memcpy(&v, p + 4 * (size_t)i, 4);
        count += (v & 0x7f800000u) == 0x7f800000u;
    }
    return count;
}

static uint16_t exponent_mask(enum dtype dtype) { return dtype == DTYPE_F16 ? 0x7c00 : 0x7f80; }

static bool not_finite(const uint8_t *p, enum dtype dtype)
{
    if (dtype == DTYPE_F32) {
        uint32_t v;
        memcpy(&v, p, 4);
        return (v & 0x7f800000u) == 0x7f800000u;
    }
    uint16_t v, mask = exponent_mask(dtype);
    memcpy(&v, p, 2);
    return (v & mask) == mask;
}

/* How many of n values, and the index of the first; any alignment. */
static size_t count_not_finite(const void *data, enum dtype dtype, size_t n, size_t *first)
{
    const uint8_t *p = data;
    size_t width = dtype_size(dtype), count = 0;
    for (size_t i = 0; i < n;) {
        bool whole = n - i >= SCAN_BLOCK;
        if (whole) {
            const uint8_t *block = p + i * width;
            unsigned c = dtype == DTYPE_F32 ? scan_block32(block)
                                            : scan_block16(block, exponent_mask(dtype));
            if (!c || count) {
                count += c;
                i += SCAN_BLOCK;
                continue;
            }
        }
        for (size_t end = whole ? i + SCAN_BLOCK : n; i < end; i++) {
            if (!not_finite(p + i * width, dtype)) continue;
            if (!count++) *first = i;
        }
    }
    return count;
}

/* Both passes over the whole checkpoint walk a list of pieces, so that threads share the work
 * evenly whatever the sizes of the tensors are, and results do not depend on how many threads there
 * are. */
#define PIECE_BYTES ((size_t)1 << 20)
enum { TELL_PIECES = 1024 };

struct piece {
    const struct weights *weights;
    const struct tensor *tensor;
    size_t offset, bytes;
    size_t n_bad, first_bad;   /* results of the scan; first in elements of the tensor */
    XXH128_canonical_t digest; /* result of the hash, in one order of bytes on every machine */
};

static enum status list_pieces(const struct weights *w, struct piece **out, int *n_out)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_entries; i++)
        n += (w->entries[i].tensor->bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    struct piece *p = calloc(n + 1, sizeof *p);
    if (!p) return fail(ERR_MEMORY, "%s: no memory for a list of %zu pieces", w->dir, n);
    n = 0;
    for (size_t i = 0; i < w->n_entries; i++) {
        const struct tensor *t = w->entries[i].tensor;
        for (size_t at = 0; at < t->bytes; at += PIECE_BYTES)
            p[n++] = (struct piece){.weights = w,
                .tensor = t,
                .offset = at,
                .bytes = t->bytes - at < PIECE_BYTES ? t->bytes - at : PIECE_BYTES};
    }
    *out = p;
    *n_out = (int)n;
    return OK;
}

/* All of them, and who watches is told how far it is. */
static void pieces_run(const struct weights *w, struct par *par, int n, par_body *run,
    struct piece *p, const char *what)
{
    for (int at = 0, end; at < n; at = end) {
        end = n - at < TELL_PIECES ? n : at + TELL_PIECES;
        par_for(par, end - at, run, p + at);
        reading_tell(
            &w->device_options.watch, what, (size_t)end * PIECE_BYTES, (size_t)n * PIECE_BYTES);
    }
}

static void scan_piece(void *ctx, int i, int worker)
{
    (void)worker;
    struct piece *p = (struct piece *)ctx + i;
    size_t width = dtype_size(p->tensor->dtype);
    p->n_bad = count_not_finite(
        p->tensor->data + p->offset, p->tensor->dtype, p->bytes / width, &p->first_bad);
    p->first_bad += p->offset / width;
}

enum status weights_check_finite(const struct weights *w, struct par *par)
{
    struct piece *p = NULL;
    int n = 0;
    TRY(list_pieces(w, &p, &n));
    pieces_run(w, par, n, scan_piece, p, "checking weights");
    enum status st = OK;
    for (int i = 0; i < n && st == OK; i++) {
        if (!p[i].n_bad) continue;
        const struct tensor *t = p[i].tensor;
        size_t count = 0;
        for (int j = i; j < n && p[j].tensor == t; j++) count += p[j].n_bad;
        st = fail(ERR_NUMERIC,
            "%s: tensor %s: %zu of %lld values are NaN or infinite, the first at index %zu; the "
            "checkpoint is damaged: download it again",
            t->file, t->name, count, (long long)tensor_elements(t), p[i].first_bad);
    }
    free(p);
    return st;
}

static void hash_piece(void *ctx, int i, int worker)
{
    (void)worker;
    struct piece *p = (struct piece *)ctx + i;
    XXH128_canonicalFromHash(&p->digest, XXH3_128bits(p->tensor->data + p->offset, p->bytes));
    if (p->weights->device_options.offload)
        weights_drop_pages(p->weights, p->tensor->data + p->offset, p->bytes);
}

static void hash_double(struct hash *h, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    hash_add_u64(h, bits);
}

/* Everything that changes logits; token ids of generation and the declared dtype do not. */
static void hash_config(struct hash *h, const struct weights *w)
{
    const struct llama_config *c = &w->config;
    const int numbers[] = {c->hidden_size, c->intermediate_size, c->n_layers, c->n_heads,
        c->n_kv_heads, c->head_dim, c->vocab_size, c->max_position, c->qkv_bias, c->mlp_bias,
        w->tied, c->rope.original_max_position};
    hash_add_str(h, "llama");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        hash_add_u64(h, (uint64_t)numbers[i]);
    hash_double(h, c->rms_norm_eps);
    hash_add_str(h, rope_type_name(c->rope.type));
    hash_double(h, c->rope.theta);
    hash_double(h, c->rope.factor);
    hash_double(h, c->rope.low_freq_factor);
    hash_double(h, c->rope.high_freq_factor);
    /* as it always was */
    if (strcmp(c->family->model_type, "llama") == 0 && c->rope.type < ROPE_YARN) return;
    hash_add_str(h, c->family->model_type);
    const double further[] = {c->o_bias, c->qk_norm, c->window, c->rope.attention_factor,
        c->rope.beta_fast, c->rope.beta_slow, c->rope.truncate};
    for (size_t i = 0; i < sizeof further / sizeof *further; i++) hash_double(h, further[i]);
    const double scales[] = {c->attention_scale, c->embedding_scale, c->logits_scale};
    for (size_t i = 0; i < sizeof scales / sizeof *scales && c->embedding_scale > 0; i++)
        hash_double(h, scales[i]);
    if (c->rope.turned) hash_double(h, c->rope.turned);
    if (c->norms != NORMS_BEFORE) {
        hash_double(h, c->norms);
        hash_double(h, c->inner_eps);
    }
    if (c->rope.windows_plain) hash_add_str(h, "plain windows");
    for (int l = 0; l < c->n_layers; l++)
        hash_add_u64(h, (uint64_t)(llama_window(c, l) > 0) * 2 + llama_turns(c, l));
    for (int i = 0; i < c->head_dim / 2; i++) {
        hash_double(h, (double)c->rope.short_factor[i]);
        hash_double(h, (double)c->rope.long_factor[i]);
    }
}

/* All that the fingerprint follows from except the tensors' content. */
static void hash_description(struct hash *h, const struct weights *w, const char *also)
{
    hash_config(h, w);
    hash_add_str(h, also);
    for (size_t i = 0; i < w->n_entries; i++) {
        const struct tensor *t = w->entries[i].tensor;
        hash_add_str(h, w->entries[i].name);
        hash_add_str(h, dtype_name(t->dtype));
        for (int d = 0; d < t->n_dims; d++) hash_add_u64(h, (uint64_t)t->shape[d]);
    }
}

static void hash_file_ids(struct hash *h, const struct safetensors *s)
{
    for (int i = 0; i < s->n_files; i++)
        hash_add(h, &s->files[i].map.id, sizeof s->files[i].map.id);
}

enum status weights_fingerprint(const struct weights *w, const char *also, struct par *par,
    const char *memory, char out[FINGERPRINT_SIZE])
{
    struct hash h;
    char hex[HASH_HEX_SIZE], key[HASH_HEX_SIZE];
    hash_init(&h);
    hash_description(&h, w, also ? also : "");
    struct hash ids = h;
    hash_file_ids(&ids, &w->files);
    hash_hex(&ids, key);
    if (memory && fingerprint_recall(memory, key, out)) return OK;

    struct piece *p = NULL;
    int n = 0;
    TRY(list_pieces(w, &p, &n));
    pieces_run(w, par, n, hash_piece, p, "reading weights");
    for (int i = 0; i < n; i++) hash_add(&h, &p[i].digest, sizeof p[i].digest);
    snprintf(out, FINGERPRINT_SIZE, "xxh3:%s", hash_hex(&h, hex));
    free(p);
    if (memory && fingerprint_files_at_rest(&w->files)) fingerprint_remember(memory, key, out);
    return OK;
}
