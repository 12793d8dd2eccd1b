/* A checkpoint run whole: its loss dense and sparse on one text, and a few words more.
 *
 *   cc model.c $(pkg-config --cflags --libs sparsegauge) -lm -o model && ./model MODEL [tuned.json]
 * < text
 */
#include <sparsegauge.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_TOKENS = 1024, NEW_TOKENS = 8 };

static int check(enum sg_status st, const char *what)
{
    if (st != SG_OK) fprintf(stderr, "%s: %s: %s\n", what, sg_status_name(st), sg_message());
    return st == SG_OK;
}

int main(int argc, char **argv)
{
    static char text[1 << 16];
    struct sg_context *context = NULL;
    struct sg_model *model = NULL;
    struct sg_policy *policy = NULL;
    struct sg_shape shape = {.size = sizeof shape};
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [tuned.json] < text\n", argv[0]);
        return 2;
    }
    size_t len = fread(text, 1, sizeof text, stdin), n = 0;
    int ok = check(sg_open(&context, 0), "sg_open") &&
        check(sg_model_open(&model, context, argv[1]), argv[1]) &&
        check(sg_model_shape(model, &shape), "sg_model_shape") &&
        check(sg_model_encode(model, text, len, NULL, 0, &n), "sg_model_encode");
    if (ok && argc > 2)
        ok = check(sg_policy_read(&policy, argv[2], shape.n_layers, shape.n_heads, NULL), argv[2]);
    if (ok && argc == 2)
        ok = check(
            sg_policy_open(&policy, "sparge", shape.n_layers, shape.n_heads), "sg_policy_open");
    int n_heads = shape.n_layers * shape.n_heads, n_out = 0,
        used = n < MOST_TOKENS ? (int)n : MOST_TOKENS;
    int32_t *ids = malloc(sizeof *ids * (n + 1)), out[NEW_TOKENS];
    struct sg_ledger *ledger = calloc((size_t)n_heads + 1, sizeof *ledger), sum = {0};
    struct sg_generation g = {.size = sizeof g, .max_new = NEW_TOKENS};
    double dense = NAN, sparse = NAN;
    char *words = NULL;
    if (!ids || !ledger) fprintf(stderr, "no memory for %zu tokens\n", n);
    ok = ok && ids && ledger &&
        check(sg_model_encode(model, text, len, ids, n, &n), "sg_model_encode") &&
        check(sg_model_loss(model, ids, used, NULL, NULL, &dense, NULL), "dense") &&
        check(sg_model_loss(model, ids, used, policy, NULL, &sparse, ledger), "sparse") &&
        check(sg_model_generate(model, ids, used, policy, &g, out, &n_out, NULL), "generate") &&
        check(sg_model_decode(model, out, (size_t)n_out, &words), "decode");
    if (ok) {
        for (int i = 0; i < n_heads; i++) sg_ledger_add(&sum, &ledger[i]);
        printf("%s, %d tokens: %.4f nats dense, %.4f with %.1f %% left out; it goes on: \"%s\"\n",
            sg_model_name(model), used, dense, sparse, 100 * sg_sparsity(&sum), words);
        ok = isfinite(dense) && isfinite(sparse) && dense > 0 && n_out > 0;
    }
    sg_free(words);
    free(ids);
    free(ledger);
    sg_policy_close(&policy);
    sg_model_close(&model);
    sg_close(&context);
    return ok ? 0 : 1;
}
