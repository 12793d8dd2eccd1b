#include "results/columns.h"

#include <string.h>

struct metric_record metric_record_empty(const char *scope, const char *name, int64_t n)
{
    struct metric_record m;
    columns_blank(&metric_columns, &m);
    m.scope = scope;
    m.name = name;
    m.n = n;
    return m;
}

static const struct metric_info known[] = {
    {"cosine", "logit cosine, per position", "", METRIC_HIGHER},
    {"cosine_centred", "centred logit cosine, per position", "", METRIC_HIGHER},
    {"kl", "KL divergence", "nats", METRIC_LOWER},
    {"nll_dense", "NLL dense", "nats", METRIC_NEITHER},
    {"nll_sparse", "NLL sparse", "nats", METRIC_LOWER},
    {"delta_p", "change of the true token's probability", "", METRIC_HIGHER},
    {"top1", "top-1 agreement, per position", "", METRIC_HIGHER},
    {"top5", "top-5 overlap, per position", "", METRIC_HIGHER},
    {"row_l1", "logit L1, per position", "", METRIC_LOWER},
    {"row_rmse", "logit RMSE, per position", "", METRIC_LOWER},
    {"row_hidden_cosine", "hidden cosine, per position", "", METRIC_HIGHER},
    {"row_hidden_l1", "hidden L1, per position", "", METRIC_LOWER},
    {"logits_cosine", "logits cosine", "", METRIC_HIGHER},
    {"logits_l1", "logits L1", "", METRIC_LOWER},
    {"logits_rmse", "logits RMSE", "", METRIC_LOWER},
    {"hidden_cosine", "hidden cosine", "", METRIC_HIGHER},
    {"hidden_l1", "hidden L1", "", METRIC_LOWER},
    {"token_accuracy", "token agreement", "", METRIC_HIGHER},
    {"top5_overlap", "top-5 overlap", "", METRIC_HIGHER},
    {"ppl_dense", "perplexity dense", "", METRIC_NEITHER},
    {"ppl_sparse", "perplexity sparse", "", METRIC_LOWER},
    {"ppl_ratio", "perplexity sparse / dense", "", METRIC_LOWER},
    {"ppl_diff", "perplexity sparse - dense", "", METRIC_LOWER},
    {"score_dense", "task score dense", "", METRIC_NEITHER},
    {"score_sparse", "task score sparse", "", METRIC_HIGHER},
    {"score_drop", "task score lost", "", METRIC_LOWER},
    {"answers_lost", "answers that were right dense only", "", METRIC_LOWER},
    {"answers_gained", "answers that are right sparse only", "", METRIC_HIGHER},
    {"answer_kl", "KL divergence on answers", "nats", METRIC_LOWER},
    {"score_dense_norm", "choice score dense, per byte", "", METRIC_NEITHER},
    {"score_sparse_norm", "choice score sparse, per byte", "", METRIC_HIGHER},
    {"score_drop_norm", "choice score lost, per byte", "", METRIC_LOWER},
    {"sparsity", "sparsity", "", METRIC_HIGHER},
    {"qk_sparsity", "QK sparsity", "", METRIC_HIGHER},
    {"pv_sparsity", "PV sparsity", "", METRIC_HIGHER},
    {"cosine_p1", "logit cosine, its 1st percentile", "", METRIC_HIGHER},
    {"kl_p99_9", "KL divergence, its 99.9th percentile", "nats", METRIC_LOWER},
    {"recall", "attention mass kept", "", METRIC_HIGHER},
    {"recall_oracle", "attention mass that as many tiles could keep", "", METRIC_NEITHER},
    {"recall_p5", "attention mass kept, its 5th percentile", "", METRIC_HIGHER},
    {"recall_group", "attention mass kept, worst head of a group", "", METRIC_HIGHER},
    {"over_bound", "heads and texts over their bound", "", METRIC_LOWER},
    {"over_bound_worst", "worst error over its bound", "x", METRIC_LOWER},
    {"over_bound_heads", "heads over their bound on some text", "", METRIC_LOWER},
    {"over_bound_texts", "texts with a head over its bound", "", METRIC_LOWER},
    {"latency_dense", "time dense", "s", METRIC_NEITHER},
    {"latency_sparse", "time sparse", "s", METRIC_LOWER},
    {"latency_ratio", "time sparse / dense", "", METRIC_LOWER},
    {"latency_predict", "time of choosing tiles", "s", METRIC_LOWER},
    {"latency_attention", "time of dense attention", "s", METRIC_NEITHER},
    {"break_even_length", "break-even length", "tokens", METRIC_LOWER},
    {"peak_bytes", "peak memory", "B", METRIC_LOWER},
    {"cpu_mask_jaccard", "tiles chosen as on the CPU, Jaccard", "", METRIC_HIGHER},
    {"cpu_logits_error_dense", "dense logits against the CPU's, relative", "", METRIC_LOWER},
    {"cpu_logits_error_sparse", "sparse logits against the CPU's, relative", "", METRIC_LOWER},
    {"cpu_top1_dense", "dense argmax as on the CPU", "", METRIC_HIGHER},
    {"cpu_top1_sparse", "sparse argmax as on the CPU", "", METRIC_HIGHER},
    {"cpu_kl_dense", "KL divergence from the CPU, dense", "nats", METRIC_LOWER},
    {"cpu_kl_sparse", "KL divergence from the CPU, sparse", "nats", METRIC_LOWER},
    {"cpu_sparsity_difference", "sparsity, GPU - CPU", "", METRIC_NEITHER},
};

const struct metric_info *metric_info(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return &known[i];
    return NULL;
}

bool metric_is_timing(const char *name)
{
    return !strncmp(name, "latency_", 8) || !strcmp(name, "break_even_length") ||
        !strcmp(name, "peak_bytes");
}

const struct sample_record *sample_find(const struct sample_record *rows, size_t n, int sample)
{
    size_t first = 0, end = n;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (rows[middle].sample < sample) first = middle + 1;
        else end = middle;
    }
    return first < n && rows[first].sample == sample ? &rows[first] : NULL;
}

bool generation_is_dense(const struct generation_record *g)
{
    /* a BOS, and a space of up to three bytes that tokenisers put in front */
    enum { SMALLEST_BLOCK = 64, BEFORE_THE_TEXT = 4 };
    return strlen(g->prompt) + BEFORE_THE_TEXT <= SMALLEST_BLOCK;
}
