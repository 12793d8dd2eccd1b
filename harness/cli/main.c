#include "harness/cli/command.h"

#include "base/str.h"
#include "version.h"

#include <stdio.h>
#include <string.h>

static const struct command commands[] = {
    {"demo", "the whole instrument on the bundled model, in a minute", cmd_demo},
    {"info", "what a model directory holds, checked", cmd_info},
    {"eval", "run dense and sparse over a suite and store what it costs", cmd_eval},
    {"tune", "find per-head thresholds under error bounds, verified", cmd_tune},
    {"sweep", "every combination of settings, resumable, shared among processes", cmd_sweep},
    {"status", "what of a sweep is done, failed, missing or stale, and why", cmd_status},
    {"merge", "join databases of shards or machines", cmd_merge},
    {"best", "the cheapest settings that hold your bounds", cmd_best},
    {"frontier", "the settings that no other beats, with the knee", cmd_frontier},
    {"tokens", "the tokens that a run hurt most", cmd_tokens},
    {"sql", "ask the database yourself", cmd_sql},
    {"optimise", "search a bound per layer for the most sparsity that keeps a target", cmd_optimise},
    {"explain", "what a tuned file chose, head by head, and why", cmd_explain},
    {"generate", "write text with dense or sparse prefill", cmd_generate},
    {"list", "runs of a database, or the known suites, methods and kernels", cmd_list},
    {"show", "one run in full", cmd_show},
    {"compare", "two runs or two before/after files, metric by metric", cmd_compare},
    {"gate", "fail when a bound is broken", cmd_gate},
    {"audit", "try to catch this program lying", cmd_audit},
    {"report", "a self-contained page with pictures", cmd_report},
    {"suite", "print what a suite would evaluate", cmd_suite},
    {"synth", "write a random checkpoint of a real shape", cmd_synth},
    {"bench", "time kernels and prefill", cmd_bench},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *to)
{
    fprintf(to, "sparsegauge %s: what block-sparse attention costs a LLaMA model, and what it buys\n\n"
                "usage: sparsegauge COMMAND [arguments]\n\n", SG_VERSION);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(to, "\n`sparsegauge COMMAND -h` explains a command with an example.\n");
}

/* The tuning guide's scripts have no verb: "--tune" among the options means tune, else eval. */
static const struct command *guide_command(int argc, char **argv)
{
    const char *name = "eval";
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--tune") == 0 || str_starts_with(argv[i], "--parallel")) name = "tune";
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    const char *verb = argv[1];
    if (strcmp(verb, "help") == 0 && argc > 2) { /* "help eval" is "eval -h" */
        static char dash_h[] = "-h";
        char *words[] = {dash_h};
        for (int i = 0; i < N_COMMANDS; i++)
            if (strcmp(commands[i].name, argv[2]) == 0) return commands[i].run(1, words);
        verb = argv[2];
    }
    if (strcmp(verb, "-h") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "help") == 0) {
        print_usage(stdout);
        return EXIT_PASS;
    }
    if (strcmp(verb, "--version") == 0) {
        printf("sparsegauge %s (%s%s, %s)\n", SG_VERSION, SG_COMMIT, SG_DIRTY ? ", modified" : "", SG_COMPILER);
        return EXIT_PASS;
    }
    if (str_starts_with(verb, "--")) return guide_command(argc, argv)->run(argc - 1, argv + 1);
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, verb) == 0) return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "sparsegauge: unknown command \"%s\"\n\n", verb);
    print_usage(stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv) { return finish_output(run(argc, argv)); }
