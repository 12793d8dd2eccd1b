/* Thresholds found by the tuner, per layer and head, and the file that carries them (METHOD 7).
 *
 * The file names the model, the data, the block shape, the bounds and the rule it was made with;
 * loading it for anything else is refused with the differing field.
 */
#ifndef SG_ENGINE_TUNER_TUNED_H
#define SG_ENGINE_TUNER_TUNED_H

#include "engine/policy.h"
#include "engine/tuner/over_bound.h"
#include "engine/checkpoint/weights.h"
#include "kernels/curve.h"

#include <stdbool.h>

/* BOTH bounds the tail, and the mean at a tenth of it: its error is max(tail, 10 · l1). */
enum tune_rule { RULE_L1, RULE_TAIL, RULE_COSINE, RULE_RMSE, RULE_BOTH };
enum { N_RULES = RULE_BOTH + 1 };
const char *tune_rule_name(enum tune_rule r);
/* "l1", "tail", "cosine", "rmse", "both" */
enum status tune_rule_parse(const char *text, enum tune_rule *out) MUST_USE;

/* What one head does to its output, in four measures; the worst sample counts. 0 is perfect for all
 * of them. */
struct head_error {
    double l1;     /* Σ|O−Õ| / Σ|O| */
    double tail;   /* 99.9th percentile over rows of Σ_d|o−õ| / Σ_d|o| */
    double cosine; /* 1 − cosine of the flattened outputs */
    double rmse;   /* root of the mean square difference over that of O */
};
extern const struct head_error head_error_unknown; /* of no sample: NAN */
struct head_error head_error_of(const struct output_error *e);
double head_error_by(const struct head_error *e, enum tune_rule rule);
/* The worse of both, field by field. */
struct head_error head_error_worst(struct head_error a, struct head_error b);

struct tuned_head {
    struct head_params params; /* is_sparse false: dense */
    bool in_range;             /* false: outside the layer range, not tuned */
    /* of the stored triple in the inference kernel: worst tuning sample */
    struct head_error tune;
    /* worst check sample, those that thresholds were backed off by; NAN fields without one */
    struct head_error check;
    /* worst sample that nothing was chosen or backed off by; NAN fields without one */
    struct head_error held_out;
    double qk_sparsity, sparsity; /* counted in those runs, mean over the tuning samples */
    int back_offs;                /* steps back because a bound did not hold */
    /* bounds of this head where they differ from head to head; 0: those of the file */
    double l1, pv_l1;
    /* why the head is dense, or that it was not verified; else "" */
    char reason[96];
};

/* What one layer costs end to end when it alone is sparse, all others dense; measured by
 * `optimise`. */
struct layer_cost {
    /* of its heads then, the same for all layers; 0: the layer was not run */
    double bound;
    double sparsity; /* of the layer */
    /* of the logits: mean cosine, mean KL in nats, perplexity sparse / dense */
    double cosine, kl, ppl_ratio;
};

struct tuned {
    char model_fingerprint[64]; /* longer than any: files of other versions have other forms */
    char model_name[256];       /* of a folder or file */
    char data_fingerprint[33];
    char data_name[4352]; /* as asked for: a suite and a path */
    char method[256];
    char layers[LAYERS_TEXT_SIZE];
    enum tune_rule rule;
    /* bounds of the rule's error for stage 1, and for both stages */
    double l1, pv_l1;
    struct block_shape block;
    enum smooth_k smooth_k;
    enum precision qk, pv; /* of the products behind every error here */
    bool verified;         /* every stored triple was run by the inference kernel */
    /* read from a file that is not as it was written: its errors speak of other thresholds */
    bool edited;
    /* what `optimise` was asked to keep, "" when bounds were given */
    char goal[96];
    int max_length, num_samples, num_check, num_held_out;
    /* asked for, and the factor that the bounds were tightened by for it; 0: not asked */
    double coverage, tightened;
    struct over_bound over; /* on the held-out samples; n_samples 0 without any */
    int n_layers, n_heads;
    struct tuned_head *heads; /* [n_layers, n_heads], owned */
    struct layer_cost *costs; /* [n_layers], owned; NULL when not measured */
};

enum status tuned_init(struct tuned *t, int n_layers, int n_heads) MUST_USE;
void tuned_clear(struct tuned *t);

/* The heads' errors on one text (tune_errors(), [n_layers, n_heads]) over `bound`, or over their
 * own bounds when that is 0; NAN for a head that runs dense. */
void tuned_ratios(
    const struct tuned *t, const struct head_error *errors, double bound, double *ratios);
/* How often they are over it on texts: errors [n_samples, n_layers, n_heads]. */
struct over_bound tuned_over(
    const struct tuned *t, const struct head_error *errors, int n_samples, double bound);
/* The same of held-out samples, entered into *t. */
void tuned_judge(struct tuned *t, const struct head_error *errors, int n_samples);

/* Hash of thresholds, blocks, rule and bounds: names the choice in the database. out: 33 bytes. */
char *tuned_hash(const struct tuned *t, char *out);

enum status tuned_write(const struct tuned *t, const char *path) MUST_USE;
/* The guide's statistics: an array with an object per tuned layer, thresholds as means over its
 * sparse heads. */
enum status tuned_write_stats(const struct tuned *t, const char *path) MUST_USE;
/* The JSON text, appended; indent 0: over several lines, -1: in one. */
void tuned_print(const struct tuned *t, struct str *out, int indent);
/* ERR_FORMAT names file, field, found and expected; also for a file that lacks heads of its layers.
 */
enum status tuned_read(struct tuned *t, const char *path) MUST_USE;
/* The same of a text; `name` stands for it in messages. */
enum status tuned_parse(struct tuned *t, const char *text, const char *name) MUST_USE;

/* Put thresholds, block shape and smoothing into a policy for this model. Refuses another model or
 * another number of layers or heads; the message names file and field. Heads that were not tuned
 * become dense. */
enum status tuned_apply(const struct tuned *t, const char *path, const struct weights *w,
    const char *model_fingerprint, struct sparse_policy *p) MUST_USE;

#endif
