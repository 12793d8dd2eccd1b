#include "engine/checkpoint/synth.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/stats.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CHUNK ((uint64_t)1 << 20) /* values made at once; each chunk has its own random stream */
#define MAX_NAME 96
#define TABLE_SIZE 65536

struct plan_tensor {
    char name[MAX_NAME];
    int m, k;          /* k 0: a vector */
    bool ones;         /* a norm */
    uint64_t elements; /* > 0 */
    int shard;
    uint64_t offset; /* in its file, the header included */
};

struct shard {
    char *name;
    int fd;
    uint64_t header_bytes, data_bytes;
    char *header; /* length field and JSON */
};

struct synth {
    const struct llama_config *config;
    const struct synth_options *options;
    char *tmp; /* the directory written to */
    struct plan_tensor *tensors;
    int n_tensors;
    struct shard *shards;
    int n_shards;
    uint64_t weight_bytes;
    void *table;         /* [TABLE_SIZE] quantiles in the dtype */
    uint8_t *buffers;    /* one chunk a worker */
    uint64_t *first_job; /* [n_tensors + 1], jobs are chunks */
    uint64_t job0;       /* of the running batch */
    atomic_int error;    /* first errno of a worker, 0: none */
};

struct synth_options synth_defaults(void)
{
    return (struct synth_options){
        .seed = 1, .std = 0.02, .dtype = DTYPE_BF16, .shard_bytes = 5000000000u};
}

uint64_t synth_bytes(const struct llama_config *c, enum dtype dtype)
{
    return (uint64_t)llama_config_parameters(c) * dtype_size(dtype);
}

/* Round to nearest even; finite values of magnitude below 65504, which all weights here are. */
static uint16_t f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float a = fabsf(f);
    /* subnormal: units of 2^-24 */
    if (a < 0x1p-14f) return (uint16_t)(sign | (uint16_t)lrintf(a * 0x1p24f));
    bits &= 0x7fffffff;
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (uint16_t)((bits - (112u << 23)) >> 13));
}

static void store(void *to, size_t i, enum dtype dtype, float value)
{
    uint16_t half = dtype == DTYPE_BF16 ? f32_to_bf16(value)
        : dtype == DTYPE_F16            ? f32_to_f16(value)
                                        : 0;
    if (dtype == DTYPE_F32) ((float *)to)[i] = value;
    else ((uint16_t *)to)[i] = half;
}

/* Quantiles are rounded to multiples of 2^-16 first, so that the last bits of a mathematics library
 * do not show. */
static void fill_table(void *table, enum dtype dtype, double std)
{
    for (int i = 0; i < TABLE_SIZE / 2; i++) {
        double q = round(normal_quantile((i + 0.5) / TABLE_SIZE) * 65536) / 65536;
        store(table, (size_t)i, dtype, (float)(q * std));
        store(table, (size_t)(TABLE_SIZE - 1 - i), dtype, (float)(-q * std));
    }
}

static uint64_t stream_seed(uint64_t seed, const char *name, uint64_t chunk)
{
    struct hash h;
    hash_init(&h);
    hash_add_str(&h, name);
    hash_add_u64(&h, seed);
    hash_add_u64(&h, chunk);
    return h.h[0] ^ h.h[1];
}

static void fill_chunk(
    const struct synth *s, const struct plan_tensor *t, uint64_t chunk, size_t n, void *out)
{
    enum dtype dtype = s->options->dtype;
    if (t->ones) {
        for (size_t i = 0; i < n; i++) store(out, i, dtype, 1);
        return;
    }
    struct rng r;
    rng_init(&r, stream_seed(s->options->seed, t->name, chunk));
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = rng_u64(&r);
        size_t end = n - i < 4 ? n - i : 4;
        for (size_t j = 0; j < end; j++, bits >>= 16) {
            if (dtype == DTYPE_F32)
                ((float *)out)[i + j] = ((const float *)s->table)[bits & 0xffff];
            else ((uint16_t *)out)[i + j] = ((const uint16_t *)s->table)[bits & 0xffff];
        }
    }
}

static void plan_add(struct synth *s, const char *name, int m, int k, bool ones)
{
    struct plan_tensor *t = &s->tensors[s->n_tensors++];
    *t = (struct plan_tensor){
        .m = m, .k = k, .ones = ones, .elements = (uint64_t)m * (uint64_t)(k ? k : 1)};
    snprintf(t->name, sizeof t->name, "%s", name);
}

static void plan_linear(struct synth *s, int layer, const char *part, int m, int k, bool bias)
{
    char name[MAX_NAME];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, part);
    plan_add(s, name, m, k, false);
    if (!bias) return;
    snprintf(name, sizeof name, "model.layers.%d.%s.bias", layer, part);
    plan_add(s, name, m, 0, false);
}

static enum status plan_tensors(struct synth *s)
{
    const struct llama_config *c = s->config;
    int h = c->hidden_size, f = c->intermediate_size;
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    s->tensors = calloc((size_t)c->n_layers * 16 + 3, sizeof *s->tensors);
    if (!s->tensors) return fail(ERR_MEMORY, "no memory for a plan of %d layers", c->n_layers);
    plan_add(s, "model.embed_tokens.weight", c->vocab_size, h, false);
    for (int i = 0; i < c->n_layers; i++) {
        char name[MAX_NAME];
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", i);
        plan_add(s, name, h, 0, true);
        plan_linear(s, i, "self_attn.q_proj", q, h, c->qkv_bias);
        plan_linear(s, i, "self_attn.k_proj", kv, h, c->qkv_bias);
        plan_linear(s, i, "self_attn.v_proj", kv, h, c->qkv_bias);
        plan_linear(s, i, "self_attn.o_proj", h, q, c->o_bias);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", i);
        plan_add(s, name, h, 0, true);
        plan_linear(s, i, "mlp.gate_proj", f, h, c->mlp_bias);
        plan_linear(s, i, "mlp.up_proj", f, h, c->mlp_bias);
        plan_linear(s, i, "mlp.down_proj", h, f, c->mlp_bias);
    }
    plan_add(s, "model.norm.weight", h, 0, true);
    if (!c->tie_word_embeddings) plan_add(s, "lm_head.weight", c->vocab_size, h, false);
    return OK;
}

/* Fill shards in order; offsets are in the data part until the headers are known. */
static enum status plan_shards(struct synth *s)
{
    size_t width = dtype_size(s->options->dtype);
    s->shards = calloc((size_t)s->n_tensors, sizeof *s->shards);
    if (!s->shards) return fail(ERR_MEMORY, "no memory for a plan of %d tensors", s->n_tensors);
    s->n_shards = 1;
    for (int i = 0; i < s->n_tensors; i++) {
        struct plan_tensor *t = &s->tensors[i];
        uint64_t bytes = t->elements * width;
        struct shard *last = &s->shards[s->n_shards - 1];
        if (last->data_bytes > 0 && last->data_bytes + bytes > s->options->shard_bytes)
            last = &s->shards[s->n_shards++];
        t->shard = (int)(last - s->shards);
        t->offset = last->data_bytes;
        last->data_bytes += bytes;
        s->weight_bytes += bytes;
    }
    for (int i = 0; i < s->n_shards; i++) {
        s->shards[i].fd = -1;
        s->shards[i].name = s->n_shards == 1
            ? str_dup("model.safetensors")
            : str_format("model-%05d-of-%05d.safetensors", i + 1, s->n_shards);
    }
    return OK;
}

static void plan_header(struct synth *s, int index)
{
    static const char *const types[] = {"F32", "F16", "BF16"};
    struct shard *shard = &s->shards[index];
    size_t width = dtype_size(s->options->dtype);
    struct str json = {0};
    str_add(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < s->n_tensors; i++) {
        const struct plan_tensor *t = &s->tensors[i];
        if (t->shard != index) continue;
        str_addf(&json, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%d", t->name,
            types[s->options->dtype], t->m);
        if (t->k) str_addf(&json, ",%d", t->k);
        str_addf(&json, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->offset,
            (unsigned long long)(t->offset + t->elements * width));
    }
    str_add_char(&json, '}');
    /* with the length field: data on cache lines */
    while (json.len % 64 != 56) str_add_char(&json, ' ');
    struct str header = {0};
    for (int i = 0; i < 8; i++) str_add_char(&header, (char)(json.len >> (8 * i) & 0xff));
    str_add_bytes(&header, json.data, json.len);
    str_clear(&json);
    shard->header = header.data;
    shard->header_bytes = header.len;
    for (int i = 0; i < s->n_tensors; i++)
        if (s->tensors[i].shard == index) s->tensors[i].offset += shard->header_bytes;
}

static enum status fail_write(const struct synth *s, const char *name, int error)
{
    return fail(ERR_IO, "%s: cannot write %s: %s; the checkpoint needs %.2f GB in this place",
        s->tmp, name, strerror(error), (double)s->weight_bytes / 1e9);
}

static enum status check_space(const struct synth *s)
{
    struct statvfs v;
    if (statvfs(s->tmp, &v) != 0) return OK; /* writing will tell */
    double free_bytes = (double)v.f_bavail * (double)v.f_frsize;
    if (free_bytes >= (double)s->weight_bytes + (1 << 20)) return OK;
    return fail(ERR_IO,
        "%s: the checkpoint needs %.2f GB, found %.2f GB free; choose a directory on a larger disk",
        s->tmp, (double)s->weight_bytes / 1e9, free_bytes / 1e9);
}

static int write_at(int fd, const void *data, size_t size, uint64_t at)
{
    const char *p = data;
    while (size > 0) {
        ssize_t n = pwrite(fd, p, size, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? errno : EIO;
        p += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

static enum status open_shard(struct synth *s, int index)
{
    struct shard *shard = &s->shards[index];
    plan_header(s, index);
    char *path = path_join(s->tmp, shard->name);
    shard->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    free(path);
    if (shard->fd < 0) return fail_write(s, shard->name, errno);
    /* Claim the space at once, where the file system can: a full disk shows before the work is
     * done. */
    if (fallocate(shard->fd, 0, 0, (off_t)(shard->header_bytes + shard->data_bytes)) != 0 &&
        errno == ENOSPC)
        return fail_write(s, shard->name, errno);
    int error = write_at(shard->fd, shard->header, shard->header_bytes, 0);
    return error ? fail_write(s, shard->name, error) : OK;
}

static const struct plan_tensor *job_tensor(const struct synth *s, uint64_t job)
{
    int lo = 0, hi = s->n_tensors - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (s->first_job[mid] <= job) lo = mid;
        else hi = mid - 1;
    }
    return &s->tensors[lo];
}

static void run_job(void *ctx, int i, int worker)
{
    struct synth *s = ctx;
    if (atomic_load(&s->error)) return;
    uint64_t job = s->job0 + (uint64_t)i;
    const struct plan_tensor *t = job_tensor(s, job);
    uint64_t chunk = job - s->first_job[t - s->tensors], at = chunk * CHUNK;
    size_t n = (size_t)(t->elements - at < CHUNK ? t->elements - at : CHUNK);
    size_t width = dtype_size(s->options->dtype);
    uint8_t *buffer = s->buffers + (size_t)worker * CHUNK * width;
    fill_chunk(s, t, chunk, n, buffer);
    int error = write_at(s->shards[t->shard].fd, buffer, n * width, t->offset + at * width),
        none = 0;
    if (error) atomic_compare_exchange_strong(&s->error, &none, error);
}

static enum status write_tensors(struct synth *s)
{
    const struct synth_options *o = s->options;
    size_t width = dtype_size(o->dtype);
    int n_workers = par_threads(o->par);
    s->table = malloc(TABLE_SIZE * width);
    s->buffers = malloc((size_t)n_workers * CHUNK * width);
    s->first_job = calloc((size_t)s->n_tensors + 1, sizeof *s->first_job);
    if (!s->table || !s->buffers || !s->first_job)
        return fail(
            ERR_MEMORY, "no memory for %d buffers of %zu bytes", n_workers, (size_t)CHUNK * width);
    fill_table(s->table, o->dtype, o->std);
    for (int i = 0; i < s->n_tensors; i++)
        s->first_job[i + 1] = s->first_job[i] + (s->tensors[i].elements + CHUNK - 1) / CHUNK;

    uint64_t n_jobs = s->first_job[s->n_tensors], batch = 16 * (uint64_t)n_workers;
    for (s->job0 = 0; s->job0 < n_jobs; s->job0 += batch) {
        if (o->progress &&
            !o->progress(o->progress_ctx, s->weight_bytes / n_jobs * s->job0, s->weight_bytes))
            return fail(ERR_CANCELLED, "%s: cancelled, nothing was kept", s->tmp);
        uint64_t n = n_jobs - s->job0 < batch ? n_jobs - s->job0 : batch;
        par_for(o->par, (int)n, run_job, s);
        if (atomic_load(&s->error)) return fail_write(s, "the weights", atomic_load(&s->error));
    }
    if (o->progress) (void)o->progress(o->progress_ctx, s->weight_bytes, s->weight_bytes);
    for (int i = 0; i < s->n_shards; i++) {
        int fd = s->shards[i].fd;
        s->shards[i].fd = -1;
        if (close(fd) != 0) return fail_write(s, s->shards[i].name, errno);
    }
    return OK;
}

static enum status write_index(const struct synth *s)
{
    cJSON *root = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(root, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)s->weight_bytes);
    cJSON *map = cJSON_AddObjectToObject(root, "weight_map");
    for (int i = 0; i < s->n_tensors; i++)
        cJSON_AddStringToObject(map, s->tensors[i].name, s->shards[s->tensors[i].shard].name);
    char *path = path_join(s->tmp, "model.safetensors.index.json");
    enum status st = json_write_file(path, root);
    free(path);
    cJSON_Delete(root);
    return st;
}

static enum status write_settings(const struct synth *s)
{
    struct llama_config c = *s->config;
    c.bos_id = SYNTH_BOS;
    c.n_eos = 1;
    c.eos_ids[0] = SYNTH_EOS;
    c.has_dtype = true;
    c.dtype = s->options->dtype;
    char *path = path_join(s->tmp, "config.json");
    enum status st = llama_config_write(&c, path);
    free(path);
    TRY(st);
    char *text = str_format(
        "{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"do_sample\": false\n}\n",
        SYNTH_BOS, SYNTH_EOS);
    path = path_join(s->tmp, "generation_config.json");
    st = file_write_atomic(path, text, strlen(text));
    free(path);
    free(text);
    TRY(st);
    return synth_write_tokenizer(s->tmp);
}

static enum status write_all(struct synth *s)
{
    TRY(plan_tensors(s));
    TRY(plan_shards(s));
    TRY(check_space(s));
    for (int i = 0; i < s->n_shards; i++) TRY(open_shard(s, i));
    TRY(write_tensors(s));
    if (s->n_shards > 1) TRY(write_index(s));
    return write_settings(s);
}

/* The temporary directory holds only files that we wrote. */
static void remove_tmp(const char *tmp)
{
    DIR *d = opendir(tmp);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = path_join(tmp, e->d_name);
        unlink(path);
        free(path);
    }
    if (d) closedir(d);
    rmdir(tmp);
}

static bool is_empty_dir(const char *path)
{
    DIR *d = opendir(path);
    if (!d) return false;
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n <= 2; /* "." and ".." */
}

static enum status check_request(
    const char *dir, const struct llama_config *c, const struct synth_options *o)
{
    if (!(o->std > 0 && o->std <= 1))
        return fail(ERR_ARG, "standard deviation: found %g, expected 0 to 1", o->std);
    if (c->vocab_size <= SYNTH_EOS)
        return fail(ERR_ARG, "vocab_size: found %d, expected at least %d for the byte tokenizer",
            c->vocab_size, SYNTH_EOS + 1);
    if (file_exists(dir) && !is_empty_dir(dir))
        return fail(ERR_ARG, "%s: exists already; choose another directory or remove it", dir);
    return OK;
}

static char *without_last_slashes(const char *dir)
{
    char *copy = str_dup(dir);
    for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--) copy[n - 1] = 0;
    return copy;
}

enum status synth_write(
    const char *dir, const struct llama_config *c, const struct synth_options *o)
{
    TRY(check_request(dir, c, o));
    struct synth s = {.config = c, .options = o};
    char *final = without_last_slashes(dir);
    s.tmp = str_format("%s.tmp%ld", final, (long)getpid());
    enum status st = file_make_dirs(s.tmp);
    if (st == OK) {
        st = write_all(&s);
        for (int i = 0; i < s.n_shards; i++)
            if (s.shards[i].fd >= 0) close(s.shards[i].fd);
        if (st == OK && rename(s.tmp, final) != 0)
            st = fail(ERR_IO, "%s: cannot rename the finished checkpoint to it: %s", final,
                strerror(errno));
        if (st != OK) remove_tmp(s.tmp);
    }
    for (int i = 0; i < s.n_shards; i++) {
        free(s.shards[i].name);
        free(s.shards[i].header);
    }
    free(s.shards);
    free(s.tensors);
    free(s.first_job);
    free(s.buffers);
    free(s.table);
    free(s.tmp);
    free(final);
    return st;
}
