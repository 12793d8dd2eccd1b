#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "base/file.h"
#include "harness/measure/progress.h"
#include "results/query.h"
#include "results/store.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    const char *db;
} o = {
    .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE",
        "the database that takes them in; made when it is not there (sparsegauge.db)", 0, 0},
    {0},
};

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return strcmp(a, b) == 0 ||
        (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev);
}

/* A database that was made for nothing. */
static void remove_empty(struct store **s)
{
    struct run_list runs;
    bool empty = query_runs(*s, &(struct run_filter){.limit = 1}, &runs) == OK && !runs.n;
    run_list_clear(&runs);
    store_close(s);
    static const char *const ends[] = {"", "-wal", "-shm"};
    for (int i = 0; empty && i < 3; i++) {
        char *path = str_format("%s%s", o.db, ends[i]);
        unlink(path);
        free(path);
    }
}

static void show(struct table *files, struct table *cells)
{
    data_table("files", files);
    if (table_rows(cells)) print_table("cells", cells);
    else table_free(&cells);
}

/* Files that are in, and how far the present one is. */
struct merging {
    struct progress progress;
    int n_in;
};

static void tell(void *ctx, double share)
{
    struct merging *m = ctx;
    progress_update(&m->progress, m->n_in + share);
}

static enum status merge_all(const char **files, int n, size_t *n_conflicts)
{
    static const char *const counts[] = {"file", "added", "identical", "completed", "in conflict",
        "other arithmetic"},
                             *const parts[] = {"file", "cell", "kind", "what"};
    struct table *t = table_new(NULL), *cells = table_new(NULL);
    for (int i = 0; i < 6; i++) table_add_column(t, (struct table_column){.name = counts[i]});
    for (int i = 0; i < 4; i++) table_add_column(cells, (struct table_column){.name = parts[i]});
    table_keep_constant(t);
    table_keep_constant(cells);
    struct store *s = NULL;
    bool fresh = !file_exists(o.db);
    struct merging at = {.n_in = 0};
    progress_begin(&at.progress, "merge", NULL, n, false);
    enum status st = store_open(&s, o.db, STORE_WRITE);
    for (int i = 0; i < n && st == OK; i++) {
        struct merge_report r;
        if (same_file(files[i], o.db)) {
            st = fail(ERR_ARG,
                "merge: %s is the database that takes the others in; name it with --db alone",
                o.db);
            break;
        }
        st = store_merge(s, files[i], &(struct merge_watch){tell, &at}, &r);
        if (st != OK) break;
        progress_hide();
        table_text(t, files[i]);
        table_int(t, (int64_t)r.added);
        table_int(t, (int64_t)r.identical);
        table_int(t, (int64_t)r.completed);
        table_int(t, (int64_t)r.conflicting);
        table_int(t, (int64_t)r.other_arithmetic);
        char other[64] = "";
        if (r.other_arithmetic)
            snprintf(other, sizeof other, ", %zu under other arithmetic", r.other_arithmetic);
        say("%s: %zu added, %zu identical, %zu completed, %zu in conflict%s\n", files[i], r.added,
            r.identical, r.completed, r.conflicting, other);
        for (size_t k = 0; k < r.conflicting + r.other_arithmetic; k++) {
            table_text(cells, files[i]);
            table_text(cells, r.conflicts[k].key);
            table_text(cells, r.conflicts[k].arithmetic ? "arithmetic" : "conflict");
            table_text(cells, r.conflicts[k].what);
        }
        *n_conflicts += r.conflicting;
        merge_report_clear(&r);
        progress_update(&at.progress, at.n_in = i + 1);
    }
    progress_end(&at.progress);
    if (st != OK && fresh && s) {
        char *message = str_dup(status_message());
        remove_empty(&s);
        st = fail(st, "%s", message);
        free(message);
    }
    store_close(&s);
    show(t, cells);
    return st;
}

static enum status merge_command(struct command_call *call)
{
    size_t n_conflicts = 0;
    if (!call->n) return fail(ERR_ARG, "merge: which databases? -h shows an example");
    TRY(merge_all(call->positional, call->n, &n_conflicts));
    if (n_conflicts) call->code = EXIT_INVALID;
    return OK;
}

const struct command cmd_merge = {
    .name = "merge",
    .summary = "join databases of shards or machines",
    .help =
        {
            "merge FILE… [--db FILE]",
            "Takes runs, plans, tunings and curves of other databases into one. Equal rows are "
            "kept once; a cell with "
            "two different\n"
            "results is a conflict: the one in --db stays and both are told. Exit code 4: there "
            "were conflicts. Results that differ\n"
            "because another BLAS, processor, GPU or compiler computed them are none: they are "
            "told, within the noise floor\n"
            "or beyond it.",
            "sparsegauge merge --db all.db results.1-of-4.db results.2-of-4.db results.3-of-4.db "
            "results.4-of-4.db",
        },
    .options = options,
    .max_positional = INT_MAX,
    .run = merge_command,
};
