/* Rows of option tables that most commands share. */
#ifndef SG_HARNESS_CLI_COMMON_OPTIONS_H
#define SG_HARNESS_CLI_COMMON_OPTIONS_H

#include "harness/cli/options.h"
#include "harness/measure/setup.h"

/* For use inside a command's static table. */
#define BOS_OPTION(m)                                                                           \
    {"bos", OPTION_TEXT, &(m).bos, "RULE",                                                      \
        "begin-of-text in front of every text: tokenizer, always, never (tokenizer)", 0, 0},    \
    {                                                                                           \
        "chat", OPTION_TEXT, &(m).chat, "FORMAT",                                               \
            "around every prompt: llama3, chatml, mistral, or a file with {prompt} in it", 0, 0 \
    }

#define MACHINE_OPTIONS(m)                                                                       \
    {"Machine", OPTION_GROUP, NULL, NULL, NULL, 0, 0}, BOS_OPTION(m),                            \
        {"threads", OPTION_INT, &(m).threads, "N", "threads (all processors)", 0, 4096},         \
        {"device", OPTION_TEXT, &(m).device, "NAME",                                             \
            "cpu, cuda, cuda:N, layers cut over several: cuda:0+1; some take a list: cuda:0,1 "  \
            "cuda:all (cpu)",                                                                    \
            0, 0},                                                                               \
        {"offload", OPTION_FLAG, &(m).offload, NULL,                                             \
            "weights stay in the files and are brought layer by layer: for a model larger than " \
            "the memory",                                                                        \
            0, 0},                                                                               \
        {"device-memory", OPTION_REAL, &(m).device_gib, "GIB",                                   \
            "take no more of a GPU's memory (all of it)", 0, 1e6},                               \
        {"residual", OPTION_TEXT, &(m).residual, "TYPE",                                         \
            "residual stream on a GPU: f32, or bf16 (f32)", 0, 0},                               \
        {"cpu-mask", OPTION_TEXT, &(m).cpu_mask, "ISA",                                          \
            "avx512, avx2, base: nothing better (auto)", 0, 0},                                  \
        {"impl", OPTION_TEXT, &(m).impl, "NAME",                                                 \
            "attention implementation, see `list kernels` (auto)", 0, 0},                        \
        {"chunk", OPTION_INT, &(m).chunk, "TOKENS",                                              \
            "prefill in chunks of this many, a multiple of 128", 0, 1 << 20},                    \
        {"cache", OPTION_TEXT, &(m).cache, "DIR",                                                \
            "dense hidden states and fingerprints are kept here; `none` keeps nothing "          \
            "($XDG_CACHE_HOME/sparsegauge, or ~/.cache/sparsegauge)",                            \
            0, 0},                                                                               \
        {"ignore-tensors", OPTION_FLAG, &(m).ignore_tensors, NULL,                               \
            "go on without tensors that the model does not use", 0, 0},                          \
    {                                                                                            \
        "q|quiet", OPTION_FLAG, &(m).quiet, NULL, "no progress", 0, 0                            \
    }

/* For commands that repeat calls of one shape. */
#define GRAPH_OPTIONS(m)                                                        \
    {"graph", OPTION_FLAG, &(m).graph, NULL,                                    \
        "on a GPU: repeated calls run as captured CUDA graphs", 0, 0},          \
    {                                                                           \
        "compile", OPTION_FLAG, &(m).compile, NULL,                             \
            "the guide's name for --graph; on the CPU it changes nothing", 0, 0 \
    }

#define SAMPLE_OPTIONS(s)                                                                          \
    {"Samples", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                             \
        {"s|suite", OPTION_LIST, &(s).suites, "SPEC",                                              \
            "what to run on, see `list suites` (chronicle)", 0, 0},                                \
        {"dataset", OPTION_TEXT, &(s).dataset, "FILE", "the same as --suite text:FILE", 0, 0},     \
        {"max-length", OPTION_INT, &(s).max_length, "TOKENS", "window length (2048)", 2, 1 << 20}, \
        {"num-samples", OPTION_INT, &(s).num_samples, "N",                                         \
            "at most so many (the suite's own default)", 0, 1 << 20},                              \
        {"score", OPTION_TEXT, &(s).score, "HOW",                                                  \
            "all, or second-half of each window as llama.cpp does (all)", 0, 0},                   \
        {"field", OPTION_TEXT, &(s).field, "A=B,…", "other names of JSON keys", 0, 0},             \
    {                                                                                              \
        "seed", OPTION_INT, &(s).seed, "N",                                                        \
            "of generated samples, and of windows drawn from a file (0: spread evenly)", 0,        \
            1 << 30                                                                                \
    }

/* Where and how it runs, wherever its thresholds come from. */
#define SHARED_POLICY_OPTIONS(p)                                                                  \
    {"layers|layer-range", OPTION_TEXT, &(p).layers, "WHICH",                                     \
        "all, 8-15, 16,32 (16 to 31), 0-3+12 (all)", 0, 0},                                       \
        {"block", OPTION_TEXT, &(p).block, "QxK", "128x64, 64x64, 64x128, 128x128 (128x64)", 0,   \
            0},                                                                                   \
        {"qk", OPTION_TEXT, &(p).qk, "TYPE",                                                      \
            "operands of Q·K become int8 or fp8 (full: as they are)", 0, 0},                      \
        {"correct", OPTION_TEXT, &(p).correct, "HOW",                                             \
            "what a left-out tile becomes: mean, one key with its mean value, or none (none)", 0, \
            0},                                                                                   \
        {"pv", OPTION_TEXT, &(p).pv, "TYPE", "operands of P·V become fp8 (full: as they are)", 0, \
            0},                                                                                   \
    {                                                                                             \
        "smooth-k", OPTION_TEXT, &(p).smooth_k, "HOW", "running, global or off (running)", 0, 0   \
    }

#define POLICY_OPTIONS(p)                                                                        \
    {"Sparsity", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                          \
        {"m|method", OPTION_TEXT, &(p).method, "NAME",                                           \
            "see `list methods`; NAME+PARAMETER=VALUE gives it parameters (sparge)", 0, 0},      \
        {"simthreshd1", OPTION_REAL, &(p).theta, "X",                                            \
            "a block is similar above this (.6; -.1 with --topk)", -1, 1},                       \
        {"cdfthreshd", OPTION_REAL, &(p).tau, "X", "predicted mass to keep (.98)", 0, 1},        \
        {"pvthreshd", OPTION_REAL, &(p).lambda, "X",                                             \
            "skip P·V this far below the maximum, log2 (50)", 0, 50},                            \
        {"topk", OPTION_REAL, &(p).topk, "X", "fraction of tiles to keep, of any ranking", 1e-6, \
            1},                                                                                  \
        {"window", OPTION_INT, &(p).window, "TOKENS", "for --method window", 1, 1 << 30},        \
        {"oracle-over", OPTION_TEXT, &(p).oracle_over, "HOW",                                    \
            "rows of a block join by mean, rms or max (max)", 0, 0},                             \
        {"tuned|model-out-path", OPTION_TEXT, &(p).tuned, "FILE",                                \
            "per-head thresholds from `tune`", 0, 0},                                            \
        {"pt-module", OPTION_TEXT, &(p).pt_module, "NAME",                                       \
            "which attention modules of a .pt are meant, e.g. inner_attention", 0, 0},           \
        SHARED_POLICY_OPTIONS(p),                                                                \
    {                                                                                            \
        "min-sparse-tokens", OPTION_INT, &(p).min_sparse_tokens, "N",                            \
            "shorter sequences run dense (256)", 1, 1 << 20                                      \
    }

/* What may be said where thresholds are searched, not given. */
#define RANKED_POLICY_OPTIONS(p)                                                           \
    {"Sparsity", OPTION_GROUP, NULL, NULL, NULL, 0, 0},                                    \
        {"m|method", OPTION_TEXT, &(p).method, "NAME",                                     \
            "one that ranks, or several as A/B: every head gets its best (sparge)", 0, 0}, \
        SHARED_POLICY_OPTIONS(p)

#endif
