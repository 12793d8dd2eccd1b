/* Sessions on the CPU: without a cache, and logits of the last row. */
#include "engine/engine.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
enum { N = 300 };

Test(session, without_a_cache_gives_the_same_bits)
{
    struct weights w;
    struct par *par;
    struct session *s, *once;
    int32_t ids[N];
    CHECK(weights_open(&w, SG_SOURCE_DIR "/suites/demo/model"));
    CHECK(par_open(&par, 2));
    CHECK(session_open(&s, &w, par, N, 0, NULL));
    CHECK(session_open_once(&once, &w, par, N + 10, 0, NULL));
    for (int i = 0; i < N; i++) ids[i] = (i * 31 + 7) % w.config.vocab_size;
    size_t values = (size_t)N * (size_t)w.config.hidden_size, vocab = (size_t)w.config.vocab_size;
    float *a = malloc(values * sizeof *a), *b = malloc(values * sizeof *b),
          *z = malloc(4 * vocab * sizeof *z);
    CHECK(session_forward(s, &(struct forward_args){.tokens = ids, .n = N, .hidden = a}));
    for (int round = 0; round < 2; round++) {
        session_reset(once);
        memset(b, 0, values * sizeof *b);
        CHECK(session_forward(
            once, &(struct forward_args){.tokens = ids, .n = N, .hidden = b, .last_logits = z}));
        cr_expect(memcmp(a, b, values * sizeof *a) == 0);
    }
    for (int n = 1; n <= 3; n += 2) {
        CHECK(session_logits(s, n, a + values - n * w.config.hidden_size, z + vocab));
        cr_expect(memcmp(z, z + (size_t)n * vocab, vocab * sizeof *z) == 0,
            "the last logits are others, as the last of %d rows", n);
    }
    cr_expect_eq(session_forward(once, &(struct forward_args){.tokens = ids, .n = 1}), ERR_ARG);
    cr_expect(strstr(status_message(), "keeps no keys"), "%s", status_message());
    struct session_plan all = session_plan_for(&w, N, 0, false, 2),
                        one = session_plan_for(&w, N, 0, true, 2);
    cr_expect(one.once && one.kv_bytes * (size_t)w.config.n_layers == all.kv_bytes);
    cr_expect(one.total_bytes < all.total_bytes);
    cr_expect(!session_plan_for(&w, N, 128, true, 2).once, "several chunks need the cache");
    free(a);
    free(b);
    free(z);
    session_close(&s);
    session_close(&once);
    par_close(&par);
    weights_close(&w);
}

static size_t heap_bytes(void)
{
    struct mallinfo2 m = mallinfo2(); /* all 0 under a sanitizer */
    return m.uordblks + m.hblkhd;
}

/* What a session takes beside its plan, by method: never more than was said, and not much less. */
Test(session, scratch_is_planned)
{
    static const char *const methods[] = {"sparge", "oracle", "xattention", "a-shape"};
    enum { LONG = 1000, CHUNK = 640 };
    struct weights w;
    struct par *par;
    int32_t ids[LONG];
    CHECK(weights_open(&w, SG_SOURCE_DIR "/suites/demo/model"));
    CHECK(par_open(&par, 2));
    for (int i = 0; i < LONG; i++) ids[i] = (i * 31 + 7) % 250;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        for (int chunk = 0; chunk <= CHUNK; chunk += CHUNK) {
            struct session *s;
            struct sparse_policy p;
            const struct mask_method *method;
            CHECK(mask_method_parse(methods[i], &method));
            CHECK(policy_init(&p, method, w.config.n_layers, w.config.n_heads));
            CHECK(session_open(&s, &w, par, LONG, chunk, NULL));
            struct session_plan plan = session_plan_for(&w, LONG, chunk, false, 2);
            size_t said = session_scratch_for(&w, &plan, &p, 2).bytes, before = heap_bytes();
            CHECK(
                session_forward(s, &(struct forward_args){.tokens = ids, .n = LONG, .policy = &p}));
            size_t taken = heap_bytes() - before;
            if (before) {
                cr_expect_leq(taken, said + 16384, "%s in chunks of %d: %zu bytes, planned %zu",
                    methods[i], chunk, taken, said);
                cr_expect_geq(taken, said / 4 * 3, "%s in chunks of %d: %zu bytes, planned %zu",
                    methods[i], chunk, taken, said);
            }
            session_close(&s);
            policy_clear(&p);
        }
    par_close(&par);
    weights_close(&w);
}
