/* What a run is asked for: the machine, the samples, the policy; and opening them. */
#ifndef SG_HARNESS_MEASURE_SETUP_H
#define SG_HARNESS_MEASURE_SETUP_H

#include "base/str.h"
#include "engine/engine.h"
#include "engine/tuner/tuned.h"
#include "engine/tuner/tuner.h"
#include "results/records.h"
#include "suites/suite.h"

#include <math.h>

struct machine_options {
    const char *model, *cpu_mask, *impl, *device, *cache, *residual;
    const char *bos;  /* NULL: "tokenizer" */
    const char *chat; /* a format or a file around every prompt; NULL: none */
    int threads, chunk;
    bool quiet, parallel;
    bool ignore_tensors;
    bool offload;
    double device_gib; /* most memory to take on a GPU; 0: all */
    /* compile: as --graph on a GPU; on the CPU the guide's word for what is so anyway */
    bool graph, compile;
};

struct sample_options {
    struct text_list suites;
    const char *dataset, *score, *field;
    int max_length, num_samples, seed;
};

struct policy_options {
    const char *method, *layers, *heads, *block, *smooth_k, *tuned, *pt_module, *oracle_over;
    const char *qk, *pv; /* NULL: those of `tuned`, or full */
    const char *correct; /* NULL: as the method says */
    double theta, tau, lambda, topk;
    int window, min_sparse_tokens;
    bool to_tune; /* thresholds are searched: every head may get another part of a mixture */
};

#define MACHINE_DEFAULTS                    \
    {                                       \
        .cpu_mask = "auto", .device = "cpu" \
    }
#define SAMPLE_DEFAULTS                    \
    {                                      \
        .score = "all", .max_length = 2048 \
    }
#define POLICY_DEFAULTS                                           \
    {                                                             \
        .layers = "all", .theta = NAN, .tau = NAN, .lambda = NAN, \
        .min_sparse_tokens = MIN_SPARSE_TOKENS                    \
    }

/* A model and threads, ready. */
struct setup {
    struct par *par;
    struct model model;
    struct chat chat;      /* name NULL: none */
    const char *model_dir; /* as it was asked for; once open, where its files are */
};

/* Applies --cpu-mask and --device, starts threads, opens the model. positional is the MODEL
 * argument or NULL. */
enum status setup_open(
    struct setup *s, const struct machine_options *m, const char *positional) MUST_USE;
/* The same, but the weights stay on the host: *index is the GPU that --device names, or DEVICE_CPU.
 */
enum status setup_open_unplaced(
    struct setup *s, const struct machine_options *m, const char *positional, int *index) MUST_USE;
void setup_close(struct setup *s);
/* weights_check_finite() with its progress shown. */
enum status setup_check_finite(struct setup *s, bool quiet) MUST_USE;

/* The same model on every device that --device names, of one kind; with `parallel` "cuda" means all
 * GPUs. Each has threads of its own: --threads of them, or an even share of the machine's. (*all)[0
 * … *n). */
enum status setup_open_fleet(
    struct setup **all, int *n, const struct machine_options *m, const char *positional) MUST_USE;
/* tune() where args->weights are, or spread over the fleet when it has more than one device. */
enum status setup_tune(const struct setup *fleet, int n, const struct machine_options *m,
    const struct tune_args *args, struct tuned *out, struct tune_times *times) MUST_USE;
void setup_close_fleet(struct setup **all, int *n);

/* Directory of the bundled model: where this program was installed, or in its checkout, wherever
 * that was moved. The caller frees it. */
char *bundled_model(void);

/* "all" or "second-half"; ERR_ARG. */
enum status setup_check_score(const char *score) MUST_USE;
/* The suite specification of the i-th --suite, or the default. */
enum status setup_samples(const struct setup *s, const struct sample_options *o, int i, bool tuning,
    struct sample_set *out) MUST_USE;

/* A value of --qk or --pv: "full", "int8" (of Q·K), "fp8", or the name of what full is on this
 * device. ERR_ARG. */
enum status setup_precision(
    const struct weights *w, const char *option, const char *text, enum precision *out) MUST_USE;

/* The policy; with --tuned also *tuned is filled (else zeroed) and must be cleared. */
enum status setup_policy(const struct setup *s, const struct policy_options *o,
    struct sparse_policy *p, struct tuned *tuned) MUST_USE;
/* The same for thresholds that are searched: the method may be a mixture. ERR_ARG for one that has
 * none to tune. */
enum status setup_policy_to_tune(
    const struct setup *s, const struct policy_options *o, struct sparse_policy *p) MUST_USE;
/* Says on stderr what thresholds from a file do not promise: unverified, judged on no text of their
 * own, or tuned on texts of another source or clearly another length than the n_tokens about to
 * run. set: NULL for what is no sample. Nothing without --tuned. */
void setup_note_tuned(const struct policy_options *o, const struct tuned *tuned,
    const struct sample_set *set, int n_tokens);

/* Says on stderr how samples will pass over weights that come layer by layer; nothing without
 * --offload or when quiet. runs: of each sample, 0 to tune on it. */
enum status setup_note_offload(const struct setup *s, const struct machine_options *m,
    const struct sample_set *set, int runs) MUST_USE;
/* … and afterwards, of GPUs, what was brought and what of that was waited for. */
void setup_note_brought(const struct setup *fleet, int n, const struct machine_options *m);

#endif
