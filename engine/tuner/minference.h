/* MInference's pattern files, read as they are (microsoft/MInference, minference/configs): an array
 * with an object per layer, of which every head has a key with ["vertical_and_slash" | "stream_llm"
 * | "block_sparse", a size, a size, a score].
 *
 * The sizes are keys and distances under the first pattern, first and last tokens under the second;
 * under the third the public code looks at neither. The score is that of the search, looked at by
 * nobody.
 */
#ifndef SG_ENGINE_TUNER_MINFERENCE_H
#define SG_ENGINE_TUNER_MINFERENCE_H

#include "engine/tuner/tuned.h"

/* True when the file holds an array: a tuned file of ours holds an object. False when it cannot be
 * read. */
bool minference_is_pattern(const char *path);

/* The caller states the model, since the file carries none. On OK the caller clears `out`: method
 * "minference", block 128x64, all heads as found; without fingerprints, bounds, errors. ERR_FORMAT
 * names file, layer and head: another number of layers or heads, which makes it another model's, an
 * unknown pattern, a size that is no token count. */
enum status minference_read(
    struct tuned *out, const char *path, int n_layers, int n_heads) MUST_USE;

#endif
