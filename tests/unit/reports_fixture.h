/* What the tests of reports/ begin with: a folder, a database in it, and runs to put there. */
#ifndef SG_TESTS_UNIT_REPORTS_FIXTURE_H
#define SG_TESTS_UNIT_REPORTS_FIXTURE_H

#include "base/file.h"
#include "reports/tables.h"
#include "tests/unit/run_fixture.h"

#include <criterion/criterion.h>

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())
#define has(text, part) cr_assert(strstr(text, part), "no \"%s\" in:\n%s", part, text)
#define lacks(text, part) cr_assert(!strstr(text, part), "found \"%s\" in:\n%s", part, text)

static char *dir, *db, *search_path;
static struct store *store;

static inline void set_up(void)
{
    search_path = str_dup(getenv("PATH"));
    dir = dir_make();
    db = path_join(dir, "results.db");
    ok(store_open(&store, db, STORE_WRITE));
}

static inline void tear_down(void)
{
    store_close(&store);
    free(db);
    setenv("PATH", search_path, 1); /* some tests take it away */
    free(search_path);
    dir_remove(dir);
}

static inline struct fixture_options options(uint64_t seed, double sparsity, double error)
{
    return (struct fixture_options){.seed = seed,
        .n_samples = 6,
        .n_layers = 3,
        .n_heads = 4,
        .sparsity = sparsity,
        .error = error,
        .method = "sparge",
        .rule = "l1",
        .tasks = true,
        .latency = true,
        .words = true};
}

static inline void put(struct fixture_options o)
{
    struct fixture f;
    fixture_run(&f, o);
    ok(store_run_put(store, &f.d, false, NULL));
    fixture_clear(&f);
}

/* The dense side of two runs on the same tokens is one and the same. */
static inline void put_pair(double error_before, double error_after)
{
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_run(&f, options((uint64_t)i + 1, .3 + .2 * i, i ? error_after : error_before));
        for (size_t k = 0; k < f.d.n_samples; k++) {
            struct sample_record *s = &f.samples[k];
            double loss = s->nll_sparse_sum - s->nll_dense_sum;
            s->nll_dense_sum = 2047 * (2.4 + .03 * (double)k);
            s->nll_sparse_sum = s->nll_dense_sum + loss;
        }
        ok(store_run_put(store, &f.d, false, NULL));
        fixture_clear(&f);
    }
}

static inline struct run_view view(const char *name)
{
    struct run_view v;
    ok(run_view_load(&v, store, name));
    return v;
}

static inline char *render(struct table *t, enum table_format format, struct table_style style)
{
    struct str out = {0};
    table_render(t, format, style, &out);
    return out.data;
}

static inline size_t size_of(const char *name)
{
    char *path = path_join(dir, name);
    struct str text = {0};
    size_t n = file_read(&text, path) == OK ? text.len : 0;
    str_clear(&text);
    free(path);
    return n;
}

/* How often `part` occurs. */
static inline int occurrences(const char *text, const char *part)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, part)); p += strlen(part)) n++;
    return n;
}

#endif
