/* tune and the files of thresholds it writes, as a stranger uses them. */
#include "tests/cli/cli_fixture.h"

Test(cli_tune, tuning_as_the_guide_spells_it, .init = enter, .fini = leave, .timeout = 300)
{
    struct ran r = expect(PASS,
        "--model " DEMO " --tune --l1 .06 --pv_l1 .07 --layer_range 4,8 --max_length 512 "
        "--num_tune_samples 2 --held-out 1 --model_out_path t.json --stats_out_path s.json "
        "--threads 1 --db r.db");
    cr_expect_eq(r.err.len, 0, "not a terminal, and yet: %s", str_get(&r.err));
    ran_clear(&r);
    ends(PASS,
        "--model_name " DEMO
        " --parallel_tune --l1=0.06 --pv-l1=.07 --layer-range 4,8 --max-length 512 "
        "--num-tune-samples 2 --held_out 1 --model-out-path p.json --threads 2 --db p.db");
    struct str one = file_get(place, "t.json"), two = file_get(place, "p.json");
    cr_expect_str_eq(str_get(&one), str_get(&two), "parallel tuning found something else");
    str_clear(&one);
    str_clear(&two);
    cJSON *t = json_of("t.json");
    cr_expect_str_eq(at(t, "layers")->valuestring, "4-7");
    cr_expect(number(t, "l1") == .06 && number(t, "pv_l1") == .07 && number(t, "num_samples") == 2);
    cr_expect_eq(cJSON_GetArraySize(at(t, "heads")), 16);
    const cJSON *x;
    int n_sparse = 0;
    cJSON_ArrayForEach(x, at(t, "heads"))
    {
        n_sparse += cJSON_IsTrue(at(x, "is_sparse"));
        cr_expect(number(at(x, "achieved"), "l1") <= .07 && number(at(x, "check"), "l1") <= .07);
    }
    cr_expect(n_sparse > 0);
    const cJSON *over = at(t, "held_out_over_bound");
    cr_expect(number(over, "samples") == 1 && number(over, "sparse_heads") == n_sparse &&
            number(over, "share_hi") > .5,
        "one held-out text vouches for little: %g", number(over, "share_hi"));
    cJSON_Delete(t);
    cr_expect(here("s.json"), "--stats_out_path wrote nothing");
    if (here("s.json")) {
        cJSON *s = json_of("s.json");
        cr_expect(cJSON_IsArray(s) && cJSON_GetArraySize(s) >= 4);
        cJSON_ArrayForEach(x, s)
            cr_expect(number(x, "layer_idx") >= 0 && number(x, "mean_sparsity") >= 0);
        cJSON_Delete(s);
    }
    r = expect(PASS, "explain t.json");
    cr_expect(has(&r.out, "0.06"));
    ran_clear(&r);
    ends(PASS, EVAL "-q --tuned t.json --max-length 512 --num-samples 2 --output after_tune.json");
    cJSON *after = json_of("after_tune.json");
    cr_expect(
        number(at(after, "config"), "l1") == .06 && number(at(after, "config"), "pv_l1") == .07);
    cr_expect_str_eq(at(at(after, "config"), "layer_range")->valuestring, "4,8");
    cr_expect(number(at(after, "sparsity"), "mean") > 0);
    cJSON_Delete(after);
    /* thresholds of another model, shape or method */
    refuses(USAGE, EVAL "--tuned t.json --block 64x64 --max-length 300",
        SAYS("t.json", "block", "128x64", "64x64"));
    refuses(USAGE, EVAL "--tuned t.json --simthreshd1 .5", SAYS("--tuned", "--simthreshd1"));
    refuses(RUN_ERROR, EVAL "--tuned after_tune.json", SAYS("after_tune.json", "kind"));
    file_edit(place, "t.json", "\"model_fingerprint\": \"xxh3:", "\"model_fingerprint\": \"xxh3:0");
    struct ran other = run(EVAL "--tuned t.json --max-length 300");
    cr_expect(other.code == USAGE || other.code == RUN_ERROR, "%d", other.code);
    cr_expect(has(&other.err, "model_fingerprint") && has(&other.err, "t.json"), "%s",
        str_get(&other.err));
    ran_clear(&other);
}

/* What a tuned file fixes cannot be asked for otherwise beside it. */
Test(cli_tune, tuned_files_and_contrary_options, .init = enter, .fini = leave)
{
    ends(PASS,
        "tune " DEMO " -q --max-length 300 --num-tune-samples 1 --held-out 0 --layers 7 --threads "
        "1 --db r.db -o t.json");
    static const char *const contrary[] = {"--smooth-k global", "--method oracle", "--topk .5"};
    for (int i = 0; i < 3; i++) {
        char words[256];
        snprintf(words, sizeof words, EVAL "-q --tuned t.json --max-length 300 --num-samples 1 %s",
            contrary[i]);
        ends(USAGE, words);
    }
}

Test(cli_tune, a_grid_of_bounds_and_torch_files, .init = enter, .fini = leave)
{
    ends(PASS,
        "tune " DEMO
        " -q --max-length 300 --num-tune-samples 1 --held-out 1 --layers 6,8 --threads 1 --db r.db "
        "--l1 .04,.10 --pv-l1 l1+.02 -o grid.json");
    cr_expect(here("grid_l1=0.04_pv=0.06.json") && here("grid_l1=0.1_pv=0.12.json"));
    ends(PASS,
        "tune " DEMO " -q --max-length 300 --num-tune-samples 1 --held-out 1 --layers 6,8 "
        "--threads 1 --db r.db -o x.pt");
    struct str pt = file_get(place, "x.pt");
    cr_expect(pt.len > 4 && memcmp(pt.data, "PK\3\4", 4) == 0,
        "x.pt is no zip file of torch's, it begins \"%.8s\"", str_get(&pt));
    str_clear(&pt);
    refuses(RUN_ERROR,
        "tune " DEMO
        " -q --max-length 300 --num-tune-samples 1 --held-out 1 --layers 7 --threads 1 --db r.db "
        "-o /nowhere/t.json",
        SAYS("/nowhere/t.json"));
}

Test(cli_tune, from_curves_needs_curves, .init = enter, .fini = leave)
{
    struct ran r =
        run("tune " DEMO " -q --max-length 300 --num-tune-samples 1 --held-out 0 --layers 7 "
            "--threads 1 --db r.db --from-curves -o t.json");
    cr_expect(r.code != PASS && has(&r.err, "curve") && !here("t.json"), "exit code %d: %s", r.code,
        str_get(&r.err));
    ran_clear(&r);
    ends(PASS,
        "tune " DEMO
        " -q --max-length 300 --num-tune-samples 1 --held-out 0 --layers 7 --threads 1 "
        "--db r.db -o first.json");
    ends(PASS,
        "tune " DEMO
        " -q --max-length 300 --num-tune-samples 1 --held-out 0 --layers 7 --threads 1 "
        "--db r.db --l1 .1 --from-curves -o t.json");
    cr_expect(here("t.json"));
}

/* What thresholds from a file do not promise is said before they run. */
Test(cli_tune, tuned_files_say_what_they_do_not_promise, .init = enter, .fini = leave)
{
#define TUNE \
    "tune " DEMO " -q --max-length 300 --num-tune-samples 1 --layers 7 --threads 1 --db r.db "
    ends(PASS, TUNE "--held-out 1 -o sound.json");
    ends(PASS, TUNE "--held-out 0 -o alone.json");
    ends(PASS, TUNE "--held-out 1 --from-curves -o curves.json");
    ends(PASS, TUNE "--held-out 1 --from-curves -o curves.json"); /* its like it may replace */
    refuses(USAGE, TUNE "--held-out 1 --from-curves -o sound.json",
        SAYS("sound_guide.json", "verified"));
    static const struct {
        const char *words, *says;
    } cases[] = {
        {EVAL "-q --tuned sound.json --max-length 300 --num-samples 1", NULL},
        {EVAL "-q --tuned alone.json --max-length 300 --num-samples 1",
            "alone.json: tuned with no held-out samples"},
        {EVAL "-q --tuned curves.json --max-length 300 --num-samples 1",
            "curves.json: nothing in it was verified"},
        {EVAL "-q --tuned sound.json --max-length 400 --num-samples 1",
            "sound.json: tuned on samples of up to 288 tokens, run on 381"},
        {"audit " DEMO " -q --threads 1 --tuned sound.json --max-length 400",
            "sound.json: tuned on samples of up to 288 tokens, run on 381"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ran r = run(cases[i].words);
        cr_expect_neq(r.code, RUN_ERROR, "%s: %s", cases[i].words, str_get(&r.err));
        cr_expect(cases[i].says ? has(&r.err, cases[i].says) : !has(&r.err, "sound.json"), "%s: %s",
            cases[i].words, str_get(&r.err));
        ran_clear(&r);
    }
}

/* The guide's choice and the recommended one, side by side unless one of them is asked for. */
Test(cli_tune, tune_without_a_choice_makes_both, .init = enter, .fini = leave)
{
#define BOTH                                                                                    \
    "tune " DEMO " -q --max-length 300 --num-tune-samples 1 --check 1 --held-out 1 --layers 7 " \
    "--threads 1 --db r.db "
    struct ran r = expect(PASS, BOTH "--format csv -o both.json");
    cr_expect(here("both.json") && here("both_guide.json"));
    cr_expect(has(&r.out, "guide,sparge,") && has(&r.out, "recommended,sparge/bound,"), "%s",
        str_get(&r.out));
    ran_clear(&r);
    struct str guide = file_get(place, "both_guide.json"), ours = file_get(place, "both.json");
    cr_expect(has(&guide, "\"method\": \"sparge\"") && has(&guide, "\"rule\": \"l1\""), "%s",
        str_get(&guide));
    cr_expect(has(&ours, "\"method\": \"sparge/bound\"") && has(&ours, "\"rule\": \"rmse\""), "%s",
        str_get(&ours));
    str_clear(&guide);
    str_clear(&ours);
    ends(PASS, BOTH "--profile recommended --l1 .2 --pv-l1 l1+.01 -o one.json");
    cr_expect(here("one.json") && !here("one_guide.json"));
    ours = file_get(place, "one.json");
    cr_expect(has(&ours, "\"method\": \"sparge/bound\"") && has(&ours, "\"l1\": 0.2"), "%s",
        str_get(&ours));
    str_clear(&ours);
    r = expect(PASS,
        "tune " DEMO " --max-length 300 --num-tune-samples 1 --check 1 --held-out 1 --layers 7 "
        "--threads 1 --db r.db -o x.pt");
    cr_expect(here("x.pt") && !here("x_guide.pt") && has(&r.err, "the guide's profile alone"), "%s",
        str_get(&r.err));
    ran_clear(&r);
    refuses(USAGE, BOTH "--profile best", SAYS("--profile", "best", "guide or recommended"));
}

/* The ledger names the thresholds that a run looked at, and a missing time says why. */
Test(cli_tune, thresholds_not_looked_at_and_times_not_taken_are_not_shown, .init = enter,
    .fini = leave)
{
    struct ran r = expect(PASS, EVAL SHORT "--details --topk .5");
    cr_expect(has(&r.out, "time dense") && has(&r.out, "time sparse"), "%s", str_get(&r.out));
    ran_clear(&r);
    r = expect(PASS, EVAL SHORT "--details --window 128");
    cr_expect(!has(&r.out, "time dense") && !has(&r.out, "time sparse"), "both sides or none: %s",
        str_get(&r.out));
    ran_clear(&r);
    ends(PASS, EVAL SHORT "--window 128 --pvthreshd 4");
    ends(PASS, EVAL SHORT "--cdfthreshd .9");
    r = expect(PASS,
        "sql --db r.db --format csv "
        "SELECT/**/run,count(theta)>0,count(tau)>0,count(lambda)>0/**/FROM/**/v_ledger/**/GROUP/**/"
        "BY/**/run");
    cr_expect(has(&r.out, "1,1,0,1") && has(&r.out, "2,0,0,0") && has(&r.out, "3,0,0,1") &&
            has(&r.out, "4,1,1,1"),
        "%s", str_get(&r.out));
    ran_clear(&r);
    r = expect(PASS,
        "sql --db r.db --format csv SELECT/**/id,pvthreshd/**/FROM/**/v_runs/**/WHERE/**/id=3");
    cr_expect(has(&r.out, "3,4"), "%s", str_get(&r.out));
    ran_clear(&r);
}
