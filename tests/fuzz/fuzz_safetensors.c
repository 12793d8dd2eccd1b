/* Any bytes as a safetensors file: refused, or every tensor lies inside and can be found and read.
 */
#include "engine/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors s;
    enum status st = safetensors_parse(&s, "input", data, size);
    if (st != OK) {
        require(*status_message() != 0 && !s.files && !s.tensors);
        return 0;
    }
    size_t sum = 0;
    for (size_t i = 0; i < s.n_tensors; i++) {
        const struct tensor *t = &s.tensors[i];
        char shape[64];
        require(t->data >= data && t->bytes <= size && t->data + t->bytes <= data + size);
        require(tensor_elements(t) >= 0 && *tensor_shape_text(t, shape, sizeof shape) == '[');
        require(!t->is_float || (size_t)tensor_elements(t) * dtype_size(t->dtype) == t->bytes);
        require(safetensors_find(&s, t->name) == t);
        sum += t->bytes + (t->bytes ? t->data[t->bytes - 1] & 0u : 0u);
    }
    require(sum <= size);
    safetensors_close(&s);
    return 0;
}
