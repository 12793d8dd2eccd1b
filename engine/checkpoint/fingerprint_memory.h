/* Fingerprints that were computed before, so that hashing a checkpoint is paid once.
 *
 * A text file of at most FINGERPRINT_MEMORY lines, "KEY FINGERPRINT", the latest last. The key
 * stands for the identity of the files (device, inode, size, and the times of content and inode in
 * nanoseconds) and for everything else that the fingerprint follows from; a file that cannot be
 * read or written only costs the time.
 */
#ifndef SG_ENGINE_CHECKPOINT_FINGERPRINT_MEMORY_H
#define SG_ENGINE_CHECKPOINT_FINGERPRINT_MEMORY_H

#include "engine/checkpoint/weights.h"

enum { FINGERPRINT_MEMORY = 256 };

/* True when `out` was filled from the file. */
bool fingerprint_recall(
    const char *path, const char key[HASH_HEX_SIZE], char out[FINGERPRINT_SIZE]);
void fingerprint_remember(const char *path, const char key[HASH_HEX_SIZE], const char *fingerprint);

/* False where there are no files, and while one of them may still change within the clock's grain,
 * or is not what was mapped any more. */
bool fingerprint_files_at_rest(const struct safetensors *s);

#endif
