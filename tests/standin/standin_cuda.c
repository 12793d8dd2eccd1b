/* The host code of sessions on a GPU, on the CPU: engine/cuda as it is, over standin_kernels.c.
 * Every golden model runs with its stream in f32 and in bf16; logits are transformers' within bf16,
 * and what must change no bit changes none: sequences in pieces, weights offloaded or split over
 * two devices, others decoded beside. */
#include "base/file.h"
#include "base/json.h"
#include "engine/cuda/session_cuda.h"
#include "engine/session.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IDS = 512, PROMPT = 40, MORE = 6, SEQUENCES = 3 };

/* Norm of the difference over norm, all logits of a model; measured up to .023. */
#define MOST_APART .03

static int n_checked, n_failed;
static const char *model, *way;

static void check(bool holds, const char *what)
{
    n_checked++;
    if (!holds) n_failed++, printf("FAIL %s, %s: %s\n", model, way, what);
}

static void must(enum status st)
{
    if (st == OK) return;
    printf("FAIL %s, %s: %s\n", model, way, status_message());
    exit(1);
}

struct golden {
    int32_t ids[MAX_IDS], at[64];
    int n, n_at;
    struct str logits;
};

static int read_list(const cJSON *root, const char *name, int32_t *to)
{
    int n = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(root, name)) to[n++] = (int32_t)x->valuedouble;
    return n;
}

static bool equal(const float *x, const float *y, size_t n)
{
    return memcmp(x, y, n * sizeof *x) == 0;
}

static void check_logits(
    const struct weights *w, struct session *s, const struct golden *g, const float *hidden)
{
    int vocab = w->config.vocab_size;
    const float *want = (const float *)(const void *)str_get(&g->logits);
    float *z = malloc(sizeof *z * (size_t)vocab);
    double diff = 0, norm = 0;
    for (int i = 0; i < g->n_at; i++, want += vocab) {
        must(session_logits(s, 1, hidden + g->at[i] * w->config.hidden_size, z));
        for (int t = 0; t < vocab; t++) {
            diff += pow((double)z[t] - (double)want[t], 2);
            norm += pow((double)want[t], 2);
        }
    }
    if (getenv("SG_VERBOSE")) printf("%s, %s: %.4f\n", model, way, sqrt(diff / norm));
    check(sqrt(diff / norm) < MOST_APART, "logits are not transformers'");
    free(z);
}

static void run(
    struct session *s, const int32_t *ids, int n, int total, float *hidden, float *logits)
{
    must(session_forward(s,
        &(struct forward_args){
            .tokens = ids, .n = n, .total_len = total, .hidden = hidden, .last_logits = logits}));
}

/* The same sequence whole, its last row's logits, and that row as a step. */
static void check_pieces(
    const struct weights *w, struct par *par, const struct golden *g, const float *hidden)
{
    size_t h = (size_t)w->config.hidden_size, n = (size_t)g->n,
           vocab = (size_t)w->config.vocab_size;
    const float *last = hidden + (n - 1) * h;
    float *again = malloc(sizeof *again * n * h), *z = malloc(sizeof *z * 2 * vocab);
    struct session *s;
    must(session_open(&s, w, par, g->n, 0, NULL));
    run(s, g->ids, g->n, 0, again, z);
    check(equal(again, hidden, n * h), "a whole sequence is not its chunks");
    must(session_logits(s, 1, last, z + vocab));
    check(equal(z, z + vocab, vocab), "the last logits are not those of the last row");
    session_reset(s);
    run(s, g->ids, g->n - 1, g->n, NULL, NULL);
    run(s, g->ids + g->n - 1, 1, 0, again, NULL);
    check(equal(again, last, h), "a step is not the last row");
    session_close(&s);
    free(again), free(z);
}

/* Sequences decoded together, the first to the end of its slot, beside each alone; false: the model
 * has no slots. */
static bool check_slots(const struct weights *w, struct par *par, const struct golden *g)
{
    int vocab = w->config.vocab_size, got = 0, failed;
    int32_t alone[SEQUENCES][MORE + 1], next[SEQUENCES];
    struct session *s;
    must(session_open(&s, w, par, PROMPT + MORE, 0, NULL));
    must(session_slots(s, SEQUENCES, &got));
    float *z = malloc(sizeof *z * (size_t)vocab);
    for (int k = got; k-- > 0;) {
        session_reset(s);
        run(s, g->ids + k, PROMPT - 9 * k, 0, NULL, z);
        must(session_keep(s, k));
        for (int t = 0; t <= MORE; t++) {
            alone[k][t] = 0;
            for (int i = 0; i < vocab; i++)
                if (z[i] > z[alone[k][t]]) alone[k][t] = i;
            if (t < MORE) run(s, &alone[k][t], 1, 0, NULL, z);
        }
    }
    for (int t = 0; t < MORE && got; t++) {
        struct session_step list[SEQUENCES];
        for (int i = 0, k = got; k-- > 0; i++)
            list[i] = (struct session_step){.slot = k, .token = alone[k][t]};
        must(session_step(s, list, got, next, &failed));
        for (int i = 0; i < got; i++)
            check(next[i] == alone[list[i].slot][t + 1], "another token beside others than alone");
    }
    session_close(&s);
    free(z);
    return got == SEQUENCES;
}

/* hidden: of the first way, later ones must give the same. */
static void run_way(const char *dir, const struct golden *g, struct par *par,
    const struct device_options *how, bool split, float **hidden, int *n_slots)
{
    struct weights w;
    struct session *s;
    must(weights_open_with(&w, dir, how));
    must(split ? weights_place_split(&w, (int[]){0, 1}, 2) : weights_place_cuda(&w, 0));
    size_t values = (size_t)g->n * (size_t)w.config.hidden_size;
    float *out = malloc(sizeof *out * values);
    must(session_open(&s, &w, par, g->n, 128, NULL));
    run(s, g->ids, g->n, 0, out, NULL);
    if (*hidden) {
        check(equal(out, *hidden, values), "where the weights are changes the result");
    } else {
        check_logits(&w, s, g, out);
        check_pieces(&w, par, g, out);
        *n_slots += check_slots(&w, par, g);
    }
    session_close(&s);
    weights_close(&w);
    if (*hidden) free(out);
    else *hidden = out;
}

static bool check_model(const char *dir, struct par *par, int *n_slots)
{
    static const char *const ways[] = {"f32", "bf16", "f32 offloaded", "bf16 split"};
    struct golden g = {0};
    struct weights w;
    float *hidden[2] = {NULL, NULL};
    cJSON *root;
    char *json = path_join(dir, "golden.json"), *logits = path_join(dir, "logits.bin");
    way = "opening";
    must(json_read_file(&root, json));
    must(file_read(&g.logits, logits));
    g.n = read_list(root, "ids", g.ids);
    g.n_at = read_list(root, "positions", g.at);
    must(weights_open(&w, dir));
    bool runs = weights_cuda_refuses(&w.config) == NULL;
    if (!runs) check(weights_place_cuda(&w, 0) == ERR_UNSUPPORTED, "refused and placed");
    bool cut = w.config.n_layers > 1;
    weights_close(&w);
    for (int i = 0, ends = runs ? cut ? 4 : 3 : 0; i < ends; i++) {
        way = ways[i];
        run_way(dir, &g, par,
            &(struct device_options){.residual = i % 2 ? DTYPE_BF16 : DTYPE_F32, .offload = i == 2},
            i == 3, &hidden[i % 2], n_slots);
    }
    free(hidden[0]), free(hidden[1]);
    str_clear(&g.logits);
    cJSON_Delete(root);
    free(json), free(logits);
    return runs;
}

int main(void)
{
    struct dirent **list;
    struct par *par;
    int n = scandir(TESTS_DIR "/golden/models", &list, NULL, alphasort), n_run = 0, n_slots = 0;
    model = "none", way = "at first";
    must(par_open(&par, 1));
    for (int i = 0; i < n; i++) {
        char *dir = path_join(TESTS_DIR "/golden/models", list[i]->d_name);
        model = list[i]->d_name;
        if (model[0] != '.') n_run += check_model(dir, par, &n_slots);
        free(dir);
    }
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
    par_close(&par);
    model = "all", way = "in the end";
    check(n_run >= 30 && n_slots >= 30, "too few models ran");
    printf("%d of %d checks failed; %d models, %d slots\n", n_failed, n_checked, n_run, n_slots);
    return n_failed != 0;
}
