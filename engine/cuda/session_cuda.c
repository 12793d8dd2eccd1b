#include "engine/cuda/session_cuda_parts.h"

#include "engine/rope.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The sizes of a plan for the layers that are here. */
static struct session_plan sized(const struct weights *w, struct session_plan p)
{
    const struct weights_cuda *on = (const struct weights_cuda *)w->on_device;
    p.layers = on->end - on->first;
    session_cuda_lay_out(&w->config, w->device_options.residual, &p, NULL);
    return p;
}

static struct session_plan plan(
    const struct weights *w, int capacity, int chunk, bool once, int n_threads)
{
    (void)n_threads;
    return sized(w,
        session_plan_cuda(&w->config, w->device_options.residual, capacity, chunk, once,
            w->device_options.offload));
}

static struct session_scratch cuda_scratch(const struct weights *w, const struct session_plan *plan,
    const struct sparse_policy *p, int n_threads)
{
    struct weights_cuda *on = (struct weights_cuda *)w->on_device;
    struct session_scratch all = {0};
    enum status st = weights_cuda_lock(on);
    if (st == OK) all = session_cuda_scratch(w, plan, p, n_threads);
    st = weights_cuda_unlock(on, st);
    (void)st; /* a device that does not answer says so when it is used */
    return all;
}

static void cuda_close(void **state)
{
    struct session_cuda *s = *state;
    if (!s) return;
    pthread_mutex_lock(&s->on->lock);
    weights_cuda_free(s->on, s->slab, s->plan.total_bytes);
    session_cuda_close_view(s);
    session_cuda_close_slots(s);
    weights_cuda_free(s->on, s->mass, s->mass_bytes);
    weights_cuda_free(s->on, s->eight, s->eight_bytes);
    session_cuda_close_graphs(s);
    session_cuda_close_times(s);
    pthread_mutex_unlock(&s->on->lock);
    free(s->host_ledger);
    free(s->host_sparse);
    free(s->host_lambda);
    free(s->host_rows);
    free(s->layers);
    free(s->kept_maps);
    free(s->host_map);
    free(s);
    *state = NULL;
}

static enum status cuda_open(void **state, const struct weights *w, struct par *par,
    const struct session_plan *p, const char *impl)
{
    const struct llama_config *c = &w->config;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads;
    struct session_cuda *s = calloc(1, sizeof *s);
    *state = s;
    if (!s) return fail(ERR_MEMORY, "no memory for a session");
    *s = (struct session_cuda){.w = w,
        .on = (struct weights_cuda *)w->on_device,
        .par = par,
        .impl = impl,
        .plan = sized(w, *p),
        .residual = w->device_options.residual};
    char what[128];
    snprintf(what, sizeof what, "a session of %d tokens (KV cache %.2f GiB)", p->capacity,
        (double)s->plan.kv_bytes / 0x1p30);
    enum status st = weights_cuda_lock(s->on);
    if (st == OK)
        st = weights_cuda_remedy(
            weights_cuda_alloc(s->on, &s->slab, s->plan.total_bytes, what), "lower --max-length");
    st = weights_cuda_unlock(s->on, st);
    if (st == OK) {
        session_cuda_lay_out(c, s->residual, &s->plan, s);
        s->host_ledger = malloc(cells * sizeof *s->host_ledger);
        s->host_sparse = malloc(cells);
        s->host_lambda = malloc(cells * sizeof *s->host_lambda);
        s->host_rows = malloc(COMPARE_CUDA_ROWS * sizeof *s->host_rows);
        s->layers = malloc((size_t)c->n_layers);
        s->kept_maps = malloc((size_t)c->n_layers * sizeof *s->kept_maps);
        s->host_map = malloc(s->map_bytes);
        if (!s->host_ledger || !s->host_sparse || !s->host_lambda || !s->host_rows || !s->layers ||
            !s->kept_maps || !s->host_map)
            st = fail(ERR_MEMORY, "no memory for a session");
    }
    if (st != OK) cuda_close(state);
    return st;
}

/* −log p of the true next tokens from the head input in `norm`. */
static enum status score(struct session_cuda *s, const int32_t *next, int n, float *nll)
{
    const struct llama_config *c = &s->w->config;
    TRY(send(s, s->tokens, next, sizeof *next * (size_t)n));
    for (int r = 0; r < n; r += COMPARE_CUDA_ROWS) {
        int rows = n - r < COMPARE_CUDA_ROWS ? n - r : COMPARE_CUDA_ROWS;
        TRY(compare_cuda_run(&(struct compare_cuda_args){.head = s->on->head,
                                 .vocab = c->vocab_size,
                                 .k = c->hidden_size,
                                 .n_rows = rows,
                                 .loss_only = true,
                                 .x = s->norm + (size_t)r * (size_t)c->hidden_size,
                                 .next = s->tokens + r,
                                 .chunk = s->head_ids,
                                 .logits = s->logits,
                                 .rows = s->rows},
            s->on->gemm, s->on->stream));
        TRY(compare_cuda_nll(s->rows, s->tokens + r, rows, s->nll + r, s->on->stream));
    }
    TRY(fetch(s, nll, s->nll, sizeof *nll * (size_t)n));
    for (int r = 0; r < n; r++)
        if (isnan(nll[r]))
            return fail(ERR_NUMERIC,
                "logits of position %d hold NaN or infinity; check the weights with `info --check`",
                r);
    return OK;
}

/* What each layer will do, counted into the caller's ledger as it is on the CPU. */
static enum status plan_layers(struct session_cuda *s, const struct chunk *x, int total_len)
{
    const struct llama_config *c = &s->w->config;
    const struct sparse_policy *p = x->f->policy;
    memset(s->layers, 0, (size_t)c->n_layers);
    for (int l = x->first; l < x->end; l++) {
        s->kept_maps[l] = (struct tile_map){0};
        struct layer_way way = session_layer_way(x->f, l, total_len, x->position,
            (struct call_place){c->head_dim, c->n_heads, s->on->info.sm == 90});
        if (layer_way_is_plain(way)) continue;
        if (session_window(c, l, total_len)) return session_fail_windowed(c, l, p);
        if (way.qk || way.pv) s->layers[l] |= LAYER_EIGHT;
        if (!way.sparse) continue;
        s->layers[l] |= LAYER_SPARSE;
        s->kept_maps[l] = tile_map_shape(p->block, c->n_heads, x->position, x->n);
        s->kept_maps[l].bits = (uint64_t *)(s->maps + s->map_bytes * (size_t)(l - s->on->first));
        /* a kernel that need not ask is a fifth faster */
        for (int h = l * c->n_heads; h < (l + 1) * c->n_heads; h++)
            if (s->host_sparse[h] && s->host_lambda[h] < NEVER_SKIP) s->layers[l] |= LAYER_SKIPS;
    }
    return OK;
}

/* NULL, or why the tiles of a layer are not chosen on the device. */
static const char *on_host(const struct session_cuda *s, const struct chunk *x, int layer)
{
    const struct sparse_policy *p = x->f->policy;
    struct attn_args a = session_cuda_call(s, x, layer);
    return mask_cuda_refuses(&(struct mask_cuda_args){.attn = &a,
        .heads = s->heads,
        .smooth_k = p->smooth_k,
        .topk = p->topk,
        .method = p->method});
}

/* A graph of this chunk can be repeated: nothing of it crosses to the host and nobody looks into
 * it. */
static enum status can_record(const struct session_cuda *s, const struct chunk *x, bool *can)
{
    const struct forward_args *f = x->f;
    *can = false;
    if (!s->w->device_options.graph || f->times || f->residual_in || f->residual_out ||
        f->carry_in || f->carry_out || f->end_layer > 0 || (f->hook && !f->hook_tiles_only))
        return OK;
    for (int l = 0; l < s->w->config.n_layers; l++) {
        const char *why = s->layers[l] & LAYER_SPARSE ? on_host(s, x, l) : NULL;
        if (why)
            return fail(ERR_UNSUPPORTED,
                "method %s chooses tiles on the host (%s), which no graph repeats; leave out "
                "--graph",
                f->policy->method->name, why);
    }
    if (f->stop && f->stop(f->stop_ctx)) return fail(ERR_CANCELLED, "stopped on request");
    *can = true;
    return OK;
}

/* One graph serves all steps when the only position-dependent kernels read it on the device. The
 * last row of a prompt cut in chunks can be a chunk of its own, and sparse or of eight bits. */
static enum status decodes(const struct session_cuda *s, const struct chunk *x, bool *yes)
{
    *yes = false;
    for (int l = 0; l < s->w->config.n_layers; l++)
        if (s->layers[l] & (LAYER_SPARSE | LAYER_EIGHT) ||
            session_window(&s->w->config, l, s->plan.capacity))
            return OK;
    struct attn_args a = session_cuda_call(s, x, 0);
    const struct attn_impl *impl;
    TRY(attn_choose(&a, s->impl, &impl));
    *yes = impl == &attn_decode_cuda_bf16;
    return OK;
}

static enum status run_chunk(struct session_cuda *s, struct chunk *x)
{
    bool record;
    TRY(can_record(s, x, &record));
    if (!x->f->residual_in && x->first == 0)
        TRY(send(s, s->tokens, x->f->tokens + x->begin, sizeof *x->f->tokens * (size_t)x->n));
    if (!record) return session_cuda_run_layers(s, x);
    if (x->n == 1) TRY(decodes(s, x, &x->at_device));
    if (x->at_device) TRY(send(s, s->position, &x->position, sizeof x->position));
    return session_cuda_run_graph(s, x);
}

/* The rows of `wide`. Those that stay are looked at here: whoever fetches looks himself. */
static enum status give_hidden(
    struct session_cuda *s, const struct forward_args *f, float *to, size_t values)
{
    if (!f->hidden_on_device) return fetch(s, to, s->wide, values * sizeof *to);
    int32_t bad = 0;
    TRY(s->on->impl->copy(s->on->d, to, s->wide, values * sizeof *to, COPY_ON_DEVICE));
    if (f->unchecked) return OK;
    TRY(s->on->impl->fill(s->on->d, s->bad, 0, sizeof *s->bad));
    TRY(ops_cuda_find_bad(s->wide, values, s->bad, s->on->stream));
    TRY(fetch(s, &bad, s->bad, sizeof bad));
    return bad ? session_fail_numeric() : OK;
}

static enum status chunk_forward(struct session_cuda *s, struct chunk *x, int total_len)
{
    const struct llama_config *c = &s->w->config;
    const struct forward_args *f = x->f;
    struct stream *stream = s->on->stream;
    int n = x->n, h = c->hidden_size;
    float eps = (float)c->rms_norm_eps;
    session_cuda_begin_times(s);
    TRY(plan_layers(s, x, total_len));
    TRY(run_chunk(s, x));
    if (x->logits) TRY(fetch(s, f->last_logits, s->logits, sizeof(float) * (size_t)c->vocab_size));
    if (f->hidden) {
        TRY(ops_cuda_rmsnorm(
            s->x, s->residual, s->on->final_norm, eps, n, h, NULL, s->wide, stream));
        TRY(give_hidden(s, f, f->hidden + (size_t)x->begin * (size_t)h, (size_t)n * (size_t)h));
    }
    if (f->last_hidden && x->begin + n == f->n) {
        TRY(ops_cuda_rmsnorm(session_cuda_stream_row(s, n - 1), s->residual, s->on->final_norm, eps,
            1, h, NULL, s->wide, stream));
        TRY(fetch(s, f->last_hidden, s->wide, sizeof(float) * (size_t)h));
    }
    if (f->nll) {
        TRY(ops_cuda_rmsnorm(
            s->x, s->residual, s->on->final_norm, eps, n, h, s->norm, NULL, stream));
        TRY(PART(s, x, linear_s));
        TRY(score(s, f->next + x->begin, n, f->nll + x->begin));
    }
    TRY(session_cuda_read_times(s, x));
    if (f->hook && f->hook_tiles_only) TRY(session_cuda_show_maps(s, x));
    /* work that failed is told here, and no longer than here are host buffers read */
    return s->on->impl->sync(s->on->d);
}

/* What of the policy the kernels read. */
static enum status send_policy(
    struct session_cuda *s, const struct sparse_policy *p, int first, int end)
{
    const struct llama_config *c = &s->w->config;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads, line = align256((size_t)c->n_heads);
    if (!p || !p->method) return OK;
    for (size_t i = 0; i < cells; i++) {
        s->host_sparse[i] = p->heads[i].is_sparse;
        s->host_lambda[i] = p->heads[i].lambda;
    }
    for (int l = first; l < end; l++)
        TRY(send(s, s->head_sparse + line * (size_t)l, s->host_sparse + l * c->n_heads,
            (size_t)c->n_heads));
    TRY(send(s, s->heads, p->heads, cells * sizeof *p->heads));
    return send(s, s->lambda, s->host_lambda, cells * sizeof *s->lambda);
}

/* A prediction that runs on the device and would not for the last rows of so long a sequence is
 * refused before the first: on the host it would take longer than what it saves. */
static enum status check_length(const struct session_cuda *s, int end, const struct forward_args *f)
{
    const struct sparse_policy *p = f->policy;
    if (!p || !p->method || f->n == 1) return OK;
    struct chunk x = {.f = f, .n = p->block.q};
    struct attn_args a = session_cuda_call(s, &x, 0);
    struct mask_cuda_args m = {
        .attn = &a, .smooth_k = p->smooth_k, .topk = p->topk, .method = p->method};
    if (mask_cuda_refuses(&m)) return OK; /* of any length it runs on the host */
    a.q_start = (end - 1) / p->block.q * p->block.q;
    a.n_q = end - a.q_start;
    const char *why = mask_cuda_refuses(&m);
    if (!why) return OK;
    return fail(ERR_UNSUPPORTED,
        "%d tokens: the prediction of %s on a GPU refuses them: %s; lower --max-length, or take "
        "--block 128x128",
        end, p->method->name, why);
}

static enum status forward_on(struct session_cuda *s, int position, int total_len,
    const struct forward_args *f, struct str *impls)
{
    const struct llama_config *c = &s->w->config;
    TRY(check_length(s, position + f->n, f));
    float inv_freq[2 * 128] = {0};
    size_t inv_freq_bytes = sizeof *inv_freq * (size_t)(rope_count(c) * c->head_dim / 2);
    for (int i = 0; i < rope_count(c); i++)
        rope_frequencies(c, i, total_len, inv_freq + i * c->head_dim / 2);
    if (!s->has_inv_freq || memcmp(s->host_inv_freq, inv_freq, inv_freq_bytes) != 0) {
        s->has_inv_freq = false;
        TRY(send(s, s->inv_freq, inv_freq, inv_freq_bytes));
        memcpy(s->host_inv_freq, inv_freq, inv_freq_bytes);
        s->has_inv_freq = true;
    }
    int first = f->residual_in || f->carry_in ? f->first_layer : 0,
        end = f->end_layer > 0 ? f->end_layer : c->n_layers;
    TRY(send_policy(s, f->policy, first, end));
    if (f->ledger)
        TRY(s->on->impl->fill(
            s->on->d, s->ledger, 0, sizeof *s->ledger * (size_t)c->n_layers * (size_t)c->n_heads));
    for (int begin = 0; begin < f->n; begin += s->plan.chunk) {
        int n = f->n - begin < s->plan.chunk ? f->n - begin : s->plan.chunk;
        struct chunk x = {.f = f,
            .begin = begin,
            .n = n,
            .position = position + begin,
            .impls = impls,
            .first = first,
            .end = end,
            .logits = f->last_logits && begin + n == f->n};
        TRY(chunk_forward(s, &x, total_len));
    }
    return session_cuda_collect(s, f);
}

static enum status cuda_forward(
    void *state, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    struct session_cuda *s = state;
    enum status st = weights_cuda_lock(s->on);
    if (st == OK) st = forward_on(s, position, total_len, f, impls);
    return weights_cuda_unlock(s->on, st);
}

static enum status cuda_heads(void *state, const struct heads_args *a)
{
    (void)state, (void)a;
    return fail(ERR_UNSUPPORTED, "single heads are offered on the CPU only");
}

/* As many rows at once as a product takes that gives each what it gives alone. */
static enum status logits_on(struct session_cuda *s, int n, const float *hidden, float *logits)
{
    const struct llama_config *c = &s->w->config;
    size_t h = (size_t)c->hidden_size, vocab = (size_t)c->vocab_size,
           room = (size_t)COMPARE_CUDA_ROWS * (size_t)s->head_ids / vocab;
    int at_once = room < 1 || h % 8 ? 1 : room < GEMM_CUDA_ROWS ? (int)room : GEMM_CUDA_ROWS;
    for (int r = 0; r < n; r += at_once) {
        int rows = n - r < at_once ? n - r : at_once;
        size_t values = (size_t)rows * h;
        TRY(send(s, s->wide, hidden + (size_t)r * h, sizeof *hidden * values));
        TRY(ops_cuda_to_bf16(s->wide, DTYPE_F32, values, s->norm, s->on->stream));
        TRY(session_cuda_head_rows(s, rows));
        TRY(fetch(s, logits + (size_t)r * vocab, s->logits, sizeof *logits * (size_t)rows * vocab));
    }
    return OK;
}

static enum status cuda_logits(void *state, int n, const float *hidden, float *logits)
{
    struct session_cuda *s = state;
    enum status st = weights_cuda_lock(s->on);
    if (st == OK) st = logits_on(s, n, hidden, logits);
    return weights_cuda_unlock(s->on, st);
}

static enum status take_rows(
    struct session_cuda *s, struct rows_at from, size_t first, float *to, size_t values)
{
    return s->on->impl->copy(s->on->d, to, from.at + first, values * sizeof *to,
        from.on_device ? COPY_ON_DEVICE : COPY_TO_DEVICE);
}

static enum status compare_on(struct session_cuda *s, int n, struct rows_at dense,
    struct rows_at sparse, const int32_t *next, struct token_metrics *out, struct tensor_sums *sums)
{
    const struct llama_config *c = &s->w->config;
    bool both = dense.at != sparse.at;
    int at_once = both ? COMPARE_CUDA_ROWS / 2 : COMPARE_CUDA_ROWS;
    size_t h = (size_t)c->hidden_size;
    for (int r = 0; r < n; r += at_once) {
        int rows = n - r < at_once ? n - r : at_once;
        size_t values = (size_t)rows * h;
        TRY(take_rows(s, dense, (size_t)r * h, s->wide, values));
        if (both) TRY(take_rows(s, sparse, (size_t)r * h, s->wide + values, values));
        TRY(ops_cuda_to_bf16(
            s->wide, DTYPE_F32, both ? 2 * values : values, s->norm, s->on->stream));
        TRY(send(s, s->tokens, next + r, sizeof *next * (size_t)rows));
        TRY(compare_cuda_run(&(struct compare_cuda_args){.head = s->on->head,
                                 .vocab = c->vocab_size,
                                 .k = c->hidden_size,
                                 .n_rows = rows,
                                 .both = both,
                                 .x = s->norm,
                                 .hidden = s->wide,
                                 .next = s->tokens,
                                 .chunk = s->head_ids,
                                 .logits = s->logits,
                                 .rows = s->rows},
            s->on->gemm, s->on->stream));
        TRY(fetch(s, s->host_rows, s->rows, sizeof *s->rows * (size_t)rows));
        int bad = compare_cuda_finish(
            s->host_rows, rows, c->vocab_size, c->hidden_size, next + r, out + r, sums);
        if (bad >= 0)
            return fail(ERR_NUMERIC,
                "logits of position %d hold NaN or infinity; check the weights with `info --check`",
                r + bad);
    }
    return OK;
}

static enum status cuda_compare(void *state, int n, struct rows_at dense, struct rows_at sparse,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums)
{
    struct session_cuda *s = state;
    enum status st = weights_cuda_lock(s->on);
    if (st == OK) st = compare_on(s, n, dense, sparse, next, out, sums);
    return weights_cuda_unlock(s->on, st);
}

/* What is left, less an eighth for what sessions take when it is first wanted. */
static size_t cuda_carry_room(void *state)
{
    const struct session_cuda *s = state;
    size_t left, total;
    return weights_device_memory(s->w, &left, &total) == OK ? left - left / 8 : 0;
}

static enum status cuda_carry_open(void *state, float **at, size_t values)
{
    struct session_cuda *s = state;
    void *p = NULL;
    enum status st = weights_cuda_lock(s->on);
    if (st == OK)
        st = weights_cuda_remedy(weights_cuda_alloc(s->on, &p, values * sizeof **at,
                                     "the streams of samples between layers"),
            "lower --max-length");
    *at = p;
    return weights_cuda_unlock(s->on, st);
}

static void cuda_carry_close(void *state, float **at, size_t values)
{
    struct session_cuda *s = state;
    if (!*at) return;
    enum status st = weights_cuda_lock(s->on);
    weights_cuda_free(s->on, *at, values * sizeof **at);
    st = weights_cuda_unlock(s->on, st);
    (void)st; /* nobody waits for anything any more */
    *at = NULL;
}

const struct session_backend session_backend_cuda = {
    "cuda",
    plan,
    cuda_scratch,
    cuda_open,
    cuda_close,
    cuda_forward,
    cuda_heads,
    cuda_logits,
    cuda_compare,
    cuda_carry_room,
    cuda_carry_open,
    cuda_carry_close,
    NULL,
    session_cuda_slots,
    session_cuda_keep,
    session_cuda_step,
};
