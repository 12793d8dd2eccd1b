#include "kernels/registry.h"

#include "base/str.h"
#ifdef SG_HAVE_CUDA
#include "kernels/cuda/device_cuda.h"
#endif

#include <string.h>

const struct attn_impl *const attn_impls[] = {
#ifdef SG_HAVE_CUDA
    &attn_decode_cuda_bf16,
    &attn_dense_sm90_bf16,
    &attn_sparse_sm90_bf16,
    &attn_sparse_teams_sm90_bf16,
    &attn_cuda_bf16,
    &attn_dense_eight_sm90,
    &attn_sparse_eight_sm90,
    &attn_eight_cuda,
    &attn_eight_cuda_f16,
#endif
    &attn_cpu_avx512,
    &attn_cpu_avx2,
    &attn_cpu_base,
    &attn_ref,
    NULL,
};

enum status attn_choose(const struct attn_args *a, const char *name, const struct attn_impl **out)
{
    bool any = !name || strcmp(name, "auto") == 0;
    struct str why = {0};
    for (int i = 0; attn_impls[i]; i++) {
        const struct attn_impl *impl = attn_impls[i];
        if (any ? impl == &attn_ref : strcmp(impl->name, name) != 0) continue;
        const char *reason = impl->refuses(a);
        if (!reason) {
            str_clear(&why);
            *out = impl;
            return OK;
        }
        str_addf(&why, " %s: %s;", impl->name, reason);
    }
    if (!why.len)
        str_addf(&why, " no implementation is called \"%s\"; `list kernels` names them",
            any ? "auto" : name);
    enum status st =
        fail(ERR_UNSUPPORTED, "attention with head_dim %d:%s", a->head_dim, str_get(&why));
    str_clear(&why);
    return st;
}
