/* What most commands share: options for the model, the samples, the policy and the machine, and opening them. */
#ifndef SG_HARNESS_SETUP_H
#define SG_HARNESS_SETUP_H

#include "engine/engine.h"
#include "engine/tuned.h"
#include "engine/tuner.h"
#include "harness/options.h"
#include "results/records.h"
#include "suites/suite.h"

struct machine_options {
    const char *model, *cpu_mask, *impl, *device, *cache, *residual;
    int threads, chunk;
    bool quiet, parallel;
    bool graph, compile; /* compile: as --graph on a GPU; on the CPU the guide's word for what is so anyway */
};

struct sample_options {
    struct text_list suites;
    const char *dataset, *score, *field;
    int max_length, num_samples, seed;
};

struct policy_options {
    const char *method, *layers, *block, *smooth_k, *tuned;
    double simthreshd1, cdfthreshd, pvthreshd, topk;
    int window, min_sparse_tokens;
};

extern const struct machine_options machine_defaults;
extern const struct sample_options sample_defaults;
extern const struct policy_options policy_defaults;

/* Rows of an option table; for use inside a command's static table. */
#define MACHINE_OPTIONS(m)                                                                                          \
    {"Machine", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                                              \
    {"threads", OPTION_INT, &(m).threads, "N", "threads (all processors)", 0, 4096},                                \
    {"device", OPTION_TEXT, &(m).device, "NAME", "cpu, cuda, cuda:N; some take several: cuda:0,1 cuda:all (cpu)", 0, 0},                                \
    {"residual", OPTION_TEXT, &(m).residual, "TYPE", "residual stream on a GPU: f32, or bf16 (f32)", 0, 0},           \
    {"cpu-mask", OPTION_TEXT, &(m).cpu_mask, "ISA", "avx512, avx2, base: nothing better (auto)", 0, 0},             \
    {"impl", OPTION_TEXT, &(m).impl, "NAME", "attention implementation, see `list kernels` (auto)", 0, 0},          \
    {"chunk", OPTION_INT, &(m).chunk, "TOKENS", "prefill in chunks of this many, a multiple of 128", 0, 1 << 20},   \
    {"cache", OPTION_TEXT, &(m).cache, "DIR", \
     "dense hidden states are kept here; `none` keeps nothing ($XDG_CACHE_HOME/sparsegauge, or ~/.cache/sparsegauge)", 0, 0},     \
    {"q|quiet", OPTION_FLAG, &(m).quiet, NULL, "no progress", 0, 0}

/* For commands that repeat calls of one shape. */
#define GRAPH_OPTIONS(m)                                                                                            \
    {"graph", OPTION_FLAG, &(m).graph, NULL, "on a GPU: repeated calls run as captured CUDA graphs", 0, 0},         \
    {"compile", OPTION_FLAG, &(m).compile, NULL, "the guide's name for --graph; on the CPU it changes nothing", 0, 0}

#define SAMPLE_OPTIONS(s)                                                                                           \
    {"Samples", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                                              \
    {"s|suite", OPTION_LIST, &(s).suites, "SPEC", "what to run on, see `list suites` (chronicle)", 0, 0},           \
    {"dataset", OPTION_TEXT, &(s).dataset, "FILE", "the same as --suite text:FILE", 0, 0},                          \
    {"max-length", OPTION_INT, &(s).max_length, "TOKENS", "window length (2048)", 2, 1 << 20},                      \
    {"num-samples", OPTION_INT, &(s).num_samples, "N", "at most so many (the suite's own default)", 0, 1 << 20},    \
    {"score", OPTION_TEXT, &(s).score, "HOW", "all, or second-half of each window as llama.cpp does (all)", 0, 0},  \
    {"field", OPTION_TEXT, &(s).field, "A=B,…", "other names of JSON keys", 0, 0},                                  \
    {"seed", OPTION_INT, &(s).seed, "N", "of generated samples and resampling (0)", 0, 1 << 30}

#define POLICY_OPTIONS(p)                                                                                           \
    {"Sparsity", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                                             \
    {"m|method", OPTION_TEXT, &(p).method, "NAME", "sparge, topk, window, oracle or dense (sparge)", 0, 0},         \
    {"simthreshd1", OPTION_REAL, &(p).simthreshd1, "X", "a block is similar above this (.6; -.1 with --topk)", -1, 1},               \
    {"cdfthreshd", OPTION_REAL, &(p).cdfthreshd, "X", "predicted mass to keep (.98)", 0, 1},                        \
    {"pvthreshd", OPTION_REAL, &(p).pvthreshd, "X", "skip P·V this far below the maximum, log2 (50)", 0, 50},       \
    {"topk", OPTION_REAL, &(p).topk, "X", "fraction of tiles to keep, for --method topk or oracle", 1e-6, 1},          \
    {"window", OPTION_INT, &(p).window, "TOKENS", "for --method window", 1, 1 << 30},                               \
    {"tuned|model-out-path", OPTION_TEXT, &(p).tuned, "FILE", "per-head thresholds from `tune`", 0, 0},             \
    {"layers|layer-range", OPTION_TEXT, &(p).layers, "WHICH", "all, 8-15, 16,32 (16 to 31), 0-3+12 (all)", 0, 0},   \
    {"block", OPTION_TEXT, &(p).block, "QxK", "128x64, 64x64, 64x128, 128x128 (128x64)", 0, 0},                     \
    {"smooth-k", OPTION_TEXT, &(p).smooth_k, "HOW", "running, global or off (running)", 0, 0},                      \
    {"min-sparse-tokens", OPTION_INT, &(p).min_sparse_tokens, "N", "shorter sequences run dense (256)", 1, 1 << 20}

/* What may be said where thresholds are searched, not given. */
#define RANKED_POLICY_OPTIONS(p)                                                                                    \
    {"Sparsity", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                                             \
    {"m|method", OPTION_TEXT, &(p).method, "NAME", "sparge or oracle (sparge)", 0, 0},                              \
    {"layers|layer-range", OPTION_TEXT, &(p).layers, "WHICH", "all, 8-15, 16,32 (16 to 31), 0-3+12 (all)", 0, 0},   \
    {"block", OPTION_TEXT, &(p).block, "QxK", "128x64, 64x64, 64x128, 128x128 (128x64)", 0, 0},                     \
    {"smooth-k", OPTION_TEXT, &(p).smooth_k, "HOW", "running, global or off (running)", 0, 0}

/* A model and threads, ready. */
struct setup {
    struct par *par;
    struct model model;
    const char *model_dir;
};

/* Applies --cpu-mask and --device, starts threads, opens the model. positional is the MODEL argument or NULL. */
enum status setup_open(struct setup *s, const struct machine_options *m, const char *positional) MUST_USE;
/* The same, but the weights stay on the host: *index is the GPU that --device names, or DEVICE_CPU. */
enum status setup_open_unplaced(struct setup *s, const struct machine_options *m, const char *positional,
                                int *index) MUST_USE;
void setup_close(struct setup *s);

/* The same model on every device that --device names, of one kind; with `parallel` "cuda" means all GPUs. Each has threads
 * of its own: --threads of them, or an even share of the machine's. (*all)[0 … *n). */
enum status setup_open_fleet(struct setup **all, int *n, const struct machine_options *m, const char *positional) MUST_USE;
/* tune() where args->weights are, or spread over the fleet when it has more than one device. */
enum status setup_tune(const struct setup *fleet, int n, const struct machine_options *m, const struct tune_args *args,
                       struct tuned *out, struct tune_times *times) MUST_USE;
void setup_close_fleet(struct setup **all, int *n);

/* Directory of the bundled model: beside this program's checkout, wherever that was moved. The caller frees it. */
char *bundled_model(void);

/* The suite specification of the i-th --suite, or the default. */
enum status setup_samples(const struct setup *s, const struct sample_options *o, int i, bool tuning,
                          struct sample_set *out) MUST_USE;

/* The policy; with --tuned also *tuned is filled (else zeroed) and must be cleared. */
enum status setup_policy(const struct setup *s, const struct policy_options *o, struct sparse_policy *p,
                         struct tuned *tuned) MUST_USE;
/* ERR_ARG for a --method (NULL: the default) that has no thresholds to tune. */
enum status setup_check_tunable(const char *method) MUST_USE;
/* Says on stderr what thresholds from a file do not promise: unverified, judged on no text of their own, or tuned on texts
 * clearly shorter than the n_tokens about to run. Nothing without --tuned. */
void setup_note_tuned(const struct policy_options *o, const struct tuned *tuned, int n_tokens);

#endif
