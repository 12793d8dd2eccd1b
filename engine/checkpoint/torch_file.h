/* Files of torch.save: a dictionary of tensors, read and written without Python.
 *
 * A file is a zip archive (engine/checkpoint/torch_zip.h) with a pickle, ROOT/data.pkl, that
 * describes the tensors, and one entry of raw little-endian elements per storage, ROOT/data/N.
 * Pickles are programs; only the few operations that build numbers, strings, tuples, lists,
 * dictionaries, OrderedDict and tensors are carried out (engine/checkpoint/torch_pickle.h).
 * Whatever else a pickle names is refused before anything comes of it.
 *
 * Layout as of torch.save in torch 1.6 to 2.x; what torch_file_write() makes loads with
 * torch.load(path, weights_only=True).
 */
#ifndef SG_ENGINE_CHECKPOINT_TORCH_FILE_H
#define SG_ENGINE_CHECKPOINT_TORCH_FILE_H

#include "base/file.h"

#include <stdbool.h>
#include <stdint.h>

enum torch_type {
    TORCH_BOOL,
    TORCH_UINT8,
    TORCH_INT8,
    TORCH_INT16,
    TORCH_INT32,
    TORCH_INT64,
    TORCH_FLOAT16,
    TORCH_BFLOAT16,
    TORCH_FLOAT32,
    TORCH_FLOAT64,
    TORCH_TYPES
};
size_t torch_type_size(enum torch_type t);         /* bytes of an element */
const char *torch_type_name(enum torch_type t);    /* "float32", as in torch.float32 */
const char *torch_type_storage(enum torch_type t); /* "FloatStorage", as a pickle names it */

enum { TORCH_MAX_DIMS = 8 };

/* A view of a storage; several tensors may share one. */
struct torch_tensor {
    char *key; /* in the dictionary; owned by the torch_file */
    enum torch_type type;
    int n_dims; /* 0: a single number */
    int64_t shape[TORCH_MAX_DIMS];
    int64_t stride[TORCH_MAX_DIMS]; /* elements; 0 for a dimension that was expanded */
    int64_t offset;                 /* elements from the storage's begin */
    /* elements in the storage; every element of the view lies inside */
    int64_t storage_count;
    char storage_name[24];  /* the entry data/<name> */
    const uint8_t *storage; /* in the file, at any address; borrowed */
};

int64_t torch_tensor_elements(const struct torch_tensor *t);
/* Element i, 0 <= i < elements, in row-major order of the shape whatever the strides. bool gives 0
 * or 1; int64 beyond 2^53 is rounded. */
double torch_tensor_at(const struct torch_tensor *t, int64_t i);
/* "[2, 3]" for messages; cut to `size`. Returns out. */
char *torch_tensor_shape_text(const struct torch_tensor *t, char *out, size_t size);

struct torch_file {
    struct file_map map;          /* empty when parsed from memory */
    struct torch_tensor *tensors; /* owned; sorted by key, no key twice */
    size_t n_tensors;
    size_t n_other; /* entries of the dictionary that are no tensor or have no string as key */
};

/* ERR_FORMAT for damage, ERR_UNSUPPORTED for what torch.save can write and is not taken:
 * compressed, big-endian or older archives, and every pickled object beyond those above, by name.
 * Nothing is left open then. */
enum status torch_file_open(struct torch_file *f, const char *path) MUST_USE;
/* The same from memory that outlives f; `name` is for messages. */
enum status torch_file_parse(
    struct torch_file *f, const char *name, const void *data, size_t size) MUST_USE;
void torch_file_close(struct torch_file *f);

/* NULL when there is none. */
const struct torch_tensor *torch_file_find(const struct torch_file *f, const char *key);

/* Write a dictionary in the order given, atomically. Each tensor gets a contiguous storage of its
 * own, on the CPU; its key, type, shape, stride, offset and storage are read. Equal tensors give
 * equal bytes. */
enum status torch_file_write(
    const char *path, const struct torch_tensor *tensors, size_t n_tensors) MUST_USE;

#endif
