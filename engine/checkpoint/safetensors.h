/* Checkpoints in the safetensors format, one file or shards with an index, mapped and never copied.
 *
 * Format (huggingface/safetensors): u64 little-endian length N of the header; N bytes of JSON, an
 * object name -> {dtype, shape, data_offsets: [begin, end)} besides "__metadata__"; then the data,
 * row-major and little-endian. The tensors cover the data without gap or overlap.
 */
#ifndef SG_ENGINE_CHECKPOINT_SAFETENSORS_H
#define SG_ENGINE_CHECKPOINT_SAFETENSORS_H

#include "base/file.h"
#include "base/status.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TENSOR_MAX_DIMS 8

struct tensor {
    const char *name; /* borrowed from the checkpoint */
    const char *file; /* path, for messages; borrowed */
    char type[12];    /* as written: "F32", "BF16", "I64", … */
    bool is_float;    /* one of F32, F16, BF16, and `dtype` says which */
    enum dtype dtype;
    int n_dims; /* 0 for a scalar */
    int64_t shape[TENSOR_MAX_DIMS];
    const uint8_t *data; /* into the map; may be less aligned than its type, see tensor_aligned() */
    size_t bytes;
};

struct safetensors_file {
    char *path;
    struct file_map map;
};

struct safetensors {
    struct safetensors_file *files;
    int n_files;
    struct tensor *tensors; /* ascending by name (strcmp), names unique */
    size_t n_tensors;
    struct absent_tensor {
        char *name, *shard;
    } * absent; /* what the index lists and no shard has */
    size_t n_absent;
    size_t bytes; /* of all files */
    /* owned; data of tensors that a GGUF file holds in another form, else NULL */
    void *unpacked;
};

/* Who hears how far the reading of a large checkpoint is, from one thread: at what, and bytes. */
struct reading_watch {
    void (*tell)(void *ctx, const char *what, size_t done, size_t total); /* NULL: nobody */
    void *ctx;
};
static inline void reading_tell(
    const struct reading_watch *w, const char *what, size_t done, size_t total)
{
    if (w->tell) w->tell(w->ctx, what, done, total);
}

/* Open `dir`/model.safetensors, or every shard of `dir`/model.safetensors.index.json. Headers are
 * read and checked completely; tensor data are not touched. On failure nothing stays open.
 * ERR_FORMAT for a truncated or lying file, ERR_IO for a missing one, each with file, tensor,
 * found, expected and remedy. */
enum status safetensors_open(struct safetensors *s, const char *dir) MUST_USE;
/* One file by its path. */
enum status safetensors_open_file(struct safetensors *s, const char *path) MUST_USE;
/* One file in memory that outlives `s`; `path` is for messages. */
enum status safetensors_parse(
    struct safetensors *s, const char *path, const uint8_t *data, size_t size) MUST_USE;
void safetensors_close(struct safetensors *s);

/* After names were changed: in their order again. ERR_FORMAT for one that stands there twice. */
enum status safetensors_sort(struct safetensors *s) MUST_USE;

/* NULL when there is none of that name. */
const struct tensor *safetensors_find(const struct safetensors *s, const char *name);

/* The shard in which an index promised a tensor that no shard has; NULL when it promised none of
 * that name. */
const char *safetensors_absent(const struct safetensors *s, const char *name);

/* Elements; the product of the shape. */
int64_t tensor_elements(const struct tensor *t);
/* The data may be read through a pointer to its element type. Files whose header length is not a
 * multiple of 4 fail this; the reader of weights copies such tensors. */
bool tensor_aligned(const struct tensor *t);
/* "[4096, 128]" into out; returns out. */
char *tensor_shape_text(const struct tensor *t, char *out, size_t size);

#endif
