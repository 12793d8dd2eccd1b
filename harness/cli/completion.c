#include "harness/cli/completion.h"

#include "base/str.h"
#include "harness/cli/output.h"
#include "version.h"

#include <stdio.h>
#include <string.h>

/* One name of "o|output|model-out-path" after the other; NULL behind the last. */
static const char *next_name(const char *at, size_t *len)
{
    if (!at || !*at) return NULL;
    *len = strcspn(at, "|");
    return at;
}
#define EACH_NAME(option, at, len)                               \
    for (const char *at = next_name((option)->name, &(len)); at; \
         at = at[len] ? next_name(at + (len) + 1, &(len)) : NULL)

/* The options of a command, its own and those that all have. */
#define EACH_OPTION(command, o)                                                                \
    for (int both = 0; both < 2; both++)                                                       \
        for (const struct option_def *o = both ? output_options : (command)->options; o->name; \
             o++)                                                                              \
            if (o->kind != OPTION_GROUP)

static void put_text(const char *text, const char *escaped, const char *by)
{
    for (; *text; text++) {
        if (strchr(escaped, *text)) fputs(by, stdout);
        putchar(*text);
    }
}

/* In single quotes, where nothing but themselves needs care. */
static void put_quoted(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'') fputs("'\\'", stdout);
        putchar(*text);
    }
}

static const char *dashes(size_t len) { return len == 1 ? "-" : "--"; }

static void print_bash(const struct command *const *commands, int n)
{
    size_t len;
    printf("# bash completion of sparsegauge %s, by `sparsegauge completion bash`\n"
           "_sparsegauge()\n{\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} options=\n"
           "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
           "        COMPREPLY=($(compgen -W '",
        SG_VERSION);
    for (int i = 0; i < n; i++) printf("%s ", commands[i]->name);
    printf("help completion' -- \"$word\"))\n        return\n    fi\n"
           "    case ${COMP_WORDS[1]} in\n");
    for (int i = 0; i < n; i++) {
        printf("    %s) options='", commands[i]->name);
        EACH_OPTION(commands[i], o)
        {
            EACH_NAME(o, at, len) printf("%s%.*s ", dashes(len), (int)len, at);
        }
        printf("-h --help' ;;\n");
    }
    printf("    completion) COMPREPLY=($(compgen -W 'bash zsh fish man' -- \"$word\")); return ;;\n"
           "    esac\n"
           "    case $word in\n"
           "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
           "    esac\n"
           "}\n"
           "complete -o default -F _sparsegauge sparsegauge\n");
}

static void print_zsh(const struct command *const *commands, int n)
{
    size_t len;
    printf("#compdef sparsegauge\n# by `sparsegauge completion zsh`, version %s\n"
           "_sparsegauge()\n{\n"
           "    local -a commands\n    commands=(\n",
        SG_VERSION);
    for (int i = 0; i < n; i++) {
        printf("        '%s:", commands[i]->name);
        put_quoted(commands[i]->summary);
        printf("'\n");
    }
    printf("        'help:how a command is called'\n"
           "        'completion:what a shell needs to complete command lines'\n"
           "    )\n"
           "    if (( CURRENT == 2 )); then\n"
           "        _describe command commands\n        return\n    fi\n"
           "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n"
           "    case $command in\n");
    for (int i = 0; i < n; i++) {
        printf("    %s) _arguments", commands[i]->name);
        EACH_OPTION(commands[i], o)
        {
            EACH_NAME(o, at, len)
            {
                printf(" \\\n        '%s%.*s[", dashes(len), (int)len, at);
                for (const char *p = o->help; *p; p++) {
                    if (strchr("[]:\\", *p)) putchar('\\');
                    if (*p == '\'') fputs("'\\'", stdout);
                    putchar(*p);
                }
                putchar(']');
                if (o->kind != OPTION_FLAG) {
                    putchar(':');
                    put_text(o->value ? o->value : "VALUE", "[]:\\", "\\");
                    fputs(":_files", stdout);
                }
                putchar('\'');
            }
        }
        printf(" \\\n        '(- *)'{-h,--help}'[explain the command]'"
               " \\\n        '*:file:_files' ;;\n");
    }
    printf("    completion) _values shell bash zsh fish man ;;\n"
           "    esac\n}\n_sparsegauge \"$@\"\n");
}

static void print_fish(const struct command *const *commands, int n)
{
    size_t len;
    printf("# by `sparsegauge completion fish`, version %s\n", SG_VERSION);
    for (int i = 0; i < n; i++) {
        printf("complete -c sparsegauge -n __fish_use_subcommand -f -a %s -d '", commands[i]->name);
        put_text(commands[i]->summary, "'\\", "\\");
        printf("'\n");
    }
    printf("complete -c sparsegauge -n __fish_use_subcommand -f -a help -d 'how a command is "
           "called'\n"
           "complete -c sparsegauge -n __fish_use_subcommand -f -a completion -d 'what a shell "
           "needs to complete command lines'\n"
           "complete -c sparsegauge -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh "
           "fish man'\n"
           "complete -c sparsegauge -n 'not __fish_use_subcommand' -s h -l help -d 'explain the "
           "command'\n");
    for (int i = 0; i < n; i++) EACH_OPTION(commands[i], o)
        {
            printf(
                "complete -c sparsegauge -n '__fish_seen_subcommand_from %s'", commands[i]->name);
            EACH_NAME(o, at, len) printf(" -%c %.*s", len == 1 ? 's' : 'l', (int)len, at);
            printf("%s -d '", o->kind == OPTION_FLAG ? "" : " -r");
            put_text(o->help, "'\\", "\\");
            printf("'\n");
        }
}

/* Text of a man page: what would be read as a request or a font is not. */
static void put_roff(const char *text)
{
    bool begins = true;
    for (; *text; text++) {
        if (begins && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
        if (*text == '\\') fputs("\\e", stdout);
        else if (*text == '-') fputs("\\-", stdout);
        else putchar(*text);
        begins = *text == '\n';
    }
}

static void print_man_options(const struct option_def *options)
{
    size_t len;
    for (const struct option_def *o = options; o->name; o++) {
        if (o->kind == OPTION_GROUP) {
            printf(".PP\n");
            put_roff(o->name);
            printf(":\n");
            continue;
        }
        printf(".TP\n");
        bool first = true;
        EACH_NAME(o, at, len)
        {
            char name[64];
            snprintf(name, sizeof name, "%s%.*s", dashes(len), (int)len, at);
            printf(first ? "\\fB" : ", \\fB");
            put_roff(name);
            printf("\\fR");
            first = false;
        }
        if (o->kind != OPTION_FLAG) {
            printf(" \\fI");
            put_roff(o->value ? o->value : "VALUE");
            printf("\\fR");
        }
        putchar('\n');
        put_roff(o->help);
        putchar('\n');
    }
}

static void print_man(const struct command *const *commands, int n)
{
    printf(".\\\" by `sparsegauge completion man`\n"
           ".TH SPARSEGAUGE 1 \"\" \"sparsegauge %s\" \"User Commands\"\n"
           ".SH NAME\nsparsegauge \\- what block\\-sparse attention costs a LLaMA model, and what "
           "it buys\n"
           ".SH SYNOPSIS\n.B sparsegauge\n.I COMMAND\n[arguments]\n"
           ".SH COMMANDS\n",
        SG_VERSION);
    for (int i = 0; i < n; i++) {
        const struct command *c = commands[i];
        printf(".SS \"sparsegauge ");
        for (const char *p = c->help.usage; *p; p++) {
            if (*p == '"') fputs("\\(dq", stdout);
            else if (*p == '-') fputs("\\-", stdout);
            else putchar(*p);
        }
        printf("\"\n");
        put_roff(c->help.text);
        printf("\n");
        print_man_options(c->options);
        print_man_options(output_options);
        printf(".PP\nExample:\n.PP\n.EX\n");
        put_roff(c->help.example);
        printf("\n.EE\n");
    }
    printf(".SH EXIT STATUS\n"
           "0 pass, 1 a bound was broken, 2 the command line makes no sense, 3 a run failed, 4 "
           "ambiguous or\n"
           "nothing sparse was measured, 130 and 143 after SIGINT and SIGTERM.\n"
           ".SH FILES\n.TP\n.I ../share/sparsegauge/model\nbeside the program: the bundled model\n"
           ".TP\n.I sparsegauge.db\nresults, in the working directory unless \\-\\-db says "
           "otherwise\n");
}

enum status completion_print(const struct command *const *commands, int n, const char *what)
{
    if (strcmp(what, "bash") == 0) print_bash(commands, n);
    else if (strcmp(what, "zsh") == 0) print_zsh(commands, n);
    else if (strcmp(what, "fish") == 0) print_fish(commands, n);
    else if (strcmp(what, "man") == 0) print_man(commands, n);
    else return fail(ERR_ARG, "completion: found \"%s\", expected bash, zsh, fish or man", what);
    return OK;
}
