#include "engine/checkpoint/torch_file.h"
#include "engine/checkpoint/torch_pickle.h"

static const struct {
    const char *name, *storage;
    size_t size;
} types[TORCH_TYPES] = {
    [TORCH_BOOL] = {"bool", "BoolStorage", 1},
    [TORCH_UINT8] = {"uint8", "ByteStorage", 1},
    [TORCH_INT8] = {"int8", "CharStorage", 1},
    [TORCH_INT16] = {"int16", "ShortStorage", 2},
    [TORCH_INT32] = {"int32", "IntStorage", 4},
    [TORCH_INT64] = {"int64", "LongStorage", 8},
    [TORCH_FLOAT16] = {"float16", "HalfStorage", 2},
    [TORCH_BFLOAT16] = {"bfloat16", "BFloat16Storage", 2},
    [TORCH_FLOAT32] = {"float32", "FloatStorage", 4},
    [TORCH_FLOAT64] = {"float64", "DoubleStorage", 8},
};

size_t torch_type_size(enum torch_type t) { return types[t].size; }
const char *torch_type_name(enum torch_type t) { return types[t].name; }
const char *torch_type_storage(enum torch_type t) { return types[t].storage; }
