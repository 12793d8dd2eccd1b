/* The parts of a forward pass: they add up to the call, split where that can be told, and change no
 * bit. */
#include "base/clock.h"
#include "engine/engine.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
enum { N = 700 };

static double parts(const struct forward_times *t)
{
    return t->predict_s + t->attention_s + t->attention_dense_s + t->linear_s + t->rest_s;
}

Test(times, parts_add_up_and_change_no_bit)
{
    struct weights w;
    struct par *par;
    struct session *s;
    struct sparse_policy policy;
    int32_t ids[N];
    CHECK(weights_open(&w, SG_SOURCE_DIR "/suites/demo/model"));
    CHECK(par_open(&par, 2));
    CHECK(session_open(&s, &w, par, N, 256, NULL));
    CHECK(policy_init(&policy, &mask_sparge, w.config.n_layers, w.config.n_heads));
    policy_set_thresholds(&policy, -.1f, 1, 50);
    policy.topk = .4f;
    policy.layer_on[0] = false; /* so that both kinds of attention occur */
    for (int i = 0; i < N; i++) ids[i] = (i * 37 + 11) % w.config.vocab_size;
    size_t values = (size_t)N * (size_t)w.config.hidden_size;
    float *plain = malloc(values * sizeof *plain), *timed = malloc(values * sizeof *timed);
    for (int sparse = 0; sparse < 2; sparse++) {
        struct forward_args f = {
            .tokens = ids, .n = N, .policy = sparse ? &policy : NULL, .hidden = plain};
        struct forward_times t = {0};
        session_reset(s);
        CHECK(session_forward(s, &f));
        session_reset(s);
        f.hidden = timed;
        f.times = &t;
        /* again where another process came between two parts */
        double total = 0;
        for (int i = 0; i < 20 && parts(&t) <= .9 * total; i++) {
            session_reset(s);
            t = (struct forward_times){0};
            int64_t t0 = clock_ns();
            CHECK(session_forward(s, &f));
            total = (double)(clock_ns() - t0) * 1e-9;
            cr_expect(memcmp(plain, timed, values * sizeof *plain) == 0);
            cr_expect(parts(&t) <= total, "%g of %g", parts(&t), total);
        }
        cr_expect(parts(&t) > .9 * total, "%g of %g", parts(&t), total);
        cr_expect(t.attention_dense_s > 0 && t.linear_s > 0 && t.rest_s > 0);
        cr_expect_eq(t.predict_s > 0, sparse);
        cr_expect_eq(t.attention_s > 0, sparse);
        cr_expect_eq(t.has_split, sparse);
        cr_expect(fabs(t.qk_s + t.pv_s - t.attention_s) <= 1e-9 &&
            (!sparse || (t.qk_s > 0 && t.pv_s > 0)));
        struct forward_times once = t;
        session_reset(s);
        CHECK(session_forward(s, &f));
        cr_expect(parts(&t) > parts(&once), "a second pass is added");
    }
    free(plain);
    free(timed);
    policy_clear(&policy);
    session_close(&s);
    par_close(&par);
    weights_close(&w);
}
