/* Models in GGUF, the container of llama.cpp: metadata, vocabulary and tensors in one file.
 *
 * Format (ggml's docs/gguf.md), versions 2 and 3, little-endian: magic "GGUF", u32 version, u64
 * tensor count, u64 metadata count; metadata as key (string), u32 type, value; for each tensor
 * name, u32 dimensions, u64 each (fastest first), u32 type, u64 offset into the data, which begin
 * at the next multiple of general.alignment (32).
 *
 * A model of this kind is opened as any other: its metadata are put into the words of a config.json
 * and a tokenizer.json, which the readers of those files then check, and its tensors get their
 * Hugging Face names. Quantised tensors are unpacked once, to the f32 values that their blocks
 * stand for.
 */
#ifndef SG_ENGINE_CHECKPOINT_GGUF_H
#define SG_ENGINE_CHECKPOINT_GGUF_H

#include "base/str.h"
#include "engine/checkpoint/safetensors.h"

enum gguf_type { /* of a value */
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    N_GGUF_TYPES
};

struct gguf_text { /* not terminated; in the map; below 2^31 bytes */
    const char *s;
    size_t n;
};

struct gguf_value {
    struct gguf_text key;
    enum gguf_type type; /* of the value, or of an array's elements */
    bool is_array;
    uint64_t n;          /* elements; 1 without an array */
    const uint8_t *data; /* where the first stands */
    size_t bytes;        /* up to the end of the last */
};

struct gguf_tensor {
    struct gguf_text name;
    uint32_t type; /* ggml's number */
    int n_dims;
    uint64_t dims[4]; /* fastest first */
    const uint8_t *data;
    size_t bytes;
};

struct gguf {
    char *path;
    struct file_map map;
    struct gguf_value *values;
    struct gguf_tensor *tensors;
    size_t n_values, n_tensors;
};

/* The path names a regular file that begins as a GGUF file does. */
bool gguf_is(const char *path);
/* Everything but the tensors' data is read and checked. ERR_FORMAT with what was found where;
 * ERR_UNSUPPORTED for another version. */
enum status gguf_open(struct gguf *g, const char *path) MUST_USE;
enum status gguf_parse(struct gguf *g, const char *path, const uint8_t *data, size_t size) MUST_USE;
void gguf_close(struct gguf *g);

bool gguf_text_is(struct gguf_text t, const char *s);
/* NULL when there is none of that name. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);
/* Element i of a number or of an array of numbers or bools. */
double gguf_number(const struct gguf_value *v, uint64_t i);
/* Steps through an array of strings; *at begins at v->data. */
struct gguf_text gguf_next_text(const uint8_t **at);

/* A type's name ("Q4_K"), the values of a block and its bytes; NULL for one that is not offered. */
const char *gguf_quant_name(uint32_t type, int *values, int *bytes);
/* n values, a multiple of the block, of any offered type. */
void gguf_dequantise(uint32_t type, const uint8_t *from, float *to, size_t n);

/* The text of a config.json with this model's sizes. ERR_UNSUPPORTED for an architecture but llama,
 * qwen2 and qwen3. */
enum status gguf_config(const struct gguf *g, struct str *json) MUST_USE;
/* Tensors under their Hugging Face names; what is packed or permuted in the file is a copy of its
 * own. Takes the map. */
enum status gguf_tensors(
    struct gguf *g, const struct reading_watch *watch, struct safetensors *out) MUST_USE;
/* The texts of a tokenizer.json and a tokenizer_config.json that mean the vocabulary in the file.
 */
enum status gguf_tokenizer(const struct gguf *g, struct str *json, struct str *config) MUST_USE;

#endif
