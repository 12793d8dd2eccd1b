#include "harness/cli/output.h"

#include "base/file.h"
#include "base/utf8.h"
#include "reports/recompute.h"
#include "reports/runjson.h"
#include "reports/tasks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int terminal_width(void)
{
    struct winsize size;
    if (!isatty(STDOUT_FILENO)) return 0;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

enum status print_table(struct table *t, const struct output_options *o)
{
    enum table_format format;
    enum status st = table_format_parse(o->format, &format);
    if (st == OK) {
        struct str out = {0};
        struct table_style style = {
            !o->all_columns, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"), terminal_width()};
        table_render(t, format, style, &out);
        fputs(str_get(&out), stdout);
        str_clear(&out);
    }
    table_free(&t);
    return st;
}

enum status output_check(const struct output_options *o, const char *path)
{
    enum table_format format;
    TRY(table_format_parse(o->format, &format));
    const char *slash = path ? strrchr(path, '/') : NULL;
    if (!slash || slash == path) return OK;
    char *dir = str_format("%.*s", (int)(slash - path), path);
    enum status st = file_is_dir(dir)
        ? OK
        : fail(ERR_IO, "%s: the directory %s does not exist; make it first", path, dir);
    free(dir);
    return st;
}

static void print_or_complain(struct table *t, const struct output_options *o)
{
    if (print_table(t, o) != OK) fprintf(stderr, "sparsegauge: %s\n", status_message());
    putchar('\n');
}

void print_run_summary(const struct run_view *v, const struct output_options *o)
{
    struct str title = {0};
    run_describe(v->run, &title);
    if (strcmp(o->format, "terminal") == 0) {
        char *line = str_format("%s  %s on %s: %s", v->label, v->run->model.name,
                 v->run->dataset.name, str_get(&title)),
             *shown = utf8_shown(line);
        struct str headline = {0};
        run_headline(v, &headline);
        printf("%s\n%s%s\n", shown, str_get(&headline), headline.len ? "\n" : "");
        str_clear(&headline);
        free(line);
        free(shown);
    }
    str_clear(&title);
    print_or_complain(metrics_table(v), o);
    if (strcmp(o->format, "terminal") != 0) return;
    if (v->items.n) print_or_complain(tasks_table(v), o);
    if (v->generations.n) print_or_complain(generations_table(v), o);
    char **warnings = run_warnings(v);
    for (int i = 0; warnings && warnings[i]; i++) printf("note: %s\n", warnings[i]);
    warnings_free(warnings);
}

void print_text_begin(const struct model *m, const struct output_options *o)
{
    struct str begins = {0};
    tokenizer_prefix_text(m->tokenizer, m->bos, &begins);
    if (strcmp(o->format, "terminal") == 0) printf("texts %s\n", str_get(&begins));
    str_clear(&begins);
}

enum status view_source_load(struct view_source *s, const char *db, const char *name)
{
    *s = (struct view_source){0};
    if (str_ends_with(name, ".json")) {
        TRY(runjson_read(&s->view, name));
        enum status st = recompute_check(&s->view);
        if (st != OK) run_view_clear(&s->view);
        return st;
    }
    TRY(store_open(&s->store, db, STORE_READ));
    return run_view_load(&s->view, s->store, name);
}

enum status view_source_floors(
    const struct view_source *s, const char *db, const char *machine, struct noise_list *out)
{
    const struct run_record *r = s->view.run;
    struct store *store = s->store;
    *out = (struct noise_list){0};
    if (!store && !file_exists(db)) return OK;
    if (!store) TRY(store_open(&store, db, STORE_READ));
    enum status st = query_noise(store, machine, r->model.fingerprint, out);
    if (store != s->store) store_close(&store);
    return st;
}

void view_source_clear(struct view_source *s)
{
    run_view_clear(&s->view);
    store_close(&s->store);
}

void note_cache(const struct dense_cache *c)
{
    if (c->too_large)
        fprintf(stderr,
            "sparsegauge: dense states of %.3g GiB were not kept: the cache in %s holds %.3g GiB; "
            "the next run makes "
            "them again\n",
            (double)c->too_large / 0x1p30, c->dir, (double)c->limit_bytes / 0x1p30);
}
