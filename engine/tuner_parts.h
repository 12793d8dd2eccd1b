/* What the two halves of the tuner share: tuner.c walks the layers and makes curves, tuner_settle.c chooses, verifies and
 * backs off. Nobody else includes this. */
#ifndef SG_ENGINE_TUNER_PARTS_H
#define SG_ENGINE_TUNER_PARTS_H

#include "engine/tuner.h"

/* One sample's tensors of the present layer. */
struct layer_tensors {
    float *q, *k, *v, *o; /* q, o: [n, n_heads, d]; k, v: [n_kv_heads, n, d] */
};

struct tuner {
    const struct tune_args *a;
    const struct llama_config *c;
    struct session *session;
    float **stream;                 /* [n_samples] residual stream entering the present layer */
    struct layer_tensors *tensors;  /* [n_samples] */
    struct curve *curves;           /* [n_heads, n_tune] of the present layer */
    int n_tune;                     /* samples that are not held out; they stand first */
    int longest;
    char *ws;                       /* per worker */
    size_t ws_stride;
    enum status *task_status;       /* [n_heads * n_samples] */
    char (*task_message)[256];
    struct tune_times *times;
};

/* A task is one (head, sample) of the present layer: serial, so that results do not depend on the number of threads. */
struct tuner_task {
    int head, sample;
};
typedef enum status tuner_body(struct tuner *t, void *ctx, int i, struct tuner_task task, char *ws);
/* Runs them all; the first failure in their order, with layer, head and sample in its message. ERR_CANCELLED on request. */
enum status tuner_run(struct tuner *t, int layer, const struct tuner_task *tasks, int n, tuner_body *body, void *ctx) MUST_USE;

/* A view of one head of one sample as a single-head call. `o` holds the dense output. */
struct attn_args tuner_head(const struct tuner *t, int sample, int head);
struct mask_args tuner_mask(const struct tuner *t, const struct attn_args *attn, const struct head_params *p);

struct head_error tuner_widen(const struct output_error *e);
/* INFINITY for NaN */
double tuner_error_by(const struct output_error *e, enum tune_rule rule);

extern const struct head_error tuner_no_error; /* of no sample: NAN */
void tuner_make_dense(struct tuned_head *h, bool any_held_out, const char *why, double value);

/* Thresholds of one layer for every pair of bounds, from t->curves and t->tensors. */
enum status settle_layer(struct tuner *t, int layer, struct tuned *out) MUST_USE;
size_t settle_workspace(const struct tuner *t);

#endif
