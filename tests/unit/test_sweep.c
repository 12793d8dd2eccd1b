/* Sweeps on the bundled model: shared work changes no bit, and nothing is lost or done twice. */
#include "engine/session_backend.h"
#include "harness/measure/evaluate.h"
#include "harness/sweep/sweep.h"
#include "results/query.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MODEL SG_SOURCE_DIR "/suites/demo/model"
#define QUICK " --max-length 512 --num-samples 1 --cache none --threads 1 --shard none "
#define TEN "--layers 4-7,2-7 --simthreshd1 -1 --cdfthreshd .86-.90+.01 "

static char *dir;

static void enter(void)
{
    dir = dir_make();
    cr_assert_eq(chdir(dir), 0);
}

static void leave(void)
{
    cr_assert_eq(chdir("/"), 0);
    dir_remove(dir);
}

TestSuite(sweep, .init = enter, .fini = leave, .timeout = 120);

/* Exit code of "sparsegauge ARGS", its output in out.txt. */
static int tool(const char *verb, const char *args)
{
    char *line = str_format("%s %s %s > out.txt 2>&1", SG_BINARY, verb, args);
    int status = system(line);
    free(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool said(const char *words)
{
    struct str text = {0};
    FILE *f = fopen("out.txt", "r");
    int c;
    while (f && (c = fgetc(f)) != EOF) str_add_char(&text, (char)c);
    if (f) fclose(f);
    bool found = strstr(str_get(&text), words) != NULL;
    if (!found) fprintf(stderr, "not said: %s\n%s\n", words, str_get(&text));
    str_clear(&text);
    return found;
}

static int64_t number(const char *db, const char *sql)
{
    struct store *s;
    struct sql_result r;
    cr_assert_eq(store_open(&s, db, STORE_READ), OK, "%s", status_message());
    cr_assert_eq(query_sql(s, sql, &r), OK, "%s", status_message());
    int64_t n = r.n_rows ? r.cells[0].i : -1;
    sql_result_clear(&r);
    store_close(&s);
    return n;
}

static void same_number(double a, double b, const char *what)
{
    cr_assert(
        memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)), "%s: %.17g and %.17g", what, a, b);
}

static void same_evaluation(const struct evaluation *a, const struct evaluation *b)
{
    size_t n = 0;
    cr_assert_eq(a->data.n_ledger, b->data.n_ledger);
    for (size_t i = 0; i < a->data.n_ledger; i++) {
        const struct ledger_record *x = &a->data.ledger[i], *y = &b->data.ledger[i];
        cr_assert(x->tiles_possible == y->tiles_possible &&
                x->tiles_computed == y->tiles_computed && x->pv_possible == y->pv_possible &&
                x->pv_computed == y->pv_computed && x->calls == y->calls &&
                x->dense_layer == y->dense_layer && x->dense_head == y->dense_head &&
                x->dense_short == y->dense_short && x->forced_sink == y->forced_sink &&
                x->forced_diagonal == y->forced_diagonal,
            "ledger of layer %d, head %d: %lld/%lld tiles and %lld/%lld", x->layer, x->head,
            (long long)x->tiles_computed, (long long)x->tiles_possible,
            (long long)y->tiles_computed, (long long)y->tiles_possible);
    }
    for (size_t i = 0; i < a->data.n_metrics; i++) {
        const struct metric_record *x = &a->data.metrics[i], *y = NULL;
        for (size_t k = 0; k < b->data.n_metrics; k++)
            if (!strcmp(b->data.metrics[k].name, x->name) &&
                !strcmp(b->data.metrics[k].scope, x->scope))
                y = &b->data.metrics[k];
        if (str_starts_with(x->name, "latency")) continue;
        cr_assert_not_null(y, "%s of %s", x->name, x->scope);
        same_number(x->mean, y->mean, x->name);
        same_number(x->min, y->min, x->name);
        same_number(x->p99_9, y->p99_9, x->name);
        n++;
    }
    cr_assert_gt(n, 20);
    for (size_t i = 0; i < a->data.n_samples; i++)
        same_number(a->data.samples[i].nll_sparse_sum, b->data.samples[i].nll_sparse_sum,
            "nll of a sample");
}

Test(sweep, a_shared_dense_pass_changes_no_bit)
{
    struct setup setup;
    struct machine_options machine = MACHINE_DEFAULTS;
    struct sample_options options = SAMPLE_DEFAULTS;
    struct sample_set set;
    struct dense_cache none = {0};
    machine.threads = 1;
    options.max_length = 300; /* no multiple of a block */
    options.num_samples = 2;
    cr_assert_eq(setup_open(&setup, &machine, MODEL), OK, "%s", status_message());
    cr_assert_eq(setup_samples(&setup, &options, 0, false, &set), OK, "%s", status_message());
    const int layers[] = {0, 3, 6};
    const struct block_shape blocks[] = {{128, 64}, {64, 64}};
    static const char *const ranges[] = {"all", "3-7", "4-6", "6", "7", "0+7"};
    static const int starts[] = {0, 3, 3, 6, 6, 0};
    int64_t n_left_out = 0;
    for (int chunk = 0; chunk <= 256; chunk += 256) {
        struct dense_states states;
        cr_assert_eq(dense_states_open(&states,
                         &(struct dense_states_args){.model = &setup.model,
                             .par = setup.par,
                             .set = &set,
                             .cache = &none,
                             .chunk = chunk,
                             .layers = layers,
                             .n_layers = 3,
                             .blocks = blocks,
                             .n_blocks = 2,
                             .budget_bytes = (size_t)1 << 30}),
            OK, "%s", status_message());
        cr_assert_eq(states.n_points, 2);
        /* each range under both blocks, one of them in chunks */
        for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) {
            struct sparse_policy p;
            struct evaluation alone, shared;
            cr_assert_eq(policy_init(&p, &mask_sparge, 8, 4), OK);
            cr_assert_eq(policy_set_layers(&p, ranges[r]), OK);
            p.block = blocks[(r + (chunk > 0)) % 2];
            policy_set_thresholds(&p, -1, .5f, 10);
            struct evaluate_args a = {.model = &setup.model,
                .par = setup.par,
                .set = &set,
                .policy = &p,
                .cache = &none,
                .chunk = chunk,
                .n_worst = 5,
                .quiet = true};
            cr_assert_eq(evaluate(&a, &alone), OK, "%s", status_message());
            a.states = &states;
            cr_assert_eq(evaluate(&a, &shared), OK, "%s", status_message());
            cr_assert_eq(shared.first_layer, starts[r], "layers %s began at %d", ranges[r],
                shared.first_layer);
            same_evaluation(&alone, &shared);
            for (size_t i = 0; i < shared.data.n_ledger; i++)
                n_left_out +=
                    shared.data.ledger[i].tiles_possible - shared.data.ledger[i].tiles_computed;
            for (size_t i = 0; i < shared.data.n_metrics; i++)
                cr_assert(!starts[r] || strcmp(shared.data.metrics[i].name, "latency_sparse"),
                    "half a pass is no latency");
            evaluation_clear(&alone);
            evaluation_clear(&shared);
            policy_clear(&p);
        }
        dense_states_close(&states);
    }
    cr_expect_gt(n_left_out, 100);
    sample_set_clear(&set);
    setup_close(&setup);
}

Test(sweep, streams_are_thinned_out_to_fit)
{
    struct setup setup;
    struct machine_options machine = MACHINE_DEFAULTS;
    struct sample_options options = SAMPLE_DEFAULTS;
    struct sample_set set;
    struct dense_cache none = {0};
    machine.threads = 1;
    options.max_length = 300;
    options.num_samples = 1;
    cr_assert_eq(setup_open(&setup, &machine, MODEL), OK);
    cr_assert_eq(setup_samples(&setup, &options, 0, false, &set), OK);
    const int layers[] = {1, 2, 3, 4, 5, 6, 7};
    const struct block_shape block = {128, 64};
    size_t one = dense_states_bytes(&set, 256, 0);
    for (size_t n = 0; n < 9; n++) {
        struct dense_states s;
        enum status st = dense_states_open(&s,
            &(struct dense_states_args){.model = &setup.model,
                .par = setup.par,
                .set = &set,
                .cache = &none,
                .layers = layers,
                .n_layers = 7,
                .blocks = &block,
                .n_blocks = 1,
                .budget_bytes = n * one + one / 2});
        cr_assert_eq(st, n ? OK : ERR_MEMORY);
        if (n) cr_assert_eq(s.n_points, (int)(n < 8 ? n - 1 : 7));
        if (n > 1) cr_assert_eq(s.points[0], 1); /* the first serves every cell */
        dense_states_close(&s);
    }
    sample_set_clear(&set);
    setup_close(&setup);
}

Test(sweep, cells_equal_single_runs)
{
    cr_assert_eq(
        tool("sweep", MODEL QUICK "--layers 4-7 --simthreshd1 -1 --cdfthreshd .85,.9 --db a.db"),
        0);
    cr_assert_eq(tool("eval",
                     MODEL " --max-length 512 --num-samples 1 --cache none --threads 1 --layers "
                           "4-7 --simthreshd1 -1 "
                           "--cdfthreshd .85 --db b.db"),
        0);
    cr_assert_eq(tool("eval",
                     MODEL " --max-length 512 --num-samples 1 --cache none --threads 1 --layers "
                           "4-7 --simthreshd1 -1 "
                           "--cdfthreshd .9 --db b.db"),
        0);
    cr_assert_eq(tool("merge", "b.db --db a.db"), 0);
    cr_assert(said("0 added, 2 identical, 0 completed, 0 in conflict"));
}

Test(sweep, a_dry_run_leaves_nothing)
{
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--dry-run --db a.db"), 0);
    cr_assert(said("10 cells: 10 would run, 0 are done"));
    cr_assert_neq(access("a.db", F_OK), 0);
}

/* Ends when nobody of the sweep that was started last is left: its workers hold the other end. */
static int somebody = -1;

static pid_t start(const char *args, const char *out)
{
    int ends[2];
    if (somebody >= 0) close(somebody);
    cr_assert_eq(pipe(ends), 0);
    somebody = ends[0];
    fcntl(somebody, F_SETFD, FD_CLOEXEC);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        signal(SIGINT, SIG_DFL); /* which a job in the background inherits ignored */
        char *line = str_format("exec %s sweep %s > %s 2>&1", SG_BINARY, args, out);
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    return pid;
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* A signal of the terminal is waited for: before, it would just end the program. */
static void wait_until_it_listens(pid_t pid)
{
    for (int i = 0; i < 6000; i++) {
        char path[64], line[256];
        unsigned long long caught = 0;
        snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof line, f)) (void)sscanf(line, "SigCgt: %llx", &caught);
        if (f) fclose(f);
        if (caught >> (SIGINT - 1) & 1) return;
        pause_ms(10);
    }
    cr_assert_fail("it never listened to SIGINT");
}

static int64_t finished(const char *db)
{
    if (access(db, F_OK) != 0) return 0;
    struct store *s;
    struct sql_result r;
    int64_t n = 0;
    if (store_open(&s, db, STORE_READ) != OK) return 0;
    if (query_sql(s, "SELECT count(*) FROM run", &r) == OK) {
        n = r.cells[0].i;
        sql_result_clear(&r);
    }
    store_close(&s);
    return n;
}

static void wait_for(const char *db, int64_t n)
{
    for (int i = 0; i < 6000 && finished(db) < n; i++) pause_ms(10);
    cr_assert_geq(finished(db), n);
}

static bool printed(const char *out, const char *words)
{
    char *line = str_format("grep -q '%s' %s", words, out);
    int code = system(line);
    free(line);
    return code == 0;
}

/* A sweep of ten cells into a new a.db that holds still, with its worker, when n are stored and not
 * yet nine: one that was faster than this process is begun again. */
static pid_t caught(const char *out, int64_t n)
{
    for (int i = 0; i < 50; i++) {
        int status;
        cr_assert_eq(system("rm -f a.db*"), 0);
        pid_t pid = start(MODEL QUICK TEN "--db a.db", out);
        wait_for("a.db", n);
        kill(-pid, SIGSTOP);
        if (waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status)) {
            if (finished("a.db") < 9) return pid;
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
        }
    }
    cr_assert_fail("fifty sweeps were too fast");
    return -1;
}

Test(sweep, kill_9_loses_only_the_running_cell)
{
    int status;
    pid_t pid = caught("first.txt", 3);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    cr_assert(WIFSIGNALED(status));
    char none;
    cr_assert_eq(read(somebody, &none, 1), 0); /* its worker goes with it */
    int64_t before = finished("a.db");
    cr_assert(before >= 3 && before < 10, "%lld", (long long)before);
    cr_assert_eq(tool("status", "--db a.db"), 3);
    /* the dead worker's lease is no obstacle */
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db a.db"), 0);
    char words[64];
    snprintf(words, sizeof words, "%d run, %d reused, 0 failed", (int)(10 - before), (int)before);
    cr_assert(said(words));
    cr_assert_eq(tool("status", "--db a.db"), 0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 10);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM lease"), 0);
}

/* The worker is the only child of the process that was started. */
static pid_t worker_of(pid_t parent)
{
    char path[64];
    long child = -1;
    snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", (long)parent, (long)parent);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%ld", &child) != 1) child = -1;
    if (f) fclose(f);
    return (pid_t)child;
}

Test(sweep, a_crash_becomes_a_row_and_the_sweep_goes_on)
{
    int status;
    for (int i = 0; i < 50 && (i == 0 || printed("out.txt", "outside of any cell")); i++) {
        pid_t pid = caught("out.txt", 2), worker = worker_of(pid);
        if (worker < 0) {
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
            cr_skip_test("this kernel does not list children");
        }
        kill(worker, SIGSEGV);
        kill(-pid, SIGCONT);
        waitpid(pid, &status, 0);
    }
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 3, "%d", status);
    cr_assert(said("crashed: signal 11"));
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 9);
    cr_assert_eq(number("a.db",
                     "SELECT count(*) FROM run WHERE status = 'failed' AND reason LIKE 'crashed%'"),
        1);
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db a.db"), 3);
    cr_assert(said("0 run, 9 reused, 1 failed"));
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--retry-failed --db a.db"), 0);
    cr_assert(said("1 run, 9 reused"));
}

Test(sweep, a_cell_that_fails_is_a_row_with_its_reason)
{
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK "--suite text:later.txt --suite chronicle --method window:256 --db a.db"),
        3);
    cr_assert(said("later.txt"));
    cr_assert(said("partial"));
    cr_assert_eq(
        number("a.db",
            "SELECT count(*) FROM run WHERE status = 'failed' AND reason LIKE '%later.txt%'"),
        1);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 1);
    FILE *f = fopen("later.txt", "w");
    for (int i = 0; i < 400; i++)
        fprintf(f, "The clock of the town struck %d and nobody came. ", i);
    fclose(f);
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK "--suite text:later.txt --suite chronicle --method window:256 --db a.db"),
        0);
    cr_assert(said("1 run, 1 reused"));
    f = fopen("later.txt", "a");
    fprintf(f, "And then somebody came after all, which changes everything.");
    for (int i = 0; i < 400; i++) fprintf(f, " The clock struck %d.", i);
    fclose(f);
    f = fopen("later.txt", "r+"); /* the first window is another one now */
    fputs("One", f);
    fclose(f);
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK
            "--suite text:later.txt --suite chronicle --method window:256 --dry-run --db a.db"),
        0);
    cr_assert(said("1 would run, 1 are done, 1 are stale"));
}

/* whole_group: as timeout(1) does it, the process and then, with its worker, its group; again where
 * the second came so late that it was a wish of its own. */
static void stop_in_time(bool whole_group)
{
    int status;
    for (int i = 0; i < 50 && (i == 0 || printed("out.txt", "stopped at once")); i++) {
        pid_t pid = caught("out.txt", 2);
        kill(pid, whole_group ? SIGINT : SIGTERM);
        kill(-pid, SIGCONT);
        pause_ms(5);
        if (whole_group) kill(-pid, SIGINT);
        waitpid(pid, &status, 0);
    }
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == (whole_group ? 130 : 143), "%d", status);
    cr_assert(said("the same command goes on from here"));
    cr_assert_eq(number("a.db", "SELECT count(*) FROM lease"), 0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status <> 'done'"), 0);
}

Test(sweep, an_interrupt_from_the_terminal_counts_once) { stop_in_time(true); }

Test(sweep, a_second_interrupt_ends_it_at_once)
{
    int status;
    pid_t pid = start(MODEL QUICK TEN "--repeat 50 --db a.db", "out.txt");
    wait_for("a.db", 1);
    pid_t worker = worker_of(pid);
    if (worker > 0) kill(worker, SIGSTOP); /* it answers no wish */
    /* two that it has not heard yet are one */
    for (int i = 0; i < 200 && worker > 0 && waitpid(pid, &status, WNOHANG) == 0; i++) {
        kill(pid, SIGINT);
        pause_ms(300);
    }
    if (worker <= 0) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    if (worker <= 0) cr_skip_test("this kernel does not list children");
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 130, "%d", status);
    cr_assert(said("stopped at once"));
}

Test(sweep, stops_on_request_and_goes_on)
{
    stop_in_time(false);
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db a.db"), 0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 10);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* At any moment: before the program listens it dies of it, and then it stops in time. */
Test(sweep, no_signal_is_lost, .timeout = 280)
{
    for (int i = 0; i < 14; i++) {
        int status;
        pid_t pid = start(MODEL QUICK TEN "--repeat 50 --db a.db", "out.txt");
        pause_ms(i < 7 ? 2 * i : 12 * i);
        double t0 = seconds();
        kill(pid, i % 2 ? SIGINT : SIGTERM);
        waitpid(pid, &status, 0);
        double waited = seconds() - t0;
        int number = WIFEXITED(status) ? WEXITSTATUS(status) - 128 : WTERMSIG(status);
        cr_assert_eq(number, i % 2 ? SIGINT : SIGTERM, "try %d: status %d", i, status);
        cr_assert_lt(waited, 60, "try %d took %.1f s", i, waited);
    }
    if (access("a.db", F_OK) == 0) cr_assert_eq(number("a.db", "SELECT count(*) FROM lease"), 0);
}

Test(sweep, planning_answers_a_signal)
{
    int status;
    pid_t pid =
        start(MODEL QUICK "--simthreshd1 -1-1+.001 --cdfthreshd .5-.9+.001 --dry-run --db a.db",
            "out.txt");
    wait_until_it_listens(pid);
    pause_ms(300);
    double t0 = seconds();
    kill(pid, SIGINT);
    waitpid(pid, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 130, "%d", status);
    cr_assert_lt(seconds() - t0, 60); /* without an answer: ten minutes */
    cr_assert(said("stopped on request"));
}

Test(sweep, null_runs_give_the_floor)
{
    cr_assert_eq(tool("sweep", MODEL QUICK "--method window:256 --noise-floor --db a.db"), 0);
    cr_assert_geq(number("a.db", "SELECT count(DISTINCT source) FROM noise"), 2);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM noise WHERE value < 0 OR value > .001"), 0);
    cr_assert_eq(
        number("a.db", "SELECT count(*) FROM noise WHERE source = 'threads' AND value <> 0"), 0);
}

Test(sweep, layers_are_ranked_by_what_they_cost)
{
    cr_assert_eq(tool("sweep",
                     MODEL QUICK
                     "--method topk:.3 --simthreshd1 -1 --layers each,all-but-each,all --db a.db"),
        0);
    cr_assert(said("Error by layer and head"));
    cr_assert(said("all but it"));
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 17);
}

Test(sweep, what_does_not_fit_is_skipped_with_the_sizes)
{
    cr_assert_eq(tool("sweep", MODEL QUICK "--method window:256 --max-memory .0001 --db a.db"), 3);
    cr_assert(said("does not fit: needs"));
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'skipped'"), 1);
    cr_assert_eq(tool("sweep", MODEL QUICK "--method window:256 --db a.db"), 3);
    cr_assert(said("0 run, 0 reused, 0 failed, 1 skipped"));
    cr_assert_eq(tool("sweep", MODEL QUICK "--method window:256 --retry-failed --db a.db"), 0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 1);
}

/* What is asked to be kept is there afterwards, also when the cell was stored before. */
Test(sweep, what_is_to_be_kept_is_made_or_told)
{
    static const char grid[] = MODEL QUICK "--method window:64,window:128,dense --db a.db ";
    char line[512];
    cr_assert_eq(tool("sweep", grid), 0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM token_block"), 0);
    snprintf(line, sizeof line, "%s--keep-tokens", grid);
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("3 run, 0 reused"));
    cr_assert_eq(number("a.db", "SELECT count(*) FROM token_block"), 3);
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("0 run, 3 reused"));
    snprintf(line, sizeof line, "%s--keep-tokens --keep-masks", grid);
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("2 run, 1 reused"));
    snprintf(line, sizeof line, "%s--worst 50", grid);
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("fewer than 50 worst tokens; --replace runs them again"));
    pause_ms(1100);
    snprintf(line, sizeof line, "%s--worst 50 --replace --device cpu,cpu", grid);
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("3 run, 0 reused"));
    cr_assert_eq(number("a.db",
                     "SELECT min(n) FROM (SELECT count(*) AS n FROM worst_token w JOIN run r ON "
                     "r.id = w.run "
                     "WHERE r.method <> 'dense' GROUP BY run)"),
        50);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run"), 3);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM lease"), 0);
    cr_assert_eq(tool("eval",
                     MODEL " --max-length 512 --num-samples 1 --cache none --threads 1 --window 64 "
                           "--db a.db --worst 60"),
        0);
    cr_assert(said("the stored run has 50 worst tokens, not 60"));
    cr_assert_eq(tool("eval",
                     MODEL " --max-length 512 --num-samples 1 --cache none --threads 1 --window 64 "
                           "--db a.db --keep-tokens"),
        0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM token_block"), 1);
}

Test(sweep, the_command_line_beats_the_plan_file)
{
    FILE *f = fopen("plan.json", "w");
    fputs("{\"name\": \"grid\", \"seed\": 1, \"num_samples\": 2, \"repeat\": 2, \"max_length\": "
          "512, \"method\": \"window:64\"}",
        f);
    fclose(f);
    cr_assert_eq(tool("sweep",
                     MODEL " --plan plan.json --seed 7 --name mine --repeat 1 --cache none "
                           "--threads 1 --shard none --db a.db"),
        0);
    cr_assert(said("name, seed, repeat of the command line, not of plan.json"));
    cr_assert(said("plan mine in a.db"));
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE seed = 7 AND num_samples = 2"), 1);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run"), 1);
}

Test(sweep, other_bounds_need_no_new_curves)
{
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK "--layers 6-7 --num-tune-samples 1 --held-out 1 --l1 .06,.3 --db a.db"),
        0);
    cr_assert(said("2 bounds: 8 curves made on cpu, 0 reused"));
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK "--layers 6-7 --num-tune-samples 1 --held-out 1 --l1 .06,.2,.3 --db a.db"),
        0);
    cr_assert(said("1 bounds: 0 curves made on cpu, 8 reused"));
    cr_assert(said("1 run, 2 reused"));
    cr_assert_eq(
        number("a.db",
            "SELECT count(*) FROM run r JOIN tuned t ON t.hash = r.tuned_hash WHERE r.l1 = t.l1"),
        3);
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK "--layers 6-7 --num-tune-samples 1 --held-out 1 --l1 .3 --db b.db"),
        0);
    cr_assert_eq(tool("merge", "b.db --db a.db"),
        0); /* tuned with other bounds beside or alone: the same thresholds */
    cr_assert(said("0 added, 1 identical"));
}

/* False: another process writes, and went on doing so for that long. */
static bool sql_within(int ms, const char *db, const char *text)
{
    sqlite3 *raw;
    char *why = NULL;
    cr_assert_eq(sqlite3_open(db, &raw), SQLITE_OK);
    sqlite3_busy_timeout(raw, ms);
    int code = sqlite3_exec(raw, text, NULL, NULL, &why);
    cr_assert(code == SQLITE_OK || code == SQLITE_BUSY, "%s: %s", text, why);
    sqlite3_free(why);
    sqlite3_close(raw);
    return code == SQLITE_OK;
}

static void sql(const char *db, const char *text) { cr_assert(sql_within(60000, db, text)); }

static void ends_well(pid_t pid, const char *out)
{
    int status;
    waitpid(pid, &status, 0);
    char *show = str_format("cp %s out.txt", out);
    cr_assert_eq(system(show), 0);
    free(show);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) said("(all of it)");
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", status);
    cr_assert(said("0 failed"));
}

/* Results of all its cells arrive while it works: it takes them. */
Test(sweep, a_merge_into_a_running_sweep_is_good_news)
{
    static const char *const grids[] = {TEN,
        "--layers 6-7 --num-tune-samples 1 --held-out 1 --l1 .06,.1,.14,.2,.3 ",
        TEN "--device cpu,cpu "};
    for (int i = 0; i < 3; i++) {
        int whole = i % 2; /* the first and the last have the same cells */
        char *args = str_format(MODEL QUICK "%s--db whole%d.db", grids[whole], whole);
        if (whole == i) cr_assert_eq(tool("sweep", args), 0);
        free(args);
        args = str_format(MODEL QUICK "%s--db a%d.db", grids[i], i);
        char *db = str_format("a%d.db", i), *merge = str_format("whole%d.db --db a%d.db", whole, i);
        pid_t pid = start(args, "first.txt");
        wait_for(db, 1);
        cr_assert_eq(tool("merge", merge), 0);
        ends_well(pid, "first.txt");
        free(args);
        free(db);
        free(merge);
    }
}

/* The key is the question: the same bytes in another place are no other question. */
Test(sweep, names_and_paths_are_no_part_of_the_key)
{
    FILE *f = fopen("w.txt", "w");
    for (int i = 0; i < 900; i++)
        fprintf(f, "The clock of the town struck %d and nobody came. ", i);
    fclose(f);
    static const char grid[] =
        " --max-length 512 --num-samples 1 --cache none --threads 1 --shard none --layers 6-7 "
        "--num-tune-samples 1 --held-out 1 --l1 .3 --db a.db ";
    cr_assert_eq(system("mkdir staged; cp w.txt staged/other.txt; cp -r " MODEL " renamed"), 0);
    const char *const places[][2] = {{MODEL, "text:w.txt"}, {MODEL, "text:./w.txt"},
        {MODEL, "text:staged/other.txt"}, {"renamed", "text:w.txt"}};
    for (int i = 0; i < 4; i++) {
        char *line = str_format("%s%s--suite %s", places[i][0], grid, places[i][1]);
        cr_assert_eq(tool("sweep", line), 0);
        cr_assert(said(i ? "0 run, 1 reused" : "1 run, 0 reused"), "%s on %s", places[i][1],
            places[i][0]);
        free(line);
        cr_assert_eq(tool("status", "--db a.db"), 0);
    }
    cr_assert_eq(number("a.db", "SELECT count(*) FROM tuned"), 1);
    cr_assert_eq(
        tool("sweep",
            "renamed --max-length 512 --num-samples 1 --cache none --threads 1 --shard none "
            "--simthreshd1 -0,0 --db b.db"),
        0);
    cr_assert(said("1 run, 0 reused"));
}

/* Put to sleep until its lease has run out, and overtaken. */
Test(sweep, a_worker_that_was_asleep_goes_on)
{
    pid_t pid = start(MODEL QUICK TEN "--db a.db", "first.txt");
    wait_for("a.db", 2);
    kill(-pid, SIGSTOP);
    while (!sql_within(100, "a.db", "UPDATE lease SET expires = 0")) { /* it fell asleep writing */
        kill(-pid, SIGCONT);
        pause_ms(3);
        kill(-pid, SIGSTOP);
    }
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db a.db"), 0);
    kill(-pid, SIGCONT);
    ends_well(pid, "first.txt");
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 10);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM lease"), 0);
}

static int cells_told(const char *file)
{
    int n = -1;
    char *line = str_format("grep -c '^\\[' %s", file);
    FILE *f = popen(line, "r");
    cr_assert(f && fscanf(f, "%d", &n) == 1);
    pclose(f);
    free(line);
    return n;
}

/* Two containers of one host name see different processes under the same numbers. */
Test(sweep, a_live_lease_of_another_namespace_is_not_taken)
{
    if (system("unshare -p -f --mount-proc true 2> /dev/null") != 0)
        cr_skip_test("may not make PID namespaces");
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        char *out = str_format("%d.txt", i);
        pids[i] = fork();
        if (pids[i] == 0) {
            char *line = str_format("exec unshare -p -f --mount-proc %s sweep " MODEL QUICK TEN
                                    "--db a.db > %s 2>&1",
                SG_BINARY, out);
            execl("/bin/sh", "sh", "-c", line, (char *)NULL);
            _exit(127);
        }
        free(out);
    }
    ends_well(pids[0], "0.txt");
    ends_well(pids[1], "1.txt");
    cr_assert_eq(cells_told("0.txt") + cells_told("1.txt"), 10);
}

/* SQLite would go on writing where nobody looks. */
Test(sweep, a_database_that_goes_away_ends_the_sweep)
{
    static const struct {
        const char *change, *says, *where;
    } cases[] = {
        {"mv a.db elsewhere.db; mv a.db-wal elsewhere.db-wal; mv a.db-shm elsewhere.db-shm",
            "moved or replaced", "elsewhere.db"},
        {"rm a.db", "deleted or replaced", "a.db.rescued-*"},
        {"cp a.db b.db; mv b.db a.db", "deleted or replaced", "a.db.rescued-*"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status;
        cr_assert_eq(system("rm -f elsewhere.db*"), 0);
        pid_t pid = caught("out.txt", 2); /* or it sees the first of three files gone */
        cr_assert_eq(system(cases[i].change), 0);
        kill(-pid, SIGCONT);
        waitpid(pid, &status, 0);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 3, "%s: %d", cases[i].change, status);
        cr_assert(said(cases[i].says));
        char *name = str_format("mv %s found.db", cases[i].where);
        cr_assert_eq(system(name), 0);
        free(name);
        cr_assert_eq(
            system("if [ -e elsewhere.db-wal ]; then mv elsewhere.db-wal found.db-wal; fi"), 0);
        cr_assert_geq(finished("found.db"), 2);
        cr_assert_eq(system("rm -f found.db*"), 0);
    }
}

/* A lease that lasts for years is told, and does not hold up the other cells. */
Test(sweep, a_clock_that_is_ahead_is_told)
{
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db a.db"), 0);
    sql("a.db",
        "PRAGMA foreign_keys = ON;"
        "INSERT INTO lease SELECT key, 'tomorrow:1:1', 4102444800 FROM run WHERE id = 3; DELETE "
        "FROM run");
    pid_t pid = start(MODEL QUICK TEN "--db a.db", "out.txt");
    wait_for("a.db", 9);
    for (int i = 0; i < 600 && system("grep -q 'a lease of' out.txt") != 0; i++) pause_ms(100);
    int status;
    kill(pid, SIGINT);
    waitpid(pid, &status, 0);
    cr_assert(said("a lease of tomorrow lasts until 2100-01-01 00:00:00 UTC"));
    cr_assert_eq(tool("status", "--db a.db"), 3);
}

/* A stored tuning that names a head the model has not. */
Test(sweep, thresholds_from_a_damaged_database_are_refused)
{
    static const char grid[] =
        MODEL QUICK "--layers 6-7 --num-tune-samples 1 --held-out 1 --l1 .3 --db a.db";
    static const char *const damages[] = {
        "layer = 9999, head = 31", "layer = -7", "head = 4", "theta = 7", "tau = NULL"};
    cr_assert_eq(tool("sweep", grid), 0);
    cr_assert_eq(system("cp a.db whole.db"), 0);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        cr_assert_eq(system("rm -f a.db-*; cp whole.db a.db"), 0);
        char *change = str_format("PRAGMA foreign_keys = ON; DELETE FROM run; UPDATE tuned_head "
                                  "SET is_sparse = 1; UPDATE tuned_head SET %s WHERE rowid = 1",
            damages[i]);
        sql("a.db", change);
        free(change);
        cr_assert_eq(tool("sweep", grid), 3);
        cr_assert(said("tuned_head") || said("column layer: found -7"), "%s", damages[i]);
        cr_assert_eq(
            number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 0, "%s", damages[i]);
    }
}

Test(sweep, two_workers_on_one_file_share_the_cells)
{
    int status, n_first, n_second;
    pid_t other = start(MODEL QUICK TEN "--db a.db", "first.txt");
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db a.db"), 0);
    waitpid(other, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE status = 'done'"), 10);
    FILE *f = popen("grep -c '^\\[' first.txt; grep -c '^\\[' out.txt", "r");
    cr_assert_eq(fscanf(f, "%d %d", &n_first, &n_second), 2);
    pclose(f);
    cr_assert_eq(n_first + n_second, 10, "%d and %d", n_first, n_second);
}

/* One process, several devices: each cell once, results as on one. */
Test(sweep, several_devices_share_the_cells)
{
    static const char grid[] = MODEL QUICK
        "--layers 6-7,7 --num-tune-samples 2 --held-out 1 --l1 .1,.2 --pv-l1 l1+.05,l1+.1 ";
    char line[512];
    snprintf(line, sizeof line, "%s--db one.db", grid);
    cr_assert_eq(tool("sweep", line), 0);
    snprintf(line, sizeof line, "%s--device cpu,cpu,cpu --db many.db", grid);
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("8 run, 0 reused, 0 failed"));
    cr_assert(said("[8/8]"));
    cr_assert(said("; 1 tunings"));
    cr_assert_eq(tool("merge", "many.db --db one.db"), 0);
    cr_assert(said("0 added, 8 identical"));
    cr_assert_eq(tool("sweep", line), 0);
    cr_assert(said("0 run, 8 reused"));
}

/* A cell that fails again in one worker is not tried by the others. */
Test(sweep, several_devices_retry_a_failed_cell_once)
{
    static const char failing[] =
        MODEL QUICK "--layers 6-7 --num-tune-samples 1000 --held-out 1 --l1 .1,.2 "
                    "--pv-l1 l1+.05 --suite text:short.txt --device cpu,cpu,cpu --db a.db ";
    char line[512];
    FILE *f = fopen("short.txt", "w");
    for (int i = 0; i < 400; i++) fprintf(f, "Line %d of a short text.\n", i);
    fclose(f);
    cr_assert_eq(tool("sweep", failing), 3);
    cr_assert(said("0 run, 0 reused, 2 failed"));
    snprintf(line, sizeof line, "%s--retry-failed", failing);
    cr_assert_eq(tool("sweep", line), 3);
    cr_assert(said("0 run, 0 reused, 2 failed"));
}

/* Likewise the samples of one evaluation: same metrics, same worst tokens. */
Test(sweep, several_devices_share_the_samples)
{
    static const char cell[] =
        MODEL " --max-length 400 --num-samples 5 --cache none --threads 1 --topk .4 -q --db ";
    char line[512];
    snprintf(line, sizeof line, "%sone.db", cell);
    cr_assert_eq(tool("eval", line), 0);
    snprintf(line, sizeof line, "%smany.db --device cpu,cpu,cpu", cell);
    cr_assert_eq(tool("eval", line), 0);
    cr_assert_eq(tool("merge", "many.db --db one.db"), 0);
    cr_assert(said("0 added, 1 identical"));
    static const char worst[] = "SELECT sum(position * (sample + 1)) FROM worst_token";
    cr_assert_eq(number("one.db", worst), number("many.db", worst));
    cr_assert_gt(number("one.db", worst), 0);
    snprintf(line, sizeof line, "%smany.db --device cpu,cpu --suite speed", cell);
    cr_assert_eq(tool("eval", line), 2);
    cr_assert(said("name one --device"));
}

/* The CPU as a device whose passes fail, and that after the first of them answers nothing any more,
 * or does. */
static bool device_is_gone, gone_for_good;

static enum status no_pass(
    void *state, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    (void)state, (void)position, (void)total_len, (void)f, (void)impls;
    device_is_gone = gone_for_good;
    return fail(ERR_DEVICE, "an illegal memory access was encountered");
}

static enum status fake_memory(const struct weights_device *d, size_t *free_bytes, size_t *total)
{
    (void)d;
    *free_bytes = *total = (size_t)1 << 40;
    return device_is_gone ? fail(ERR_DEVICE, "cudaMemGetInfo: an illegal memory access") : OK;
}

static void fake_describe(const struct weights_device *d, struct weights_device_info *out)
{
    (void)d;
    *out = (struct weights_device_info){.name = "cuda", .residual = "f32", .gpu = "a fake"};
}

static void fake_release(struct weights_device **d) { *d = NULL; }

static enum status fake_room_open(
    struct weights_device *d, float **at, size_t bytes, const char *what)
{
    (void)d, (void)what;
    *at = malloc(bytes);
    return OK;
}

static void fake_room_close(struct weights_device *d, float *at, size_t bytes)
{
    (void)d, (void)bytes;
    free(at);
}

static enum status fake_room_copy(
    struct weights_device *d, void *to, const void *from, size_t bytes, bool to_host)
{
    (void)d, (void)to_host;
    memcpy(to, from, bytes);
    return OK;
}

static void sweep_on_fake(const char *db, enum status expected, int64_t n_failed)
{
    static const struct weights_place place = {
        fake_memory, fake_describe, fake_release, fake_room_open, fake_room_close, fake_room_copy};
    struct session_backend backend = session_backend_cpu;
    backend.forward = no_pass;
    struct weights_device device = {.place = &place, .backend = &backend};
    struct machine_options machine = MACHINE_DEFAULTS;
    machine.cache = "none";
    machine.threads = 1;
    struct setup setup;
    cr_assert_eq(setup_open(&setup, &machine, MODEL), OK, "%s", status_message());
    setup.model.weights.on_device = &device;
    device_is_gone = false;
    struct plan_axes axes = {.suite = {{"chronicle"}, 1},
        .max_length = {{"512"}, 1},
        .method = {{"window:64,window:128,window:192"}, 1}};
    struct plan plan;
    struct store *store;
    struct dense_cache none = {0};
    struct sweep s;
    cr_assert_eq(plan_expand(&axes, 8, 4, &plan), OK, "%s", status_message());
    cr_assert_eq(store_open(&store, db, STORE_WRITE), OK, "%s", status_message());
    struct sweep_args args = {.setup = &setup,
        .store = store,
        .cache = &none,
        .plan = &plan,
        .machine = &machine,
        .name = "fake",
        .plan_json = "{}",
        .settings = cell_defaults,
        .shard = {0, 1},
        .min_sparse_tokens = MIN_SPARSE_TOKENS};
    args.settings.num_samples = 1;
    cr_assert_eq(sweep_open(&s, &args), OK, "%s", status_message());
    cr_assert_eq(s.n, 3);
    enum status st = sweep_run(&s);
    cr_expect_eq(st, expected, "%s", status_message());
    if (st != OK) cr_expect(strstr(status_message(), "no longer answers"), "%s", status_message());
    sweep_close(&s);
    store_close(&store);
    plan_clear(&plan);
    setup.model.weights.on_device = NULL;
    setup_close(&setup);
    cr_expect_eq(number(db,
                     "SELECT count(*) FROM run WHERE status = 'failed' AND reason LIKE "
                     "'%illegal memory access%'"),
        n_failed);
}

/* CUDA refuses every call behind some errors: one cell has failed then, not all that follow. */
Test(sweep, a_device_that_is_gone_fails_one_cell)
{
    gone_for_good = true;
    sweep_on_fake("gone.db", ERR_DEVICE, 1);
    gone_for_good = false;
    sweep_on_fake("there.db", OK, 3);
}

/* A crash takes all workers along, and is put down to the one that made it. */
Test(sweep, only_the_culprit_is_blamed)
{
    struct sweep_watch w = {0};
    sweep_watch_reset(&w);
    cr_assert(!sweep_watch_blame(&w, SIGSEGV), "nothing ran");
    w.cell[0] = 7;
    w.cell[3] = 9;
    w.culprit = 3;
    cr_assert(sweep_watch_blame(&w, SIGSEGV));
    cr_assert(w.n_crashes == 1 && w.crashes[0].cell == 9 && !w.crashes[0].stored);
    w.culprit = 1;
    cr_assert(!sweep_watch_blame(&w, SIGSEGV), "a worker between two cells");
    w.culprit = -1;
    cr_assert(sweep_watch_blame(&w, SIGKILL));
    cr_assert(w.n_crashes == 3 && w.crashes[1].cell == 7 && w.crashes[2].cell == 9);
    cr_assert(strstr(w.crashes[2].how, "while 2 cells ran"));
}

/* merge afterany, fix, resubmit, merge again into the same file; and in any other order. */
Test(sweep, merging_is_monotone)
{
    static const char grid[] =
        MODEL QUICK "--suite text:later.txt --suite chronicle --method window:256,topk:.5 ";
    static const char *const orders[] = {"old.1-of-2.db old.2-of-2.db new.1-of-2.db new.2-of-2.db",
        "new.2-of-2.db old.2-of-2.db new.1-of-2.db old.1-of-2.db",
        "new.1-of-2.db new.2-of-2.db old.1-of-2.db old.2-of-2.db"};
    char line[512];
    for (int fixed = 0; fixed < 2; fixed++) {
        if (fixed) {
            FILE *f = fopen("later.txt", "w");
            for (int i = 0; i < 400; i++)
                fprintf(f, "The clock of the town struck %d and nobody came. ", i);
            fclose(f);
        }
        for (int i = 1; i <= 2; i++) {
            snprintf(
                line, sizeof line, "%s --shard %d/2 --db %s.db", grid, i, fixed ? "new" : "old");
            tool("sweep", line);
        }
        if (!fixed) {
            cr_assert_eq(tool("merge", "--db all.db old.1-of-2.db old.2-of-2.db"), 0);
            cr_assert_eq(tool("status", "--db all.db"), 3);
            pause_ms(1100);
        }
    }
    cr_assert_eq(tool("merge", "--db all.db new.1-of-2.db new.2-of-2.db"), 0);
    cr_assert_eq(tool("status", "--db all.db"), 0);
    cr_assert_eq(number("all.db", "SELECT count(*) FROM run WHERE status <> 'done'"), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(line, sizeof line, "--db all%d.db %s", i, orders[i]);
        cr_assert_eq(tool("merge", line), 0);
        snprintf(line, sizeof line, "--db all%d.db", i);
        cr_assert_eq(tool("status", line), 0, "%s", orders[i]);
        snprintf(line, sizeof line, "all%d.db", i);
        cr_assert_eq(number(line, "SELECT count(*) FROM run WHERE status <> 'done'"), 0);
        cr_assert_eq(number(line, "SELECT count(*) FROM cell"), 4);
    }
    cr_assert_eq(tool("merge", "--db none.db later.txt"), 3);
    cr_assert(access("none.db", F_OK) != 0 && access("none.db-wal", F_OK) != 0, "made for nothing");
    cr_assert_eq(tool("merge", "--db all.db ./all.db"), 2);
}

Test(sweep, parts_make_the_whole)
{
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--shard 1/3 --db a.db"), 0);
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--shard 2/3 --db a.db"), 0);
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--shard 3/3 --db a.db"), 0);
    cr_assert_eq(tool("merge", "--db all.db a.1-of-3.db a.2-of-3.db a.3-of-3.db a.2-of-3.db"), 0);
    cr_assert(said("0 added, 3 identical"));
    cr_assert_eq(tool("status", "--db all.db"), 0);
    cr_assert_eq(tool("sweep", MODEL QUICK TEN "--db all.db"), 0);
    cr_assert(said("0 run, 10 reused"));
}

Test(sweep, mpirun_ranks_are_parts)
{
    if (system("command -v mpirun > /dev/null 2>&1") != 0)
        cr_skip_test("no mpirun (apt-get install openmpi-bin)");
    int status =
        system("mpirun --allow-run-as-root --oversubscribe -np 2 " SG_BINARY " sweep " MODEL
               " --max-length 512 --num-samples 1 --cache none --threads 1 " TEN
               "--db a.db > out.txt 2>&1");
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert(said("part 2 of 2 (Open MPI)"));
    cr_assert_eq(number("a.1-of-2.db", "SELECT count(*) FROM run"), 5);
    cr_assert_eq(tool("merge", "--db all.db a.1-of-2.db a.2-of-2.db"), 0);
    cr_assert_eq(tool("status", "--db all.db"), 0);
}

/* A failure of a tuned cell happens twice, and the second time is no result of its own. */
Test(sweep, tuned_cells_are_confirmed)
{
    cr_assert_eq(tool("sweep",
                     MODEL QUICK "--layers 4-7,6-7 --num-tune-samples 1 --held-out 1 --l1 .3 "
                                 "--repeat 2 --num-samples 3 --db a.db"),
        0);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run"), 4);
    for (int i = 0; i < 2; i++) {
        char line[256];
        int64_t id = number("a.db",
            i ? "SELECT id FROM run WHERE layers = '4-7' AND repeat = 1"
              : "SELECT id FROM run WHERE layers = '6-7' AND repeat = 0");
        snprintf(line, sizeof line,
            "%lld --max-kl 1e-9 --confirm --threads 1 --cache none --db a.db", (long long)id);
        cr_assert_eq(tool("gate", line), 1);
        cr_assert(said("confirmed by a second run"));
    }
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run"), 6);
    cr_assert_eq(number("a.db", "SELECT count(*) FROM run WHERE confirming"), 2);
    cr_assert_eq(number("a.db", "SELECT count(DISTINCT digest) FROM run WHERE layers = '4-7'"), 1);
    cr_assert_eq(tool("list", "--db a.db --format csv"), 0);
    cr_assert_eq(system("test $(wc -l < out.txt) = 5"), 0, "four runs and a heading");
    cr_assert_eq(number("a.db", "SELECT count(*) FROM v_frontier"), 4);
    cr_assert_eq(tool("status", "--db a.db"), 0);
}

/* Nothing is kept where it would vanish, and nothing is for others to read. */
Test(sweep, databases_are_files_of_their_owner)
{
    static const char *const nowhere[] = {"\"\"", ":memory:"};
    for (int i = 0; i < 2; i++) {
        char *args = str_format(MODEL QUICK "--method window:64 --db %s", nowhere[i]);
        cr_assert_eq(tool("sweep", args), 2, "%s", nowhere[i]);
        cr_assert(said("results would vanish"));
        free(args);
    }
    cr_assert_eq(tool("sweep",
                     MODEL " --max-length 512 --num-samples 1 --threads 1 --shard none --cache "
                           "kept/cache --method window:64 --db a.db"),
        0);
    struct stat info;
    cr_assert(stat("a.db", &info) == 0 && (info.st_mode & 0777) == 0600, "%o", info.st_mode);
    cr_assert(stat("kept/cache", &info) == 0 && (info.st_mode & 0777) == 0700, "%o", info.st_mode);
    cr_assert_eq(tool("sweep", MODEL QUICK "--method window:64 --score third --db b.db"), 2);
    cr_assert(access("b.db", F_OK) != 0, "refused before work starts");
}

Test(sweep, best_prints_a_command_that_makes_the_very_cell)
{
    cr_assert_eq(
        tool("sweep", MODEL QUICK "--layers 4-7 --simthreshd1 -1 --cdfthreshd .7,.9 --db a.db"), 0);
    cr_assert_eq(tool("best", "--max-kl 1000 --db a.db"), 0);
    cr_assert_eq(system("grep -A1 'make it again' out.txt | tail -1 | sed 's/^ *[^ "
                        "]*sparsegauge//' > again.txt"),
        0);
    char line[2048];
    FILE *f = fopen("again.txt", "r");
    cr_assert_not_null(fgets(line, sizeof line, f));
    fclose(f);
    line[strcspn(line, "\n")] = 0;
    char *args = str_format("%s --cache none --threads 1 --db b.db", line);
    cr_assert_eq(tool("", args), 0);
    free(args);
    cr_assert_eq(tool("merge", "b.db --db a.db"), 0);
    cr_assert(said("0 added, 1 identical"));
    /* other texts and other sets of them are other contests, each with its answer */
    cr_assert_eq(
        tool("sweep",
            MODEL QUICK
            "--suite needle:lengths=512 --layers 4-7 --simthreshd1 -1 --cdfthreshd .7 --db a.db"),
        0);
    cr_assert_eq(tool("best", "--max-kl 1000 --db a.db --format csv"), 0);
    cr_assert_eq(system("test $(wc -l < out.txt) = 3"), 0, "two answers and a heading");
    cr_assert_eq(tool("best", "--max-kl 1000 --suite chronicle --db a.db --format csv"), 0);
    cr_assert_eq(system("test $(wc -l < out.txt) = 2"), 0, "one answer and a heading");
    cr_assert_eq(tool("best", "--max-kl 0 --min-cosine 1 --db a.db"), 1);
    cr_assert(said("bound"));
}
