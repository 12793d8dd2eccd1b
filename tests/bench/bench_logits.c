/* Logits of every position, for a comparison with another program's: bench_logits MODEL
 * cpu|f32|bf16 IDS OUT
 *
 * IDS: int32 token ids, one sequence. OUT: f32 [n, vocab]. f32 and bf16 name the residual stream on
 * the first GPU. tests/bench/compare_logits.py calls it. */
#include "base/file.h"
#include "engine/engine.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status place(struct weights *w, const char *how)
{
    if (strcmp(how, "cpu") == 0) return OK;
    w->device_options.residual = strcmp(how, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
#ifdef SG_HAVE_CUDA
    return weights_place_cuda(w, 0);
#else
    return fail(ERR_UNSUPPORTED, "%s: this program was built without CUDA", how);
#endif
}

static enum status run(const struct weights *w, struct par *par, const struct str *ids, FILE *out)
{
    const int n = (int)(ids->len / sizeof(int32_t)), width = w->config.hidden_size,
              vocab = w->config.vocab_size;
    struct session *s = NULL;
    float *hidden = malloc(sizeof *hidden * (size_t)n * (size_t)width),
          *z = malloc(sizeof *z * (size_t)vocab);
    int32_t *tokens = malloc(ids->len + 1);
    enum status st = hidden && z && tokens ? OK : fail(ERR_MEMORY, "no memory for %d tokens", n);
    if (st == OK) memcpy(tokens, ids->data, ids->len);
    if (st == OK) st = session_open_once(&s, w, par, n, 0, NULL);
    if (st == OK)
        st = session_forward(s, &(struct forward_args){.tokens = tokens, .n = n, .hidden = hidden});
    for (int r = 0; r < n && st == OK; r++) {
        st = session_logits(s, 1, hidden + (size_t)r * (size_t)width, z);
        if (st == OK && fwrite(z, sizeof *z, (size_t)vocab, out) != (size_t)vocab)
            st = fail(ERR_IO, "cannot write logits");
    }
    session_close(&s);
    free(hidden);
    free(z);
    free(tokens);
    return st;
}

int main(int argc, char **argv)
{
    struct weights w = {0};
    struct par *par = NULL;
    struct str ids = {0};
    FILE *out = NULL;
    if (argc != 5) {
        fprintf(stderr, "usage: bench_logits MODEL cpu|f32|bf16 IDS OUT\n");
        return 2;
    }
    enum status st = par_open(&par, 0);
    if (st == OK) st = weights_open(&w, argv[1]);
    if (st == OK) st = place(&w, argv[2]);
    if (st == OK) st = file_read(&ids, argv[3]);
    if (st == OK && !(out = fopen(argv[4], "wb")))
        st = fail(ERR_IO, "%s: cannot be written", argv[4]);
    if (st == OK) st = run(&w, par, &ids, out);
    if (out && fclose(out) != 0 && st == OK) st = fail(ERR_IO, "%s: cannot be written", argv[4]);
    if (st != OK) fprintf(stderr, "bench_logits: %s\n", status_message());
    str_clear(&ids);
    weights_close(&w);
    par_close(&par);
    return st == OK ? 0 : 1;
}
