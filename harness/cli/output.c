#include "harness/cli/output.h"

#include "base/file.h"
#include "base/text.h"
#include "base/utf8.h"
#include "version.h"

#include <assert.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { WITHOUT_A_TERMINAL = 120, SCHEMA_VERSION = 1 };

enum { MAX_MEMBERS = 16 };
struct member {
    const char *name;
    bool object;
    struct str rows;
};

static struct {
    const char *format_name;
    bool all_columns;
    enum table_format format;
    const char *command, *called_as; /* called_as: NULL where a shell finds it by its name */
    bool dropped,
        printed; /* printed: something stands above, so that a table wants an empty line */
    struct member members[MAX_MEMBERS];
    int n_members;
} out = {.format_name = "terminal"};

const struct option_def output_options[] = {
    {"Output", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"format", OPTION_TEXT, &out.format_name, "NAME",
        "terminal, json, jsonl, csv, md, latex or html (terminal)", 0, 0},
    {"all-columns", OPTION_FLAG, &out.all_columns, NULL, "also columns that hold one value only", 0,
        0},
    {0},
};

int output_width(void)
{
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    int asked = columns ? atoi(columns) : 0;
    if (asked >= 20) return asked;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20)
        return size.ws_col;
    return WITHOUT_A_TERMINAL;
}

bool output_is_ascii(void)
{
    static int ascii = -1;
    if (ascii < 0) {
        locale_t locale =
            newlocale(LC_CTYPE_MASK, "", (locale_t)0); /* numbers stay as the program writes them */
        ascii = !locale || strcmp(nl_langinfo_l(CODESET, locale), "UTF-8") != 0;
        if (locale) freelocale(locale);
    }
    return ascii;
}

bool for_people(void) { return out.format == TABLE_TERMINAL; }

void output_called_as(const char *program)
{
    out.called_as = strchr(program, '/') ? program : NULL;
}

enum status output_begin(const char *command)
{
    out.command = command;
    return table_format_parse(out.format_name, &out.format);
}

void output_begin_refused(const char *command, int argc, char **argv)
{
    const char *said = NULL;
    for (int i = 0; i < argc; i++)
        if (str_starts_with(argv[i], "--format=")) said = argv[i] + strlen("--format=");
        else if (!strcmp(argv[i], "--format") && i + 1 < argc) said = argv[i + 1];
    out.command = command;
    if (said && !strcmp(said, "json")) out.format = TABLE_JSON;
}

enum status output_check(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    if (!slash || slash == path) return OK;
    char *dir = str_format("%.*s", (int)(slash - path), path);
    enum status st = file_is_dir(dir)
        ? OK
        : fail(ERR_IO, "%s: the directory %s does not exist; make it first", path, dir);
    free(dir);
    return st;
}

void output_drop(void) { out.dropped = true; }

static void members_to_json(struct str *doc)
{
    for (int i = 0; i < out.n_members; i++) {
        const struct member *m = &out.members[i];
        str_addf(doc, m->object ? ",\n\"%s\": %s" : ",\n\"%s\": [%s]", m->name, str_get(&m->rows));
    }
}

/* The first table, or the first object. */
static const char *member_for_csv(void)
{
    for (int object = 0; object < 2; object++)
        for (int i = 0; i < out.n_members; i++)
            if (out.members[i].object == object) return str_get(&out.members[i].rows);
    return "";
}

void output_end(enum status st, int exit_code)
{
    if (out.dropped || !out.command) return;
    struct str doc = {0};
    if (out.format == TABLE_CSV) str_add(&doc, member_for_csv());
    if (out.format == TABLE_JSON) {
        str_addf(&doc, "{\"command\": \"%s\", \"schema_version\": %d, \"version\": \"%s\"",
            out.command, SCHEMA_VERSION, SG_VERSION);
        members_to_json(&doc);
        if (st != OK) {
            str_addf(&doc, ",\n\"error\": {\"status\": \"%s\", \"message\": ", status_name(st));
            json_text_add(status_message(), &doc);
            str_add_char(&doc, '}');
        }
        str_addf(&doc, ",\n\"exit_code\": %d}\n", exit_code);
    }
    utf8_repair_in(&doc, 0);
    fwrite(str_get(&doc), 1, doc.len, stdout);
    str_clear(&doc);
    for (int i = 0; i < out.n_members; i++) str_clear(&out.members[i].rows);
    out.command = NULL;
}

static void put(FILE *to, const char *text, bool wrapped)
{
    struct str raw = {0}, shown = {0}, lines = {0};
    utf8_repair(&raw, text,
        strlen(text)); /* names and paths may hold any bytes; none of them moves the cursor */
    for (size_t i = 0; i < raw.len; i++)
        if ((unsigned char)raw.data[i] < 0x20 && raw.data[i] != '\n' && raw.data[i] != '\t')
            raw.data[i] = '?';
    if (output_is_ascii()) text_ascii(str_get(&raw), &shown);
    else str_add(&shown, str_get(&raw));
    text_wrap(str_get(&shown), wrapped ? (size_t)output_width() : 0, 2, &lines);
    fputs(str_get(&lines), to);
    fflush(to);
    str_clear(&raw);
    str_clear(&shown);
    str_clear(&lines);
}

static void put_formatted(FILE *to, bool wrapped, const char *format, va_list args)
{
    struct str text = {0};
    str_addv(&text, format, args);
    put(to, str_get(&text), wrapped);
    str_clear(&text);
}

void say(const char *format, ...)
{
    va_list args;
    if (!for_people()) return;
    out.printed = true;
    va_start(args, format);
    put_formatted(stdout, true, format, args);
    va_end(args);
}

void say_command(const char *format, ...)
{
    static const char name[] = "sparsegauge ";
    va_list args;
    struct str text = {0}, lines = {0};
    if (!for_people()) return;
    out.printed = true;
    va_start(args, format);
    str_addv(&text, format, args);
    va_end(args);
    for (const char *p = str_get(&text); *p;) {
        size_t blanks = strspn(p, " ");
        str_add_bytes(&lines, p, blanks);
        p += blanks;
        if (out.called_as && str_starts_with(p, name)) {
            str_add(&lines, out.called_as);
            p += strlen(name) - 1;
        }
        size_t rest = strcspn(p, "\n");
        rest += p[rest] == '\n';
        str_add_bytes(&lines, p, rest);
        p += rest;
    }
    put(stdout, str_get(&lines), false);
    str_clear(&lines);
    str_clear(&text);
}

void remark(const char *format, ...)
{
    va_list args;
    fputs("sparsegauge: ", stderr);
    va_start(args, format);
    put_formatted(stderr, false, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static struct member *member_of(const char *name, bool object)
{
    for (int i = 0; i < out.n_members; i++)
        if (strcmp(out.members[i].name, name) == 0) return &out.members[i];
    assert(out.n_members < MAX_MEMBERS);
    struct member *m = &out.members[out.n_members++];
    *m = (struct member){.name = name, .object = object};
    return m;
}

static void collect(const char *name, struct table *t, bool object)
{
    struct member *m = member_of(name, object);
    bool first = !m->rows.len;
    if (out.format == TABLE_CSV) {
        struct str text = {0};
        table_render(t, TABLE_CSV, (struct table_style){0}, &text);
        const char *rows = str_get(&text),
                   *below = strstr(rows, "\r\n"); /* names are no texts with line ends */
        str_add(&m->rows, first || !below ? rows : below + 2);
        str_clear(&text);
        return;
    }
    for (size_t i = 0; i < table_rows(t); i++) {
        if (out.format == TABLE_JSON) {
            if (!object) str_add(&m->rows, m->rows.len ? ",\n  " : "\n  ");
            table_row_json(t, i, NULL, &m->rows);
        } else { /* a line as soon as it is known */
            struct str line = {0};
            table_row_json(t, i, name, &line);
            utf8_repair_in(&line, 0);
            printf("%s\n", str_get(&line));
            fflush(stdout);
            str_clear(&line);
        }
    }
}

static bool for_programs(void)
{
    return out.format == TABLE_CSV || out.format == TABLE_JSON || out.format == TABLE_JSONL;
}

static void print(const char *name, struct table *t, bool object)
{
    if (for_programs()) {
        collect(name, t, object);
    } else {
        struct str text = {0};
        struct table_style style = {.hide_constant = !out.all_columns,
            .color = isatty(STDOUT_FILENO) && !getenv("NO_COLOR"),
            .ascii = output_is_ascii(),
            .width = output_width(),
            .upright = object};
        if (out.printed) str_add_char(&text, '\n');
        table_render(t, out.format, style, &text);
        fputs(str_get(&text), stdout);
        str_clear(&text);
        out.printed = true;
    }
    table_free(&t);
}

void print_table(const char *name, struct table *t) { print(name, t, false); }
void print_object(const char *name, struct table *t) { print(name, t, true); }

void data_table(const char *name, struct table *t)
{
    if (for_programs()) collect(name, t, false);
    table_free(&t);
}

void data_object(const char *name, struct table *t)
{
    if (for_programs()) collect(name, t, true);
    table_free(&t);
}

static void field_add(
    struct table *t, const char *key, const char *label, enum table_number number, int digits)
{
    table_add_column(t,
        (struct table_column){.name = label ? label : key,
            .key = key,
            .number = number,
            .digits = digits,
            .audience = label ? FOR_ALL : FOR_PROGRAMS});
}

void field_text(struct table *t, const char *key, const char *label, const char *value)
{
    field_add(t, key, label, NUMBER_FIXED, 0);
    table_text(t, value);
}

void field_count(struct table *t, const char *key, const char *label, int64_t value)
{
    bool bytes = str_ends_with(key, "_bytes");
    field_add(t, key, label, bytes ? NUMBER_BYTES : NUMBER_FIXED, bytes ? 1 : 0);
    if (value < 0) table_missing(t);
    else table_int(t, value);
}

void field_real(struct table *t, const char *key, const char *label, double value,
    enum table_number number, int digits)
{
    field_add(t, key, label, number, digits);
    table_real(t, value);
}

void field_bool(struct table *t, const char *key, const char *label, bool value)
{
    field_add(t, key, label, NUMBER_FIXED, 0);
    table_bool(t, value);
}

void say_text_begin(const struct model *m)
{
    struct str begins = {0};
    tokenizer_prefix_text(m->tokenizer, m->bos, &begins);
    say("texts %s\n", str_get(&begins));
    str_clear(&begins);
}

void note_cache(const struct dense_cache *c)
{
    if (c->too_large)
        remark("dense states of %.3g GiB were not kept: the cache in %s holds %.3g GiB; the next "
               "run makes them again",
            (double)c->too_large / 0x1p30, c->dir, (double)c->limit_bytes / 0x1p30);
}
