/* SpargeAttn's own file of tuned thresholds, a `.pt` of torch.save, read and written without
 * Python.
 *
 * Layout, from thu-ml/SpargeAttn (spas_sage_attn/autotune.py, extract_sparse_attention_state_dict):
 * a dictionary with five tensors of shape [n_heads] per attention module, "<path of the
 * module>.<field>":
 *
 *   is_sparse    bool     false: the tuner found under 10 % sparsity
 *   cdfthreshd   float32  our τ, 0 … 1
 *   simthreshd1  float32  our θ, −1 … 1
 *   simthreshd2  float32  always 0: declared and saved there, used by nothing, ignored here
 *   pvthreshd    float32  our λ, 0 … 50, in log2 units as ours
 *
 * Only modules that were tuned stand in the file, so layers outside the range are missing. Reading
 * takes every path that holds one layer number, with any prefix, and every element type: a file
 * saved again after loading has the type of the model, is_sparse too.
 *
 * What the thresholds mean there and not here:
 * - Heads with is_sparse false run through the sparse kernel all the same, with θ = τ = 1, which
 * keeps every tile, and with their λ, which may still skip P·V. Ours run dense. We write λ = 50 for
 * them: never skip.
 * - The similarity is that of keys centred by the mean of the whole sequence (our smooth_k global).
 * - Blocks are 128x64, but 64x128 in the sage2 kernels on compute capability 9.0. The file tells
 * neither.
 * - The public loader casts to the type of the model: bfloat16 rounds a τ above .5 to a multiple of
 * 1/256.
 * - The public kernels are not causal inside diagonal tiles (METHOD 3), so thresholds tuned there
 * were judged on other outputs.
 */
#ifndef SG_ENGINE_TUNER_SPARGE_PT_H
#define SG_ENGINE_TUNER_SPARGE_PT_H

#include "engine/checkpoint/torch_file.h"
#include "engine/tuner/tuned.h"

/* Where a LLaMA has the module under the tuning guide's integration; "%d" stands for the layer.
 * Official integrations of other models call it inner_attention. The public loader goes through the
 * modules of the model and loads those whose names the file has: where they differ it loads nothing
 * and says nothing. */
#define SPARGE_PT_MODULE "model.layers.%d.self_attn.sparse_attn"

/* The caller states the model, since the file carries none: n_layers, n_heads >= 1. module: which
 * of the file's modules are meant, by the last part of their path ("inner_attention") or by the
 * whole of it with one "%d"; NULL: whatever it has, one for a layer. On OK the caller clears `out`:
 * method "sparge", block 128x64, smooth_k global, layers as found; heads that the file has:
 * in_range, the thresholds, errors and sparsities NAN; the others: in_range false. Unknown and so
 * empty or 0: model and data fingerprints and names, bounds, max_length, num_samples. Errors name
 * file, key, found and expected: another number of heads, a layer the model lacks, a missing field,
 * two modules for one layer, NaN (ERR_NUMERIC), values outside the ranges above, no module of that
 * name; and those of torch_file_open(). */
enum status sparge_pt_read(
    struct tuned *out, const char *path, int n_layers, int n_heads, const char *module) MUST_USE;
/* The same from an open file; `path` is for messages. */
enum status sparge_pt_from(struct tuned *out, const struct torch_file *f, const char *path,
    int n_layers, int n_heads, const char *module) MUST_USE;

/* Write the layers that have a head in range, under `module`: a name, which takes the place of
 * "sparse_attn" in SPARGE_PT_MODULE, or a path with one "%d" for the layer and no other '%'; NULL:
 * SPARGE_PT_MODULE. ERR_ARG for another method than "sparge", for thresholds outside their ranges
 * and when no head is in range. */
enum status sparge_pt_write(const struct tuned *t, const char *path, const char *module) MUST_USE;

/* Why the public library will choose other tiles with these thresholds than we do, one line each
 * (block shape, smooth_k), appended; nothing when it will not. */
void sparge_pt_caveats(const struct tuned *t, struct str *out);

/* The options of ours under which reading the file gives these thresholds their meaning back, since
 * it says neither block nor smooth_k: " --smooth-k running", appended; nothing where our
 * assumptions hold. */
void sparge_pt_options(const struct tuned *t, struct str *out);

#endif
