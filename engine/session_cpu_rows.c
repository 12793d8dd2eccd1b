#include "engine/session_cpu_parts.h"

#include "engine/rope.h"
#include "engine/session_backend.h"
#include "kernels/cpu/cpu_ops.h"

#include <math.h>
#include <string.h>

enum { ROW_TASK = 32 }; /* rows per task */

void for_rows(struct session_cpu *s, struct rows_job *j, par_body *body)
{
    par_for(s->par, (j->n + ROW_TASK - 1) / ROW_TASK, body, j);
}

#define EACH_ROW(j, item, r)                                                                      \
    for (int r = (item)*ROW_TASK, end_ = r + ROW_TASK < (j)->n ? r + ROW_TASK : (j)->n; r < end_; \
         r++)

void rows_embed(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    size_t h = (size_t)j->s->w->config.hidden_size;
    EACH_ROW (j, item, r)
        widen(weights_embedding_row(j->s->w, j->tokens[r]), j->s->w->embedding.dtype,
            j->to + (size_t)r * h, h);
    float scale = llama_embedding_scale(&j->s->w->config);
    if (scale == 1) return;
    EACH_ROW (j, item, r)
        for (size_t i = 0; i < h; i++) j->to[(size_t)r * h + i] *= scale;
}

void rows_copy(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    size_t h = (size_t)j->s->w->config.hidden_size;
    EACH_ROW (j, item, r) memcpy(j->to + (size_t)r * h, j->from + (size_t)r * h, h * sizeof *j->to);
}

void rows_norm(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    const struct llama_config *c = &j->s->w->config;
    size_t h = (size_t)c->hidden_size;
    EACH_ROW (j, item, r)
        cpu_ops()->rmsnorm(j->from + (size_t)r * h, j->weight, (float)c->rms_norm_eps,
            c->hidden_size, j->to + (size_t)r * h);
}

/* Where this rotation's cosines and sines begin. */
static size_t angles_of(const struct rows_job *j)
{
    return (size_t)j->rope * (size_t)j->s->plan.chunk * (size_t)j->s->w->config.head_dim / 2;
}

void rows_angles(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    int half = j->s->w->config.head_dim / 2;
    const float *inv_freq = j->s->inv_freq + j->rope * half;
    float scaling = rope_attention_scaling(&j->s->w->config, j->rope);
    float *cosine = j->s->cosine + angles_of(j), *sine = j->s->sine + angles_of(j);
    EACH_ROW (j, item, r)
        for (int i = 0; i < half; i++) {
            float angle = (float)(j->position + r) * inv_freq[i];
            bool stays = inv_freq[i] == 0; /* a channel that nothing turns or scales */
            cosine[r * half + i] = stays ? 1 : cosf(angle) * scaling;
            sine[r * half + i] = sinf(angle) * scaling;
        }
}

static void rotate(float *x, const float *cosine, const float *sine, int half)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

void rows_rotate(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    int d = j->s->w->config.head_dim, half = d / 2;
    const float *cosine = j->s->cosine + angles_of(j), *sine = j->s->sine + angles_of(j);
    EACH_ROW (j, item, r)
        for (int h = 0; h < j->n_heads; h++)
            rotate(j->to + ((size_t)r * (size_t)j->n_heads + (size_t)h) * (size_t)d,
                cosine + r * half, sine + r * half, half);
}

void rows_part_norm(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    const struct llama_config *c = &j->s->w->config;
    EACH_ROW (j, item, r)
        for (int h = 0; h < j->n_heads; h++) {
            float *x = j->to + ((size_t)r * (size_t)j->n_heads + (size_t)h) * (size_t)j->dim;
            cpu_ops()->rmsnorm(x, j->weight, (float)c->inner_eps, j->dim, x);
        }
}

void rows_behind(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    const struct llama_config *c = &j->s->w->config;
    size_t h = (size_t)c->hidden_size;
    EACH_ROW (j, item, r) {
        float *x = j->to + (size_t)r * h, *y = j->branch + (size_t)r * h;
        cpu_ops()->rmsnorm(y, j->weight, (float)c->inner_eps, c->hidden_size, y);
        for (size_t i = 0; i < h; i++) x[i] += y[i];
    }
}

void rows_cache(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    size_t d = (size_t)j->s->w->config.head_dim;
    int half = (int)d / 2;
    const float *cosine = j->s->cosine + angles_of(j), *sine = j->s->sine + angles_of(j);
    EACH_ROW (j, item, r)
        for (int h = 0; h < j->n_heads; h++) {
            float *to = j->to + ((size_t)h * j->head_rows + (size_t)(j->position + r)) * d;
            memcpy(
                to, j->from + ((size_t)r * (size_t)j->from_heads + (size_t)h) * d, d * sizeof *to);
            if (j->rotate) rotate(to, cosine + r * half, sine + r * half, half);
        }
}

void rows_finite(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    size_t h = (size_t)j->s->w->config.hidden_size;
    EACH_ROW (j, item, r)
        if (!values_are_finite(j->from + (size_t)r * h, h))
            atomic_store_explicit(&j->s->not_finite, true, memory_order_relaxed);
}

void rows_silu(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    size_t inter = (size_t)j->s->w->config.intermediate_size;
    EACH_ROW (j, item, r)
        cpu_ops()->silu_mul(j->to + (size_t)r * inter, j->from + (size_t)r * inter, inter);
}

void rows_pick(void *ctx, int item, int worker)
{
    (void)worker;
    const struct rows_job *j = ctx;
    size_t d = (size_t)j->s->w->config.head_dim, width = (size_t)j->n_heads * d;
    EACH_ROW (j, item, r)
        memcpy(j->to + (size_t)r * width, j->from + (size_t)r * (size_t)j->from_heads * d,
            width * sizeof *j->to);
}
