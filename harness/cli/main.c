#include "harness/cli/command.h"

#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "base/text.h"
#include "base/xmalloc.h"
#include "harness/cli/completion.h"
#include "harness/cli/output.h"
#include "version.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command *const commands[] = {
    &cmd_demo,
    &cmd_info,
    &cmd_eval,
    &cmd_tune,
    &cmd_sweep,
    &cmd_status,
    &cmd_merge,
    &cmd_best,
    &cmd_frontier,
    &cmd_tokens,
    &cmd_sql,
    &cmd_optimise,
    &cmd_explain,
    &cmd_generate,
    &cmd_list,
    &cmd_show,
    &cmd_compare,
    &cmd_gate,
    &cmd_audit,
    &cmd_report,
    &cmd_suite,
    &cmd_synth,
    &cmd_bench,
    &cmd_version,
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const struct command *command_find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static void print_usage(FILE *to)
{
    fprintf(to,
        "sparsegauge %s: what block-sparse attention costs a LLaMA model, and what it buys\n\n"
        "usage: sparsegauge COMMAND [arguments]\n\n",
        SG_VERSION);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to,
        "\n`sparsegauge COMMAND -h` explains a command with an example, exit codes and "
        "environment.\n");
}

static int unknown_command(const char *verb, int argc, char **argv)
{
    output_begin_refused("", argc, argv);
    const char *names[N_COMMANDS + 2] = {"help", "completion"};
    for (int i = 0; i < N_COMMANDS; i++) names[i + 2] = commands[i]->name;
    const char *nearest = text_nearest(verb, names, N_COMMANDS + 2);
    enum status st = nearest
        ? fail(ERR_ARG, "unknown command \"%s\"; did you mean %s?", verb, nearest)
        : fail(ERR_ARG, "unknown command \"%s\"; sparsegauge -h lists the commands", verb);
    int code = report_failure(st);
    output_end(st, code);
    return code;
}

/* The tuning guide's scripts have no verb: "--tune" among the options means tune, else eval. */
static const struct command *guide_command(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--tune") == 0 || str_starts_with(argv[i], "--parallel"))
            return &cmd_tune;
    return &cmd_eval;
}

/* "tune, sweep" of --l1. */
static void commands_with(const char *option, size_t n, struct str *out)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (options_have(commands[i]->options, option, n))
            str_addf(out, "%s%s", out->len ? ", " : "", commands[i]->name);
}

static int command_run(const struct command *c, int argc, char **argv)
{
    struct command_call call = {.argc = argc, .argv = argv, .code = EXIT_PASS};
    bool want_help;
    call.positional = calloc((size_t)argc + 1, sizeof *call.positional);
    if (!call.positional)
        return report_failure(fail(ERR_MEMORY, "no memory for %d arguments", argc));
    const struct option_tables options = {c->options, output_options, commands_with};
    enum status st = options_parse(
        &options, argc, argv, call.positional, c->max_positional, &call.n, &want_help);
    if (st != OK) output_begin_refused(c->name, argc, argv);
    if (st == OK && want_help) options_print_help(&c->help, &options);
    else if (st == OK && (st = output_begin(c->name)) == OK) st = c->run(&call);
    free(call.positional);
    int failure = st == OK ? EXIT_PASS : report_failure(st);
    if (st == ERR_CANCELLED)
        remark("%s", c->kept ? c->kept : "nothing is kept of it; the same command starts again");
    int code = call.code == EXIT_PASS ? failure : call.code;
    output_end(st, code);
    return code;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    const char *verb = argv[1];
    const struct command *c;
    if (strcmp(verb, "help") == 0 && argc > 2) { /* "help eval" is "eval -h" */
        if ((c = command_find(argv[2]))) {
            options_print_help(
                &c->help, &(struct option_tables){.own = c->options, .common = output_options});
            return EXIT_PASS;
        }
        return unknown_command(argv[2], argc, argv);
    }
    if (strcmp(verb, "-h") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "help") == 0) {
        print_usage(stdout);
        return EXIT_PASS;
    }
    if (strcmp(verb, "completion") == 0) {
        enum status st = completion_print(commands, N_COMMANDS, argc > 2 ? argv[2] : "");
        return st == OK ? EXIT_PASS : report_failure(st);
    }
    if (strcmp(verb, "--version") == 0 || strcmp(verb, "-V") == 0) verb = "version";
    if (str_starts_with(verb, "--"))
        return command_run(guide_command(argc, argv), argc - 1, argv + 1);
    if ((c = command_find(verb))) return command_run(c, argc - 2, argv + 2);
    return unknown_command(verb, argc, argv);
}

/* Without a buffer that would have to be allocated, and without what runs at a usual end. */
static void on_no_memory(size_t bytes)
{
    char text[160];
    snprintf(text, sizeof text,
        "sparsegauge: %s: no room for %zu bytes more; give it more memory, or ask for less\n",
        status_name(ERR_MEMORY), bytes);
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(EXIT_RUN);
    _exit(EXIT_RUN);
}

/* A mapped file was cut short while it was in use, or its disk failed: said in a handler's way, by
 * write() alone. */
static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    const char *path = file_map_at(info->si_addr);
    const char *const words[] = {"sparsegauge: ", status_name(ERR_IO), ": ",
        path ? path : "a file in use",
        ": was cut short while it was read, or its disk failed; restore it and repeat\n"};
    for (int i = 0; i < 5; i++)
        if (write(STDERR_FILENO, words[i], strlen(words[i])) < 0) break;
    _exit(EXIT_RUN);
}

int main(int argc, char **argv)
{
    struct sigaction bus = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &bus, NULL);
    xmalloc_failed = on_no_memory;
    /* else a field that there is no room for would be left out of what is written, unsaid */
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = xmalloc, .free_fn = free});
    if (argc > 0) output_called_as(argv[0]);
    return finish_output(run(argc, argv));
}
