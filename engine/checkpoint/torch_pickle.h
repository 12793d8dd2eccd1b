/* The pickle inside a file of torch.save, read by a machine that can build data and nothing else.
 *
 * Allowed: None, booleans, integers of 64 bits, floats, strings, tuples, lists, dictionaries;
 * collections.OrderedDict() with attributes (which are dropped); storages torch.<Type>Storage by
 * persistent id; torch._utils._rebuild_tensor_v2 and _rebuild_parameter. Nothing is imported or
 * called: these names are compared with a list. Opcodes of protocol 2, which torch.save writes, and
 * those of protocol 4 that the same objects need. Opcodes: CPython's pickletools.
 */
#ifndef SG_ENGINE_CHECKPOINT_TORCH_PICKLE_H
#define SG_ENGINE_CHECKPOINT_TORCH_PICKLE_H

#include "engine/checkpoint/torch_file.h"

struct torch_pickle {
    struct torch_tensor *tensors; /* owned, keys too; in the dictionary's order; storage NULL */
    size_t n_tensors, n_other;
};

/* The whole pickle must be one dictionary. `file` is for messages. Shapes, strides and offsets are
 * checked against the storage_count that the pickle states. On failure nothing is left. ERR_FORMAT,
 * ERR_UNSUPPORTED, ERR_MEMORY. */
enum status torch_pickle_read(
    struct torch_pickle *p, const char *file, const uint8_t *data, size_t size) MUST_USE;
void torch_pickle_clear(struct torch_pickle *p);

#endif
