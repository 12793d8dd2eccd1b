/* Which kernel runs an attention call, and where its scratch is. */
#include "engine/cuda/session_cuda_parts.h"

#include "kernels/registry.h"

/* Eight bits have no kernel for every shape: what is missing is said, as the widest of them says
 * it, and nothing else runs instead. */
static enum status choose_kernel(
    const struct session_cuda *s, const struct attn_args *a, const struct attn_impl **impl)
{
    const char *why = attn_is_full(a) || s->impl ? NULL : attn_eight_cuda_f16.refuses(a);
    if (!why) return attn_choose(a, s->impl, impl);
    return fail(ERR_UNSUPPORTED,
        "--qk %s --pv %s on %s (compute capability %d.%d): the kernels of eight bits refuse it: "
        "%s; "
        "--device cpu computes it",
        precision_name(a->qk), precision_name(a->pv), s->on->info.name, s->on->info.sm / 10,
        s->on->info.sm % 10, why);
}

/* What the attention implementations ask for: counters, and what a decode step merges. */
size_t session_cuda_attention_scratch(const struct llama_config *c)
{
    static const struct attn_impl *const all[] = {
        &attn_decode_cuda_bf16, &attn_dense_sm90_bf16, &attn_sparse_sm90_bf16, &attn_cuda_bf16};
    struct attn_args a = {.dtype = DTYPE_BF16,
        .n_q = 1,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim};
    size_t most = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        most = max_size(most, all[i]->workspace(&a));
    return most;
}

/* The kernel of a call and its scratch. That of eight bits is no part of the session's plan: it is
 * taken when it is first wanted, for the longest call there can be, so that what a graph has
 * recorded stays where it is. */
enum status session_cuda_kernel(
    struct session_cuda *s, const struct attn_args *a, const struct attn_impl **impl, void **ws)
{
    const struct llama_config *c = &s->w->config;
    TRY(choose_kernel(s, a, impl));
    *ws = s->attn_ws;
    if ((*impl)->workspace(a) <= session_cuda_attention_scratch(c)) return OK;
    struct attn_args most = *a;
    most.n_q = s->plan.chunk < s->plan.capacity ? s->plan.chunk : s->plan.capacity;
    most.q_start = s->plan.capacity - most.n_q;
    size_t bytes = attn_is_full(a) ? 0 : (*impl)->workspace(&most);
    if ((*impl)->workspace(a) > bytes)
        return fail(
            ERR_UNSUPPORTED, "%s asks for more scratch than a CUDA session plans", (*impl)->name);
    if (!s->eight) {
        TRY(weights_cuda_alloc(s->on, &s->eight, bytes, "attention with products of eight bits"));
        s->eight_bytes = bytes;
    }
    *ws = s->eight;
    return OK;
}
