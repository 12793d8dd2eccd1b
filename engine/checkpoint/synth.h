/* Random-weight checkpoints of real shapes, for speed work and tests without a download.
 *
 * A directory that transformers and this program load: config.json, generation_config.json,
 * model.safetensors (or shards with an index), tokenizer.json and tokenizer_config.json. The
 * tokenizer is a byte-level BPE without merges: 256 byte tokens, then beginning and end of text;
 * the rest of the vocabulary is padding.
 *
 * Matrices are normal with standard deviation `std`, norms are 1, biases normal too. Every value is
 * a pure function of the seed, the tensor's name and the position, from integer arithmetic on a
 * table of 65 536 normal quantiles, so files are equal on every machine and for every thread count.
 */
#ifndef SG_ENGINE_CHECKPOINT_SYNTH_H
#define SG_ENGINE_CHECKPOINT_SYNTH_H

#include "base/par.h"
#include "base/status.h"
#include "engine/checkpoint/config.h"

#include <stdbool.h>
#include <stdint.h>

struct synth_shape {
    const char *name; /* "llama-3.2-1b" */
    const char *like; /* the model on the Hugging Face hub whose shape it has; "" for our own */
    struct llama_config config;
};

/* Ids of beginning and end of text in the tokenizer; bytes are 0 … 255. */
#define SYNTH_BOS 256
#define SYNTH_EOS 257

/* All shapes, smallest first; *n receives their number. */
const struct synth_shape *synth_shapes(int *n);
/* ERR_ARG with the list of names when there is no such shape. */
enum status synth_find(const char *name, const struct synth_shape **shape) MUST_USE;

struct synth_options {
    uint64_t seed;
    double std;       /* > 0, at most 1 */
    enum dtype dtype; /* of every tensor */
    /* start a new file before one grows beyond this; a tensor is never split */
    uint64_t shard_bytes;
    struct par *par; /* NULL: one thread */
    /* NULL, or called now and then from the calling thread; false cancels. */
    bool (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
};

/* seed 1, std 0.02, bf16, 5 GB shards, one thread */
struct synth_options synth_defaults(void);

/* Bytes of weights that synth_write() will write. */
uint64_t synth_bytes(const struct llama_config *c, enum dtype dtype);

/* Write the checkpoint to `dir`, which must not exist yet or be an empty directory. Everything is
 * written to `dir`.tmpPID beside it and renamed at the end: on failure (ERR_IO with the cause and
 * what space is needed, ERR_CANCELLED) nothing is left. Needs a vocabulary of at least 258. Memory:
 * 4 MB a thread. */
enum status synth_write(
    const char *dir, const struct llama_config *c, const struct synth_options *o) MUST_USE;

/* Only tokenizer.json and tokenizer_config.json, into an existing directory. */
enum status synth_write_tokenizer(const char *dir) MUST_USE;

#endif
