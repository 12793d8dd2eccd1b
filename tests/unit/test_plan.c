#include "harness/sweep/plan_numbers.h"
#include "harness/sweep/shard.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum status numbers_of(const char *text, double lo, double hi, struct numbers *out)
{
    struct text_list list = {{text}, 1};
    *out = (struct numbers){0};
    enum status st = numbers_read("--x", &list, false, out);
    return st == OK ? numbers_check("--x", out, lo, hi) : st;
}

static int count(const char *text, double *first, double *last)
{
    struct numbers x;
    cr_assert_eq(numbers_of(text, -1e9, 1e9, &x), OK, "%s: %s", text, status_message());
    int n = x.n;
    *first = x.items[0].value;
    *last = x.items[n - 1].value;
    numbers_clear(&x);
    return n;
}

static bool refused(const char *text)
{
    struct numbers x;
    bool bad = numbers_of(text, -1e9, 1e9, &x) == ERR_ARG;
    numbers_clear(&x);
    return bad;
}

Test(plan, ranges)
{
    double a, b;
    cr_assert_eq(count(".04-.10+.02", &a, &b), 4);
    cr_assert(a == .04 && b == .10, "%.17g %.17g", a, b);
    cr_assert_eq(count("512-4096*2", &a, &b), 4);
    cr_assert(a == 512 && b == 4096);
    cr_assert_eq(count("1,3-5+1,9", &a, &b), 5);
    cr_assert_eq(count("-1-1+.5", &a, &b), 5);
    cr_assert(a == -1 && b == 1);
    cr_assert_eq(count("1e-3", &a, &b), 1);
    cr_assert(a == 1e-3);
    cr_assert_eq(count("1-9*3", &a, &b), 3);
    cr_assert(b == 9);
    cr_assert_eq(count("-.3-.3+.1", &a, &b), 7);
    cr_assert(a == -.3 && b == .3);
    cr_assert_eq(count("1e-3-3e-3+.001", &a, &b), 3);
    cr_assert(b == .003);
    cr_assert_eq(count("1-2.25*1.5", &a, &b), 3);
    cr_assert(b == 2.25);
    cr_assert_eq(count("-0", &a, &b), 1);
    cr_assert(a == 0 && !signbit(a), "-0 is 0");
    cr_assert_eq(count(".123456789012345678", &a, &b), 1);
    cr_assert(a == .123456789012345678, "to the last digit");
}

Test(plan, every_step_of_a_decimal_range_is_the_decimal)
{
    struct numbers x;
    cr_assert_eq(numbers_of(".01-.99+.01", 0, 1, &x), OK);
    cr_assert_eq(x.n, 99);
    for (int i = 0; i < x.n; i++) {
        char text[16];
        snprintf(text, sizeof text, "0.%02d", i + 1);
        cr_assert(x.items[i].value == strtod(text, NULL), "%d: %.17g", i, x.items[i].value);
    }
    numbers_clear(&x);
}

Test(plan, a_range_through_zero_has_a_zero)
{
    struct numbers x;
    cr_assert_eq(numbers_of("-.3-.3+.1", -1, 1, &x), OK);
    static const double want[] = {-.3, -.2, -.1, 0, .1, .2, .3};
    cr_assert_eq(x.n, 7);
    for (int i = 0; i < x.n; i++)
        cr_assert(memcmp(&x.items[i].value, &want[i], sizeof want[i]) == 0, "%d: %.17g", i,
            x.items[i].value);
    numbers_clear(&x);
}

Test(plan, an_end_that_is_stepped_over_is_refused)
{
    cr_assert(refused(".04-.1+.04"));
    cr_assert(
        strstr(status_message(), "steps over its end, from 0.08 to 0.12"), "%s", status_message());
}

/* Values that agree to six digits, or to twelve. */
Test(plan, cells_are_told_apart_by_the_last_digit)
{
    struct plan_axes a = {.method = {{"topk:.5000001,topk:.5000002,topk:.5"}, 1}};
    struct plan p;
    cr_assert_eq(plan_expand(&a, 8, 4, &p), OK);
    cr_assert(p.n == 3 && p.n_duplicate == 0, "%d", p.n);
    plan_clear(&p);
    a = (struct plan_axes){.l1 = {{".06,.06000000000001,0.060"}, 1}, .pv_l1 = {{"l1+.01"}, 1}};
    cr_assert_eq(plan_expand(&a, 8, 4, &p), OK);
    cr_assert(p.n == 2 && p.n_duplicate == 1, "%d", p.n);
    cr_assert(p.cells[0].pv_l1 == .07 && p.cells[1].pv_l1 == .07000000000001);
    plan_clear(&p);
}

Test(plan, bad_numbers)
{
    static const char *const bad[] = {".04-.1+.04", "1-8*3", "1e999", "1-2+1e-40",
        ".1234567890123456789", "0x10", "", "x", "1,", ",1", "1-2", "1-2+0", "1-2*1", "0-2*2",
        "2-1+1", "1-2+x", "nan", "1-2+-1", "0-1+1e-9", "1 2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert(refused(bad[i]), "\"%s\" was taken", bad[i]);
}

static struct plan expand(const struct plan_axes *a)
{
    struct plan p;
    cr_assert_eq(plan_expand(a, 8, 4, &p), OK, "%s", status_message());
    return p;
}

Test(plan, multiplies_and_prunes)
{
    struct plan_axes a = {.l1 = {{".04-.10+.02"}, 1},
        .pv_l1 = {{"l1+.01,l1+.02", ".06"}, 2},
        .layers = {{"0-3,4-7,all"}, 1},
        .block = {{"128x64,64x64"}, 1},
        .method = {{"sparge,topk:.5,window:1024,oracle"}, 1},
        .rule = {{"l1,tail"}, 1},
        .max_length = {{"2048,4096"}, 1}};
    struct plan p = expand(&a);
    /* pairs: 4 x {+.01, +.02, .06}; .06 fits .04 only and equals .04 + .02 there; both rules */
    int pairs = 4 * 2, per_shape = 2 /* sparge, oracle */ * 2 * pairs + 2 /* topk, window */;
    cr_assert_eq(p.n, 2 * 2 * 3 * per_shape, "%d", p.n);
    cr_assert_eq(p.n_pruned, 2 * 2 * 3 * 2 * 2 * 3);
    cr_assert_eq(p.n_duplicate, 2 * 2 * 3 * 2 * 2 * 1);
    for (int i = 0; i < p.n; i++) cr_assert(!p.cells[i].tuned || p.cells[i].pv_l1 > p.cells[i].l1);
    plan_clear(&p);
}

Test(plan, axes_that_a_method_lacks_do_not_multiply)
{
    struct plan_axes a = {.method = {{"dense,window:256,sparge"}, 1},
        .tau = {{".9,.95"}, 1},
        .layers = {{"all,4-7"}, 1}};
    struct plan p = expand(&a);
    cr_assert_eq(p.n, 1 + 2 + 4);
    plan_clear(&p);
}

Test(plan, precisions_multiply_and_give_dense_cells_layers)
{
    struct plan_axes a = {.method = {{"dense,topk:.5"}, 1},
        .layers = {{"all,4-7"}, 1},
        .qk = {{"full,int8,int8"}, 1},
        .pv = {{"full", "fp8"}, 2}};
    struct plan p = expand(&a);
    struct str text = {0};
    /* of four pairs one is full, in which a dense cell has no layers */
    cr_assert_eq(p.n, 1 + 3 * 2 + 4 * 2, "%d", p.n);
    int n_full = 0, n_eight_dense = 0;
    for (int i = 0; i < p.n; i++) {
        const struct plan_cell *c = &p.cells[i];
        bool dense = strcmp(c->method, "dense") == 0, eight = c->qk || c->pv;
        n_full += !eight;
        n_eight_dense += dense && eight;
        cr_assert_eq(strcmp(c->layers, "none") == 0, dense && !eight);
    }
    cr_assert(n_full == 3 && n_eight_dense == 6, "%d %d", n_full, n_eight_dense);
    plan_cell_describe(&p.cells[p.n - 1], &text);
    cr_assert_str_eq(
        str_get(&text), "topk:0.5 qk int8 pv fp8 128x64 layers 4-7 at 2048 of chronicle");
    str_clear(&text);
    plan_clear(&p);
}

Test(plan, attribution_axes)
{
    struct plan_axes a = {.layers = {{"each,all-but-each,all"}, 1}};
    struct plan p = expand(&a);
    cr_assert_eq(p.n, 17);
    cr_assert_str_eq(p.cells[3].layers, "3");
    cr_assert_eq(p.cells[3].first_layer, 3);
    cr_assert_str_eq(p.cells[8].layers, "1-7");
    cr_assert_str_eq(p.cells[9].layers, "0+2-7");
    plan_clear(&p);
    a = (struct plan_axes){.layers = {{"5"}, 1}, .heads = {{"each"}, 1}};
    p = expand(&a);
    cr_assert_eq(p.n, 4);
    cr_assert_eq(p.cells[2].head, 2);
    plan_clear(&p);
}

Test(plan, one_spelling_of_equal_layers)
{
    struct plan_axes a = {.layers = {{"all,0-7,0-3+4-7"}, 1}};
    struct plan p = expand(&a);
    cr_assert_eq(p.n, 1);
    cr_assert_eq(p.n_duplicate, 2);
    plan_clear(&p);
}

Test(plan, refuses_with_a_reason)
{
    static const struct {
        struct plan_axes axes;
        const char *word;
    } cases[] = {
        {{.l1 = {{".06"}, 1}, .pv_l1 = {{".05"}, 1}}, "pv_l1"},
        {{.qk = {{"int4"}, 1}}, "--qk: found \"int4\""},
        {{.pv = {{"int8"}, 1}}, "--pv: found \"int8\""},
        {{.layers = {{"4-9"}, 1}}, "0 to 7"},
        {{.layers = {{"none"}, 1}}, "no layer"},
        {{.heads = {{"4"}, 1}}, "0 to 3"},
        {{.method = {{"window:0"}, 1}}, "window"},
        {{.method = {{"topk"}, 1}}, "topk"},
        {{.method = {{"sparge:1"}, 1}}, "sparge"},
        {{.pv_l1 = {{".1"}, 1}}, "--l1"},
        {{.l1 = {{".1"}, 1}, .tau = {{".9"}, 1}}, "--cdfthreshd"},
        {{.tau = {{"1.1"}, 1}}, "--cdfthreshd"},
        {{.max_length = {{"100.5"}, 1}}, "whole"},
        {{.block = {{"32x32"}, 1}}, "--block"},
        {{.rule = {{"l2"}, 1}}, "l2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan p;
        cr_assert_eq(plan_expand(&cases[i].axes, 8, 4, &p), ERR_ARG, "case %zu was taken", i);
        cr_assert(strstr(status_message(), cases[i].word), "case %zu: %s", i, status_message());
        cr_assert_eq(p.n, 0);
    }
}

static char *dir;

static char *write_file(const char *text)
{
    static char path[256];
    if (!dir) dir = dir_make();
    snprintf(path, sizeof path, "%s/plan.json", dir);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    return path;
}

Test(plan, file_says_the_same_as_options)
{
    struct plan_axes a = {0},
                     b = {.l1 = {{".04-.08+.02"}, 1},
                         .pv_l1 = {{"l1+.01"}, 1},
                         .max_length = {{"512,1024"}, 1}};
    struct plan_settings s = {.score = "all", .num_samples = PLAN_UNSET, .seed = 3};
    struct arena *arena = NULL;
    struct str beaten = {0};
    const char *path =
        write_file("{\"name\": \"n\", \"num_samples\": 3, \"seed\": 1, \"score\": \"second-half\", "
                   "\"l1\": [0.04, \".06-.08+.02\"], \"pv_l1\": \"l1+.01\","
                   " \"max_length\": [512, 1024]}");
    cr_assert_eq(plan_read(path, &a, &s, &arena, &beaten), OK, "%s", status_message());
    cr_assert_str_eq(s.name, "n");
    cr_assert_str_eq(s.score, "all");
    cr_assert_eq(s.num_samples, 3);
    cr_assert_eq(s.seed, 3, "what the command line says stays");
    cr_assert_str_eq(str_get(&beaten), "score, seed");
    struct plan x = expand(&a), y = expand(&b);
    cr_assert_eq(x.n, y.n);
    for (int i = 0; i < x.n; i++) {
        struct str p = {0}, q = {0};
        plan_cell_describe(&x.cells[i], &p);
        plan_cell_describe(&y.cells[i], &q);
        cr_assert_str_eq(str_get(&p), str_get(&q));
        str_clear(&p);
        str_clear(&q);
    }
    plan_clear(&x);
    plan_clear(&y);
    cr_assert_eq(
        plan_read(write_file("{\"layer\": \"all\"}"), &a, &s, &arena, &beaten), ERR_FORMAT);
    cr_assert(strstr(status_message(), "layer"), "%s", status_message());
    cr_assert_eq(plan_read(write_file("[1]"), &a, &s, &arena, &beaten), ERR_FORMAT);
    static const char *const bad[] = {"{\"l1\": true}", "{\"l1\": []}", "{\"suite\": []}",
        "{\"name\": \"\"}", "{\"name\": \"a\\u0000b\"}", "{\"suite\": \"text:a\\u0000\"}",
        "{\"repeat\": 1001}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(
            plan_read(write_file(bad[i]), &a, &s, &arena, &beaten), ERR_FORMAT, "%s", bad[i]);
    s.name = NULL;
    cr_assert_eq(plan_read(write_file("{\"name\": \"a\\\\u0000b\"}"), &a, &s, &arena, &beaten), OK,
        "a backslash is one");
    str_clear(&beaten);
    dir_remove(dir);
    arena_free(&arena);
}

static void clear_environment(void)
{
    static const char *const names[] = {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP", "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
        "PMI_RANK", "PMI_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
        "JOB_COMPLETION_INDEX"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void expect_shard(const char *text, int index, int n, const char *source)
{
    struct shard s;
    cr_assert_eq(shard_detect(text, &s), OK, "%s", status_message());
    cr_assert_eq(s.index, index);
    cr_assert_eq(s.count, n);
    cr_assert(source ? s.source && strcmp(s.source, source) == 0 : !s.source, "%s",
        s.source ? s.source : "none");
}

Test(shard, from_text, .init = clear_environment)
{
    struct shard s;
    expect_shard(NULL, 0, 1, NULL);
    expect_shard("2/4", 1, 4, "--shard");
    static const char *const bad[] = {
        "0/4", "5/4", "x", "1/", "/4", "1/0", "1/4x", "auto/0", "auto/4"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(shard_detect(bad[i], &s), ERR_ARG, "%s", bad[i]);
}

static void slurm_task(int id, int min, int max, int step, int count_)
{
    const struct {
        const char *name;
        int value;
    } set[] = {{"ID", id}, {"MIN", min}, {"MAX", max}, {"STEP", step}, {"COUNT", count_}};
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        char name[64], value[16];
        snprintf(name, sizeof name, "SLURM_ARRAY_TASK_%s", set[i].name);
        snprintf(value, sizeof value, "%d", set[i].value);
        setenv(name, value, 1);
    }
}

/* A task is the same part whether it was sent with all others, alone, in a range or in a list. */
Test(shard, an_array_sent_again_is_the_same_parts, .init = clear_environment)
{
    struct shard s;
    static const int first[][2] = {{0, 7}, {1, 8}};
    for (int k = 0; k < 2; k++) {
        bool seen[8] = {false};
        for (int id = first[k][0]; id <= first[k][1]; id++) {
            slurm_task(id, first[k][0], first[k][1], 1, 8);
            cr_assert_eq(shard_detect("auto/8", &s), OK, "%s", status_message());
            int part = s.index;
            cr_assert(!seen[part]);
            seen[part] = true;
            slurm_task(id, id, id, 1, 1); /* --array=5 */
            expect_shard("auto/8", part, 8, "Slurm array");
            slurm_task(id, id, id + 1, 1, 2); /* --array=3-4 */
            expect_shard("auto/8", part, 8, "Slurm array");
            slurm_task(id, id, id + 2, 2, 2); /* --array=3,5 */
            expect_shard("auto/8", part, 8, "Slurm array");
        }
    }
    slurm_task(3, 3, 11, 8, 2);
    cr_assert_eq(shard_detect("auto/8", &s), ERR_ARG, "3 and 11 would be one part");
    slurm_task(4, 0, 14, 2, 8);
    cr_assert_eq(shard_detect("auto/8", &s), ERR_ARG);
    cr_assert(strstr(status_message(), "--array=0-7"), "%s", status_message());
    slurm_task(4, 0, 8, 1, 9);
    cr_assert_eq(shard_detect("auto/8", &s), ERR_ARG);
}

Test(shard, engines, .init = clear_environment)
{
    struct shard s;
    slurm_task(15, 5, 20, 5, 4);
    expect_shard("auto/4", 3, 4, "Slurm array");
    cr_assert_eq(shard_detect(NULL, &s), ERR_ARG);
    cr_assert(strstr(status_message(), "--shard auto/N"), "%s", status_message());
    expect_shard("none", 0, 1, NULL);
    expect_shard("1/2", 0, 2, "--shard");
    setenv("SLURM_PROCID", "1", 1);
    setenv("SLURM_NTASKS", "2", 1);
    /* a batch script has these too, with one process */
    expect_shard("auto/4", 3, 4, "Slurm array");
    setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    expect_shard("auto/8", 7, 8, "Slurm array of steps");
    cr_assert_eq(shard_detect("auto/7", &s), ERR_ARG);
    clear_environment();
    setenv("OMPI_COMM_WORLD_RANK", "3", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    expect_shard("auto", 3, 4, "Open MPI");
    setenv("OMPI_COMM_WORLD_RANK", "4", 1);
    cr_assert_eq(shard_detect(NULL, &s), ERR_ARG);
    setenv("OMPI_COMM_WORLD_RANK", "x", 1);
    cr_assert_eq(shard_detect(NULL, &s), ERR_ARG);
    clear_environment();
    setenv("PMI_RANK", "0", 1);
    setenv("PMI_SIZE", "2", 1);
    expect_shard(NULL, 0, 2, "PMI");
    clear_environment();
    setenv("JOB_COMPLETION_INDEX", "1", 1);
    cr_assert_eq(shard_detect(NULL, &s), ERR_ARG);
    expect_shard("auto/3", 1, 3, "Kubernetes indexed job");
}

Test(shard, parts_cover_everything_once)
{
    for (int n = 0; n < 40; n++)
        for (int count_ = 1; count_ < 12; count_++) {
            int next = 0;
            for (int i = 0; i < count_; i++) {
                int first, end;
                shard_range(&(struct shard){i, count_, NULL}, n, &first, &end);
                cr_assert_eq(first, next);
                cr_assert(end - first == n / count_ || end - first == n / count_ + 1);
                next = end;
            }
            cr_assert_eq(next, n);
        }
}
