/* The rows of a results database as plain structs: what results/store.h writes and results/query.h
 * reads.
 *
 * Strings are borrowed: from the caller when writing, from the list that holds the record when
 * reading. A missing number is NAN (stored as NULL), a missing string is NULL, a missing count is
 * -1 where the comment says so. results/columns.c says what becomes of each member. Times are
 * seconds, sizes bytes, UTC texts look like "2026-01-31T12:00:00Z".
 */
#ifndef SG_RESULTS_RECORDS_H
#define SG_RESULTS_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Fingerprints and keys are base/hash.h hex: 32 digits. */

struct model_record {
    const char *fingerprint; /* hash of config and tensors; identity */
    const char *name;        /* the directory's name or the hub's */
    const char *path;        /* where it lay when it was evaluated; may be NULL */
    const char *config_json; /* summary of the configuration; may be NULL */
    int n_layers, n_heads, n_kv_heads, head_dim, vocab;
    int64_t n_params;
};

struct dataset_record {
    const char *fingerprint; /* hash of all token ids and of the scoring rule; identity */
    const char *suite;       /* "text", "cloze", "choice", "needle", "chronicle", "speed", … */
    const char *name;        /* what the user asked for, e.g. "text:wiki.valid.raw" */
    int n_samples, max_length;
    int64_t n_tokens;
};

struct machine_record {
    const char *fingerprint; /* hash of the fields below; identity */
    const char *hostname, *cpu;
    int n_cores;
    int64_t ram_bytes;
    const char *gpus;   /* "2x NVIDIA H200", NULL without */
    const char *driver; /* driver and runtime versions, NULL without */
    const char *os;
};

struct software_record {
    const char *version;  /* of this program */
    const char *engine;   /* version of the numerics; part of every cell key */
    const char *compiler; /* name, version, flags */
    const char *commit;   /* git commit, NULL outside a checkout */
    bool dirty;           /* uncommitted changes at build time */
};

enum run_status { RUN_DONE, RUN_FAILED, RUN_SKIPPED };

/* Headline numbers, derived from the metric rows of scope "overall" by headline_fill()
 * (results/columns.h), never set by hand: X_mean, X_lo, X_hi, X_p1 and X_p99_9 are columns of the
 * row named X, all others the mean of the row of that very name. */
struct headline {
    double sparsity, qk_sparsity, pv_sparsity;
    double cosine_mean, cosine_lo, cosine_hi, cosine_p1, kl_mean, kl_lo, kl_hi, kl_p99_9;
    double ppl_dense, ppl_sparse, ppl_ratio, ppl_ratio_lo, ppl_ratio_hi;
    double token_accuracy, top5_overlap;
    double logits_cosine, logits_l1, logits_rmse, hidden_cosine, hidden_l1;
    double score_dense, score_sparse, score_drop;
    double latency_dense, latency_sparse, latency_ratio; /* seconds, seconds, sparse / dense */
};

/* One evaluated configuration on one data set = one cell. */
struct run_record {
    int64_t id;      /* row number, given by the database; ignored when writing */
    const char *key; /* content key: hash of everything the numbers depend on */
    const char
        *slot; /* hash of what was asked for alone (axes, model name, suite), without fingerprints
                * and versions: same slot and another key = the older one is stale */
    /* object of all parts of the key, so that two keys can be told apart by name */
    const char *key_json;
    const char *plan; /* name of the sweep it belongs to, NULL for a single eval */
    enum run_status status;
    const char *reason; /* why it failed or was skipped; NULL when done */

    const char *method; /* "dense", "sparge", "topk", "bound+keys=32", … (kernels/mask.h) */
    int block_q, block_k;
    const char *smooth_k; /* "running", "global", "off" */
    const char *rule;     /* tuning rule: "l1", "tail", "cosine", "rmse", "both"; NULL untuned */
    double l1, pv_l1;
    double simthreshd1, cdfthreshd, pvthreshd; /* global thresholds; NAN when tuned per head */
    /* what the operands of Q·K and P·V become: "int8", "fp8"; NULL: as they are on the device */
    const char *qk, *pv;
    double topk;    /* kept fraction */
    int64_t window; /* tokens, -1 = does not apply */
    /* sparse layers, canonical: "all", "16-31", "0-6+8-15", "7" */
    const char *layers;
    const char *heads;      /* "all", or one head of one layer: "5" */
    const char *tuned_hash; /* tuned thresholds used, see struct tuned_record; NULL without */
    int max_length, num_samples;
    const char *score; /* "all" or "second-half" */
    uint64_t seed;
    int repeat; /* 0, or the number of a repetition asked for */
    int threads;
    const char *device;   /* "cpu", "cuda" */
    const char *residual; /* of the residual stream on a device, "f32" or "bf16"; NULL on the CPU */
    bool graph;           /* repeated calls ran as captured graphs */
    /* made by `gate --confirm` to try a failure again: no result of its own */
    bool confirming;
    const char *impl;  /* attention implementation asked for; NULL: the best */
    const char *impls; /* implementations that ran: "attn_dense=…;attn_sparse=…" */
    /* library, version and kernels of the products: "OpenBLAS 0.3.21 Haswell"; may be NULL */
    const char *blas;
    const char *isa; /* instruction set of our own CPU kernels: "avx2"; may be NULL */
    int min_sparse_tokens;
    int64_t attention_calls;      /* sequence x layer calls */
    int64_t dense_fallback_calls; /* of these, run dense because the sequence was too short */
    const char *argv_json;        /* array of strings */
    const char *started, *ended;  /* UTC */
    double wall_s;
    int64_t peak_bytes;        /* resident memory, -1 unknown */
    int64_t peak_device_bytes; /* -1 unknown */

    struct model_record model;
    struct dataset_record dataset;
    struct machine_record machine;
    struct software_record software;

    struct headline headline; /* read side only */
    const char *digest;       /* read side only: hash of the results, timings left out */
};

/* Nothing was left out and nothing became eight bits: it compares dense with dense. */
static inline bool run_is_eight(const struct run_record *r) { return r->qk || r->pv; }
static inline bool run_is_dense(const struct run_record *r)
{
    return r->method && !strcmp(r->method, "dense") && !run_is_eight(r);
}

/* The oracle, by whatever name: it computes everything before it leaves anything out, so it is a
 * limit and nothing to choose. */
static inline bool run_is_oracle(const struct run_record *r)
{
    return r->method && !strncmp(r->method, "oracle", 6) && (!r->method[6] || r->method[6] == '+');
}

/* break_even_length: mean, lo and hi are missing where they lie outside the measured lengths. Then
 * max (p5 for lo, p99 for hi) is the shortest measured, which it is at or below, or min (p1, p95)
 * the longest, which it is above.
 *
 * A distribution. Scope "overall", "sample:3", or "position:0-255" (token positions, both
 * included). Columns that do not apply are NAN; a pooled value such as a perplexity has n, mean, lo
 * and hi alone. */
struct metric_record {
    const char *scope;
    const char *name; /* names in METRIC_NAMES below get labels and directions in reports; others
                         are allowed */
    int64_t n;        /* values that went in */
    double mean, std_error, min, p0_1, p1, p5, median, p95, p99, p99_9, max;
    /* 95 % interval of the mean or pooled value over samples (results/estimates.h) */
    double lo, hi;
};

/* All NAN but scope, name and n; fill what applies. */
struct metric_record metric_record_empty(const char *scope, const char *name, int64_t n);

/* Per position: cosine cosine_centred kl nll_dense nll_sparse delta_p top1 top5 row_l1 row_rmse
 *   row_hidden_cosine row_hidden_l1
 * Pooled, as in the tuning guide: logits_cosine logits_l1 logits_rmse hidden_cosine hidden_l1
 *   token_accuracy top5_overlap
 * Pooled, paired: ppl_dense ppl_sparse ppl_ratio ppl_diff score_dense score_sparse score_drop
 * Percentiles, with intervals of their own: cosine_p1 kl_p99_9 (an end that so few samples cannot
 * give is missing) Counted: sparsity qk_sparsity pv_sparsity   Timed: latency_dense latency_sparse
 * latency_ratio break_even_length                         Space: peak_bytes Of a run on a GPU
 * beside one on the CPU (`eval --device cpu,cuda`): cpu_mask_jaccard cpu_logits_error_dense
 *   cpu_logits_error_sparse cpu_top1_dense cpu_top1_sparse cpu_kl_dense cpu_kl_sparse
 * cpu_sparsity_difference */
enum metric_better { METRIC_NEITHER, METRIC_HIGHER, METRIC_LOWER };
struct metric_info {
    const char *name, *label, *unit;
    enum metric_better better;
};
/* NULL for a name that is not in the list. */
const struct metric_info *metric_info(const char *name);
/* Seconds and bytes: they differ from run to run. */
bool metric_is_timing(const char *name);

/* One sample (one window of tokens), one wide row. */
struct sample_record {
    int sample;
    int64_t n_tokens, n_scored; /* n_scored: positions that have a next token to score */
    bool fell_back;             /* shorter than min_sparse_tokens, so it ran dense */
    double nll_dense_sum, nll_sparse_sum;
    double cosine_mean, cosine_p1, cosine_min;
    double kl_mean, kl_p99_9, kl_max;
    double delta_p_mean, token_accuracy, top5_overlap;
    double logits_cosine, logits_l1, logits_rmse, hidden_cosine, hidden_l1;
    double sparsity, qk_sparsity, pv_sparsity;
    double cosine_centred_mean, row_rmse_mean, row_hidden_cosine_mean; /* over positions */
    double logits_dense_rms, logits_sparse_rms, hidden_dense_rms,
        hidden_sparse_rms; /* root mean squares: weights of a
                              flattened cosine */
    /* work that sparsity is a share of, over all layers and heads */
    double tiles_possible, pv_possible;
};

/* The sample of that number, NULL without; rows: [n] in the order of their numbers, each once. */
const struct sample_record *sample_find(const struct sample_record *rows, size_t n, int sample);

/* The worst positions of a sample, worst first: what percentiles over all positions are computed
 * from again. */
struct tail_record {
    int sample;
    const char *name; /* "cosine": the smallest, "kl": the largest */
    size_t n;
    const float *values; /* [n] */
};

/* Counters of one head over all samples of the run (METHOD 4). Every head of a layer has one, in
 * order. */
struct ledger_record {
    int layer, head;
    int64_t tiles_possible, tiles_computed, pv_possible, pv_computed;
    int64_t forced_sink, forced_diagonal, forced_theta_q, forced_theta_k;
    /* calls, and those that ran dense, by reason */
    int64_t calls, dense_head, dense_layer, dense_short;
    int64_t eight;           /* calls whose products were of eight bits, dense ones included */
    int64_t tiles_corrected; /* left-out tiles that a pseudo-key stood for (method.md, 10) */
    /* thresholds used; NAN where the head was dense */
    double theta, tau, lambda;
};

/* Error of the attention output of a layer (head -1: all its heads) on one sample (-1: on all),
 * against the dense run's: L1 = sum |o - o~| / sum |o|, and the cosine of both as vectors. */
struct layer_error_record {
    int sample, layer, head;
    double isolated_l1, isolated_cosine; /* this layer alone sparse, on the dense run's input */
    /* of the sparse run, errors of earlier layers included */
    double propagated_l1, propagated_cosine;
};

/* One question of a task suite. */
struct item_record {
    const char *item, *group;         /* id unique within the run; group may be NULL */
    int sample;                       /* -1 when items are not tied to samples */
    double depth;                     /* 0…1 position of the needle, NAN when it does not apply */
    int64_t length;                   /* tokens of the context, -1 when it does not apply */
    double dense_score, sparse_score; /* e.g. log probability of the answer */
    bool dense_right, sparse_right;
    /* multiple choice, by the log probability per byte: 0 or 1; else -1 */
    int dense_right_norm, sparse_right_norm;
    double chance; /* of a right answer without reading: 1 / choices, 0 of an open question */
    double kl;     /* mean over the answer's tokens, nats */
    /* of the attention mass of its sample, in the tiles computed and in as many of the best, the
     * 5th percentile over heads and blocks of rows, and the worst head of those that share keys;
     * NAN when it was not measured (--attribution) */
    double recall, recall_oracle, recall_p5, recall_group;
    /* what a written answer is held against; NULL: it was read, and right or wrong alone counts */
    const char *expected;
    /* of written answers: scores from 0 to 1, of which 1 is right, and the texts; else NAN, NULL */
    double dense_value, sparse_value;
    const char *dense_text, *sparse_text;
};

struct generation_record {
    int index;
    const char *prompt, *dense, *sparse;
    int n_tokens;
    double token_match, text_similarity; /* both 0…1 */
};

/* True when the prompt is sure to lie within one tile, which is always computed: then prefill is
 * dense on both sides whatever the settings are, decoding is too, and a match says nothing. By its
 * bytes, at least one a token. */
bool generation_is_dense(const struct generation_record *g);

/* A distribution of times. part: "prefill_dense", "prefill_sparse" and "decode" are whole passes.
 * The parts of passes that were profiled beside them add up to one: "dense_attention",
 * "dense_linear", "dense_rest"; "sparse_predict" (choosing tiles), "sparse_qk" and "sparse_pv" (or
 * "sparse_attention" where a kernel does both at once), "sparse_attention_dense" (layers that ran
 * dense), "sparse_linear" (products with weights), "sparse_rest" (norms, rotation, cache,
 * activation). */
struct latency_record {
    const char *part;
    int64_t n_tokens;
    int n;                                          /* timed repetitions */
    double min, p5, q1, median, q3, p95, max, mean; /* seconds */
    bool valid;
    const char *note; /* the stop condition that was not met, or the drift seen; NULL when valid */
};

/* Worst positions of a run by KL. */
struct worst_token_record {
    int sample;
    int64_t position;
    int64_t token; /* true next token */
    double kl, cosine, nll_dense, nll_sparse;
    double row_sparsity;                /* of the query block row, mean over sparse heads */
    const char *context;                /* decoded text up to the position */
    const char *token_text;             /* decoded true next token */
    const char *top_dense, *top_sparse; /* JSON arrays [{"id","text","p"}…], best first */
};

/* Per-token rows of one sample, optional: n records of TOKEN_BYTES each, little-endian:
 * i32 true next token, f32 kl, f32 cosine, f32 nll_dense, f32 nll_sparse. */
struct token_record {
    int32_t token;
    float kl, cosine, nll_dense, nll_sparse;
};
#define TOKEN_BYTES 20
struct token_block {
    int sample;
    size_t n;
    const struct token_record *tokens;
};

/* Block mask of one head: bit (I*n_k + J) of `bits` (least significant first) set = tile (I,J)
 * computed. */
struct mask_record {
    int sample, layer, head;
    int n_q, n_k;
    const uint8_t *bits; /* (n_q*n_k + 7) / 8 bytes */
};

/* Thresholds a tuner chose. */
struct tuned_head_record {
    int layer, head;
    bool is_sparse;
    double theta, tau, lambda;
    /* achieved with the stored triple in the inference kernel, worst sample */
    double l1_tune, l1_held_out;
    double tail_tune, tail_held_out; /* 99.9th percentile over rows, worst sample */
    double qk_sparsity, sparsity;    /* mean over tuning samples */
    int back_offs;                   /* steps taken back because the bound did not hold */
    const char *reason;              /* why the head stayed dense; NULL when sparse */
};
struct tuned_record {
    const char *hash; /* of the thresholds, blocks and rule; identity */
    const char *model_fingerprint, *data_fingerprint;
    const char *method, *rule, *smooth_k, *layers;
    double l1, pv_l1;
    int block_q, block_k;
    const char *json; /* the tuned.json text; may be NULL */
    double wall_s;
    const struct tuned_head_record *heads;
    size_t n_heads; /* layers x heads tuned */
};

/* Identity of a blob of tuning curves. */
struct curve_key {
    const char *model_fingerprint, *data_fingerprint;
    const char *kind; /* names the blob's layout and its version, chosen by the writer */
    const char *method, *smooth_k;
    int block_q, block_k;
    int layer, head, sample;
};

/* Dense against dense on one machine: differences below `value` are no differences. */
struct noise_record {
    const char *machine_fingerprint, *model_fingerprint;
    const char *source; /* "threads", "tile order", "backend", "repeat" */
    const char *metric; /* as in metric_record */
    double value;       /* absolute distance from the perfect value (cosine: 1 - x) */
    int64_t n;          /* values it is the largest of */
};

#endif
