/* Answers that are written: by the decoder behind the prefill that is asked for, kept and found
 * again, scored, stored, and the same in an evaluation and a sweep. */
#include "harness/measure/answers.h"

#include "base/file.h"
#include "engine/generate.h"
#include "harness/measure/setup.h"
#include "results/query.h"
#include "results/store.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL SG_SOURCE_DIR "/suites/demo/model"
#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())

static char *dir;
static struct setup setup;
static struct sample_set set;
static struct sparse_policy policy;

static void enter(void)
{
    struct tuned none;
    dir = dir_make();
    cr_assert_eq(chdir(dir), 0);
    ok(setup_open(&setup,
        &(struct machine_options){
            .cpu_mask = "auto", .device = "cpu", .cache = "none", .threads = 1},
        MODEL));
    struct sample_options o = SAMPLE_DEFAULTS;
    o.suites = (struct text_list){{"ruler:tasks=niah_single_1,vt;lengths=1024"}, 1};
    o.max_length = 1024;
    o.num_samples = 2;
    ok(setup_samples(&setup, &o, 0, false, &set));
    struct policy_options p = POLICY_DEFAULTS;
    p.topk = .3;
    p.method = "topk";
    ok(setup_policy(&setup, &p, &policy, &none));
}

static void leave(void)
{
    policy_clear(&policy);
    sample_set_clear(&set);
    setup_close(&setup);
    cr_assert_eq(chdir("/"), 0);
    dir_remove(dir);
}

TestSuite(answers, .init = enter, .fini = leave, .timeout = 200);

static struct session *session(void)
{
    struct session *s;
    ok(session_open(&s, &setup.model.weights, setup.par, sample_set_room(&set), 0, NULL));
    return s;
}

static void take_it(void *ctx, int i, struct written *w)
{
    (void)i;
    *(struct written *)ctx = *w;
}

static float *pass(struct session *s, int i, const struct sparse_policy *p, struct written *w)
{
    double seconds;
    int failed;
    struct answer_writer *writer;
    float *hidden = malloc(
        sizeof *hidden * (size_t)set.samples[i].n * (size_t)setup.model.weights.config.hidden_size);
    ok(answers_open(&writer, s, &setup.model, &set, NULL, NULL));
    ok(answers_pass(
        writer, i, &(struct forward_args){.policy = p}, hidden, take_it, w, &seconds, &failed));
    ok(answers_finish(writer, &failed));
    answers_close(&writer);
    cr_expect_gt(seconds, 0);
    return hidden;
}

Test(answers, are_what_the_decoder_writes_behind_that_prefill)
{
    struct session *s = session();
    for (int i = 0; i < set.n_samples; i++)
        for (int sparse = 0; sparse < 2; sparse++) {
            const struct sample *x = &set.samples[i];
            const struct wanted *wanted = sample_wanted(&set, i);
            int32_t ids[256];
            struct written w;
            struct generate_result r;
            free(pass(s, i, sparse ? &policy : NULL, &w));
            ok(generate(s,
                &(struct generate_args){.prompt = x->ids,
                    .n_prompt = x->n_prompt,
                    .max_new = wanted->budget,
                    .policy = sparse ? &policy : NULL,
                    .sampler = {.top_p = 1}},
                ids, &r));
            cr_assert_gt(w.n, 0);
            cr_expect_leq(w.n, r.n_new);
            cr_expect_eq(memcmp(w.ids, ids, (size_t)w.n * sizeof *ids), 0, "sample %d", i);
            cr_expect(w.ended || w.n == wanted->budget);
            if (!w.ended) cr_expect_eq(w.n, r.n_new);
            written_clear(&w);
        }
    session_close(&s);
}

/* Behind a dense prefill the right answer is read as one long prefill reads it; behind a sparse one
 * it is decoded densely, which is another thing than a sparse prefill of all. */
Test(answers, the_right_answer_is_read_behind_the_prompt)
{
    struct session *s = session();
    const struct sample *x = &set.samples[0];
    size_t width = (size_t)setup.model.weights.config.hidden_size, n = (size_t)x->n * width;
    float *whole = malloc(n * sizeof *whole);
    for (int sparse = 0; sparse < 2; sparse++) {
        struct written w;
        float *hidden = pass(s, 0, sparse ? &policy : NULL, &w);
        session_reset(s);
        ok(session_forward(s,
            &(struct forward_args){
                .tokens = x->ids, .n = x->n, .policy = sparse ? &policy : NULL, .hidden = whole}));
        double worst = 0, answer = 0;
        for (size_t k = 0; k < n; k++) {
            double d = fabs((double)(hidden[k] - whole[k]));
            if (k < (size_t)x->n_prompt * width) worst = d > worst ? d : worst;
            else answer = d > answer ? d : answer;
        }
        if (sparse) cr_expect_gt(answer, 1e-3, "%g", answer);
        else cr_expect(worst < 1e-4 && answer < 1e-3, "%g %g", worst, answer);
        free(hidden);
        written_clear(&w);
    }
    free(whole);
    session_close(&s);
}

Test(answers, are_kept_with_the_dense_states)
{
    struct dense_cache cache;
    struct session *s = session();
    struct written w, again = {0};
    ok(dense_cache_open(&cache, "kept"));
    free(pass(s, 1, NULL, &w));
    cr_expect_not(answers_cached(&cache, &setup.model, NULL, &set, 1, &again));
    answers_keep(&cache, &setup.model, NULL, &set, 1, &w);
    cr_expect(answers_cached(&cache, &setup.model, NULL, &set, 1, &again));
    cr_expect(again.n == w.n && again.ended == w.ended);
    cr_expect_eq(memcmp(again.ids, w.ids, (size_t)w.n * sizeof *w.ids), 0);
    written_clear(&again);
    set.items[1].wanted->budget--; /* another question */
    cr_expect_not(answers_cached(&cache, &setup.model, NULL, &set, 1, &again));
    written_clear(&w);
    dense_cache_close(&cache);
    session_close(&s);
}

static void tool(const char *words)
{
    char *line = str_format("%s %s > out.txt 2>&1", SG_BINARY, words);
    int rc = system(line);
    struct str text = file_get(dir, "out.txt");
    cr_assert_eq(rc, 0, "%s: %s", line, str_get(&text));
    str_clear(&text);
    free(line);
}

static char *stored(const char *db)
{
    struct store *s;
    struct sql_result r;
    ok(store_open(&s, db, STORE_READ));
    ok(query_sql(s,
        "SELECT group_concat(item || ':' || dense_value || ':' || sparse_value || ':' || "
        "sparse_text || ':' || dense_text || ':' || expected, ';') || ' ' || (SELECT digest FROM "
        "run) "
        "FROM item",
        &r));
    char *text = str_dup(r.cells[0].text ? r.cells[0].text : "");
    sql_result_clear(&r);
    store_close(&s);
    return text;
}

#define RULER                                                                                 \
    " --suite 'ruler:tasks=niah_single_1,vt;lengths=1024' --max-length 1024 --num-samples 2 " \
    "--threads 1 "

Test(answers, are_stored_and_the_same_with_a_cache_and_in_a_sweep)
{
    tool("eval " MODEL RULER "--topk .3 --cache none -q --db a.db");
    tool("eval " MODEL RULER "--topk .3 --cache kept -q --db b.db");
    tool("eval " MODEL RULER "--topk .3 --cache kept -q --db c.db");
    tool("sweep " MODEL RULER "--method topk:.3 --cache none -q --db d.db");
    char *a = stored("a.db"), *b = stored("b.db"), *c = stored("c.db"), *d = stored("d.db");
    cr_expect(strstr(a, "ruler 1:") && strstr(a, "ruler 2:"), "%s", a);
    cr_expect_str_eq(a, b);
    cr_expect_str_eq(a, c);
    cr_expect_str_eq(a, d);
    free(a), free(b), free(c), free(d);
    tool("eval " MODEL RULER "--topk .3 --cache kept -q --db e.db --output a.json");
    tool("show a.json --part tasks"); /* a file is computed again before it is believed */
    struct str text = file_get(dir, "out.txt");
    cr_expect(strstr(str_get(&text), "niah_single_1") && strstr(str_get(&text), "vt"), "%s",
        str_get(&text));
    str_clear(&text);
    tool("show a.json --part items");
    text = file_get(dir, "out.txt");
    cr_expect(strstr(str_get(&text), "written sparse"), "%s", str_get(&text));
    str_clear(&text);
}

/* The one number that a query gives; NAN for none. */
static double number(const char *db, const char *sql)
{
    struct store *s;
    struct sql_result r;
    ok(store_open(&s, db, STORE_READ));
    ok(query_sql(s, sql, &r));
    double value = r.n_rows ? r.cells[0].d : NAN;
    sql_result_clear(&r);
    store_close(&s);
    return value;
}

/* One sample's metric of that name. */
static double metric(const char *db, const char *name)
{
    char *sql = str_format("SELECT mean FROM metric WHERE scope = 'overall' AND name = '%s'", name);
    double value = number(db, sql);
    free(sql);
    return value;
}

/* As many of the best tiles are what the oracle takes; whatever ranks otherwise holds less, and a
 * dense run leaves nothing out. */
Test(answers, the_recall_of_the_oracle_is_that_of_the_best_tiles)
{
#define VT                                                                                    \
    " --suite 'ruler:tasks=vt;lengths=1024' --max-length 1024 --num-samples 1 --attribution " \
    "--threads 1 "
    tool("eval " MODEL VT "--method oracle+over=mean --topk .4 --cache none -q --db o.db");
    tool("eval " MODEL VT "--topk .4 --cache none -q --db t.db");
    tool("eval " MODEL VT "--topk 1 --cache none -q --db all.db");
    double recall = metric("o.db", "recall"), best = metric("o.db", "recall_oracle");
    cr_expect(best > .5 && best < 1, "%g", best);
    /* sink and diagonal are computed whatever they hold */
    cr_expect(recall <= best + 1e-6 && recall > best - .05, "%g of %g", recall, best);
    cr_expect_lt(metric("t.db", "recall"), metric("t.db", "recall_oracle"));
    cr_expect_lt(metric("t.db", "recall_p5"), metric("t.db", "recall"));
    cr_expect_leq(metric("t.db", "recall_group"), metric("t.db", "recall"));
    cr_expect(isnan(metric("all.db", "recall")));
    /* the only item's own are those of the run */
    static const char *const names[] = {"recall", "recall_oracle", "recall_p5", "recall_group"};
    for (int i = 0; i < 4; i++) {
        char sql[80];
        snprintf(sql, sizeof sql, "SELECT %s FROM item", names[i]);
        cr_expect_float_eq(number("t.db", sql), metric("t.db", names[i]), 1e-12, "%s", names[i]);
    }
}
