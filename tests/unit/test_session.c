/* Sessions on the CPU: without a cache, and logits of the last row. */
#include "engine/engine.h"

#include <criterion/criterion.h>
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
          *z = malloc(2 * vocab * sizeof *z);
    CHECK(session_forward(s, &(struct forward_args){.tokens = ids, .n = N, .hidden = a}));
    for (int round = 0; round < 2; round++) {
        session_reset(once);
        memset(b, 0, values * sizeof *b);
        CHECK(session_forward(
            once, &(struct forward_args){.tokens = ids, .n = N, .hidden = b, .last_logits = z}));
        cr_expect(memcmp(a, b, values * sizeof *a) == 0);
    }
    CHECK(session_logits(s, a + values - w.config.hidden_size, z + vocab));
    cr_expect(memcmp(z, z + vocab, vocab * sizeof *z) == 0, "the last logits are others");
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
