/* How a database bears a large sweep: bench_store [CELLS] [FILE]. Exit code 1 when a bound below is
 * broken.
 *
 * Cells are invented (tests/unit/run_fixture.h) in the shape of a model of 16 layers x 32 heads
 * with 10 samples each, with as many metrics as an evaluation stores. Thresholds are global, as in
 * a sweep of fixed thresholds or of one tuning. */
#include "base/clock.h"
#include "tests/unit/run_fixture.h"

#include <sys/stat.h>

enum { SAMPLES = 10 };
static const double MAX_ANSWER_MS = 200, MAX_INSERT_MS = 5, MAX_SAMPLE_BYTES = 2048;

static bool broken;

static void check(const char *what, double value, double bound, const char *unit)
{
    bool bad = !(value < bound);
    printf("%-44s %10.3f %-6s bound %g%s\n", what, value, unit, bound, bad ? "  BROKEN" : "");
    broken |= bad;
}

static void must(enum status st)
{
    if (st == OK) return;
    fprintf(stderr, "bench_store: %s\n", status_message());
    exit(2);
}

static double ms_since(int64_t t0) { return (double)(clock_ns() - t0) * 1e-6; }

/* The metrics that an evaluation of 2 048 tokens stores: 31 overall, and 5 in each of 4 ranges of
 * positions. */
static void set_metrics(struct fixture *f, double error)
{
    static const char *const overall[] = {"cosine_centred", "nll_dense", "nll_sparse", "top1",
        "top5", "row_l1", "row_rmse", "row_hidden_cosine", "row_hidden_l1", "ppl_diff",
        "score_dense", "score_sparse", "score_drop", "latency_dense", "latency_sparse"};
    static const char *const by_position[] = {"cosine", "kl", "nll_dense", "nll_sparse", "top1"};
    size_t n = 0;
    for (size_t i = 0; i < f->d.n_metrics; i++)
        if (strcmp(f->metrics[i].scope, "overall") == 0) f->metrics[n++] = f->metrics[i];
    for (size_t i = 0; i < sizeof overall / sizeof *overall; i++) {
        size_t k = 0;
        while (k < n && strcmp(f->metrics[k].name, overall[i])) k++;
        if (k < n) continue; /* an invented run has it */
        f->metrics[n++] =
            fixture_metric("overall", overall[i], 20470, 1 - .02 * error, .01 * error, 1);
    }
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < 5; i++) {
            struct metric_record *m = &f->metrics[n++];
            *m =
                fixture_metric(f->scopes[b], by_position[i], 5117, 1 - .02 * error, .01 * error, 1);
            /* as harness/measure/measure.c stores them */
            m->min = m->p0_1 = m->p5 = m->p95 = m->p99_9 = m->max = NAN;
        }
    f->d.n_metrics = n;
}

static void fixture_clear_run(struct fixture *f)
{
    free(f->samples);
    free(f->ledger);
    free(f->layer_errors);
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 10000;
    const char *path = argc > 2 ? argv[2] : "/tmp/bench_store.db";
    char side[256];
    unlink(path);
    for (int i = 0; i < 2; i++) {
        snprintf(side, sizeof side, "%s%s", path, i ? "-shm" : "-wal");
        unlink(side);
    }
    struct store *s;
    must(store_open(&s, path, STORE_WRITE));
    struct planned_cell *cells = calloc((size_t)n, sizeof *cells);
    double worst = 0, total = 0;
    for (int i = 0; i < n; i++) {
        struct fixture f;
        double sparsity = .05 + .85 * i / n,
               error = .1 + 2 * sparsity * sparsity + .3 * ((i * 7919) % 101) / 101.0;
        fixture_run(&f,
            (struct fixture_options){.seed = (uint64_t)i + 1,
                .n_samples = SAMPLES,
                .n_layers = 16,
                .n_heads = 32,
                .sparsity = sparsity,
                .error = error,
                .method = "sparge",
                .rule = "l1"});
        for (size_t l = 0; l < f.d.n_ledger; l++) {
            f.ledger[l].theta = .6;
            f.ledger[l].tau = .98;
            f.ledger[l].lambda = 50;
        }
        f.d.n_layer_errors = 0; /* an evaluation measures none */
        set_metrics(&f, error);
        f.d.run.plan = "scale";
        cells[i] = (struct planned_cell){str_dup(f.key), str_dup(f.slot), str_dup(f.key_json)};
        int64_t t0 = clock_ns();
        must(store_run_put(s, &f.d, false, NULL));
        double ms = ms_since(t0);
        total += ms;
        worst = ms > worst ? ms : worst;
        fixture_clear_run(&f);
    }
    int64_t t0 = clock_ns();
    must(store_plan_put(s, "scale", "{}", cells, (size_t)n));
    printf("%d cells x %d samples; plan stored in %.1f ms\n", n, SAMPLES, ms_since(t0));
    store_close(&s);
    struct stat info;
    stat(path, &info);
    check("insert a cell, mean", total / n, MAX_INSERT_MS, "ms");
    printf("%-44s %10.3f ms\n", "insert a cell, worst", worst);
    check("bytes a cell and sample", (double)info.st_size / n / SAMPLES, MAX_SAMPLE_BYTES, "B");

    must(store_open(&s, path, STORE_READ));
    size_t counts[CELL_MISSING + 1];
    t0 = clock_ns();
    must(query_plan_status(s, "scale", counts));
    check("status", ms_since(t0), MAX_ANSWER_MS, "ms");
    if (counts[CELL_DONE] != (size_t)n)
        must(fail(ERR_DB, "%zu of %d cells are done", counts[CELL_DONE], n));
    struct run_list runs;
    struct frontier_point *points;
    size_t n_points, n_best = 0;
    t0 = clock_ns();
    must(query_runs(s, &(struct run_filter){.done_only = true}, &runs));
    must(query_frontier(&runs, FRONTIER_KL, &points, &n_points));
    check("frontier", ms_since(t0), MAX_ANSWER_MS, "ms");
    for (size_t i = 0; i < n_points; i++) n_best += !points[i].dominated;
    printf("%-44s %10zu\n", "runs on the frontier", n_best);
    free(points);
    run_list_clear(&runs);
    struct run_list best;
    t0 = clock_ns();
    must(query_runs(s, &(struct run_filter){.done_only = true}, &runs));
    must(query_best(s, &runs, false, &(struct best_bounds){.985, .05, NAN, NAN, false}, &best));
    check("best", ms_since(t0), MAX_ANSWER_MS, "ms");
    run_list_clear(&best);
    run_list_clear(&runs);
    store_close(&s);
    for (int i = 0; i < n; i++) {
        free((char *)cells[i].key);
        free((char *)cells[i].slot);
        free((char *)cells[i].key_json);
    }
    free(cells);
    return broken;
}
