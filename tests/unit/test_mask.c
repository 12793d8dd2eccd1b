#include "base/rng.h"
#include "kernels/mask.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* An independent, slow fp64 reading of METHOD 2, and the methods held against it. */

static const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};

struct input {
    struct attn_args a;
    float *q, *k;
    struct head_params *heads;
};

/* Tokens come in stretches with a direction of their own, so that blocks differ in self-similarity;
 * some rows are zero. token-major, one float of padding behind each row. */
static struct input input_make(
    uint64_t seed, int n, int n_heads, int n_kv_heads, int d, struct block_shape block)
{
    struct rng r;
    rng_init(&r, seed);
    struct input in = {.a = {.dtype = DTYPE_F32,
                           .n_q = n,
                           .n_heads = n_heads,
                           .n_kv_heads = n_kv_heads,
                           .head_dim = d,
                           .scale = 1 / sqrtf((float)d),
                           .block = block}};
    in.a.q_head = in.a.k_head = d;
    in.a.q_row = n_heads * d + 1;
    in.a.k_row = n_kv_heads * d + 1;
    in.q = calloc((size_t)(n * in.a.q_row), sizeof *in.q);
    in.k = calloc((size_t)(n * in.a.k_row), sizeof *in.k);
    in.heads = calloc((size_t)n_heads, sizeof *in.heads);
    for (int side = 0; side < 2; side++) {
        float *x = side ? in.k : in.q;
        ptrdiff_t row = side ? in.a.k_row : in.a.q_row;
        int heads = side ? n_kv_heads : n_heads;
        for (int h = 0; h < heads; h++) {
            float direction[128] = {0}, noise = 1;
            for (int t = 0; t < n; t++) {
                if (t % 64 == 0 && rng_below(&r, 4)) {
                    noise = (float)(.2 + 2 * rng_unit(&r));
                    for (int i = 0; i < d; i++) direction[i] = (float)rng_normal(&r);
                }
                bool zero = rng_below(&r, 40) == 0;
                for (int i = 0; i < d; i++)
                    x[t * row + h * d + i] =
                        zero ? 0 : direction[i] + noise * (float)rng_normal(&r);
            }
        }
    }
    in.a.q = in.q;
    in.a.k = in.k;
    for (int h = 0; h < n_heads; h++)
        in.heads[h] = (struct head_params){.6f, .98f, 50, true, 0, 0, 0};
    return in;
}

static void input_free(struct input *in)
{
    free(in->q);
    free(in->k);
    free(in->heads);
}

static struct tile_map predict(
    const struct mask_method *m, const struct mask_args *a, struct par *par)
{
    struct tile_map map =
        tile_map_shape(a->attn->block, a->attn->n_heads, a->attn->q_start, a->attn->n_q);
    map.bits = malloc(tile_map_bytes(&map));
    memset(map.bits, 0xa5, tile_map_bytes(&map));
    size_t bytes = mask_workspace(m, a, par_threads(par));
    char *ws = aligned_alloc(64, bytes + 64);
    memset(ws, 0xff, bytes + 64);
    cr_assert_eq(mask_predict(m, a, &map, ws, par), OK, "%s", status_message());
    for (size_t i = bytes; i < bytes + 64; i++)
        cr_assert_eq(ws[i], (char)0xff, "wrote behind the workspace");
    free(ws);
    return map;
}

static bool bit(const struct tile_map *m, int h, int i, int j)
{
    return tile_map_row(m, h, i)[j / 64] >> (j % 64) & 1;
}

enum { MAX_BLOCKS = 32 };

struct slow {
    int nq, nk;
    double q_sim[MAX_BLOCKS], k_sim[MAX_BLOCKS], q_mean[MAX_BLOCKS][128], k_mean[MAX_BLOCKS][128];
};

static void mean_rows(const float *x, ptrdiff_t row, int from, int to, int d, double *mean)
{
    memset(mean, 0, sizeof *mean * (size_t)d);
    for (int t = from; t < to; t++)
        for (int i = 0; i < d; i++) mean[i] += (double)x[t * row + i] / (to - from);
}

/* Mean over all pairs of rows of the cosine, pair by pair. */
static double pair_similarity(
    const float *x, ptrdiff_t row, int from, int to, int d, const double *centre)
{
    double unit[128][128], sum = 0;
    int n = to - from;
    for (int t = 0; t < n; t++) {
        double norm = 0;
        for (int i = 0; i < d; i++) {
            unit[t][i] = (double)x[(from + t) * row + i] - (centre ? centre[i] : 0);
            norm += unit[t][i] * unit[t][i];
        }
        for (int i = 0; i < d && norm > 0; i++) unit[t][i] /= sqrt(norm);
    }
    for (int s = 0; s < n; s++)
        for (int t = 0; t < n; t++)
            for (int i = 0; i < d; i++) sum += unit[s][i] * unit[t][i];
    return sum / n / n;
}

static void slow_prepare(const struct mask_args *m, int h, struct slow *s)
{
    const struct attn_args *a = m->attn;
    int d = a->head_dim, bq = a->block.q, bk = a->block.k, n_kv = attn_n_kv(a);
    const float *q = (const float *)a->q + h * a->q_head;
    const float *k = (const float *)a->k + h / (a->n_heads / a->n_kv_heads) * a->k_head;
    s->nq = (a->n_q + bq - 1) / bq;
    s->nk = (n_kv + bk - 1) / bk;
    cr_assert(s->nq <= MAX_BLOCKS && s->nk <= MAX_BLOCKS);
    for (int i = 0; i < s->nq; i++) {
        int end = (i + 1) * bq < a->n_q ? (i + 1) * bq : a->n_q;
        mean_rows(q, a->q_row, i * bq, end, d, s->q_mean[i]);
        s->q_sim[i] = pair_similarity(q, a->q_row, i * bq, end, d, NULL);
    }
    for (int j = 0; j < s->nk; j++) {
        int end = (j + 1) * bk < n_kv ? (j + 1) * bk : n_kv;
        double centre[128];
        mean_rows(k, a->k_row, j * bk, end, d, s->k_mean[j]);
        mean_rows(k, a->k_row, 0, m->smooth_k == SMOOTH_K_RUNNING ? end : n_kv, d, centre);
        s->k_sim[j] = pair_similarity(
            k, a->k_row, j * bk, end, d, m->smooth_k == SMOOTH_K_OFF ? NULL : centre);
    }
}

static const double CLOSE = 2e-5;

struct slow_row {
    int n;
    double p[MAX_BLOCKS];
    int forced[MAX_BLOCKS];
    bool keep[MAX_BLOCKS];
    bool unsure; /* some decision is closer than f32 can tell */
};

static void slow_row(
    const struct mask_args *m, const struct slow *s, int h, int i, struct slow_row *out)
{
    const struct attn_args *a = m->attn;
    const struct head_params *hp = &m->heads[h];
    int qb = a->q_start / a->block.q + i, d = a->head_dim, last = (qb + 1) * a->block.q - 1;
    if (last >= attn_n_kv(a)) last = attn_n_kv(a) - 1;
    memset(out, 0, sizeof *out);
    double theta = (double)hp->theta, tau = (double)hp->tau, top = -INFINITY, sum = 0,
           score[MAX_BLOCKS];
    bool q_similar = s->q_sim[i] > theta;
    out->unsure = fabs(s->q_sim[i] - theta) < CLOSE;
    while (out->n * a->block.k <= last) {
        int j = out->n++;
        bool k_similar = s->k_sim[j] > theta;
        out->unsure |= fabs(s->k_sim[j] - theta) < CLOSE;
        score[j] = 0;
        for (int c = 0; c < d; c++)
            score[j] += s->q_mean[i][c] * s->k_mean[j][c] * (double)a->scale;
        if (!k_similar) score[j] = -INFINITY;
        top = fmax(top, score[j]);
        bool diagonal = j * a->block.k <= last && (j + 1) * a->block.k - 1 >= qb * a->block.q;
        out->forced[j] = (j == 0 ? FORCE_SINK : 0) | (diagonal ? FORCE_DIAGONAL : 0) |
            (q_similar ? 0 : FORCE_THETA_Q) | (k_similar ? 0 : FORCE_THETA_K);
    }
    for (int j = 0; j < out->n; j++) sum += out->p[j] = top == -INFINITY ? 0 : exp(score[j] - top);
    for (int j = 0; j < out->n && sum > 0; j++) out->p[j] /= sum;
    double running = 0;
    bool taken[MAX_BLOCKS] = {0};
    int limit = m->topk > 0 ? (int)ceil((double)m->topk * out->n - 1e-6) : out->n;
    for (int count = 0; count < limit; count++) {
        int best = -1;
        for (int j = 0; j < out->n; j++)
            if (!taken[j] && out->p[j] > 0 && (best < 0 || out->p[j] > out->p[best])) best = j;
        if (best < 0) break;
        for (int j = 0; j < out->n; j++)
            if (!taken[j] && out->p[j] > 0 && out->p[j] != out->p[best] &&
                out->p[j] / out->p[best] > 1 - CLOSE)
                /* exact ties come from zero rows only and are ties in f32, too */
                out->unsure = true;
        running += out->p[best];
        if (m->topk == 0 && tau < 1) {
            if (count > 0) out->unsure |= fabs(running - tau) < CLOSE;
            if (count > 0 && running > tau) break;
        }
        taken[best] = out->keep[best] = true;
    }
    for (int j = 0; j < out->n; j++) out->keep[j] |= out->forced[j] != 0;
}

struct verdict {
    int rows, unsure, kept, possible,
        mid; /* mid: rows that keep some of the unforced tiles and drop others */
};

/* What no threshold changes, for all heads. */
static struct slow *slow_all(const struct mask_args *m)
{
    struct slow *s = malloc(sizeof *s * (size_t)m->attn->n_heads);
    for (int h = 0; h < m->attn->n_heads; h++) slow_prepare(m, h, &s[h]);
    return s;
}

static void compare_with_slow(const struct mask_args *m, const struct slow *s, struct verdict *v)
{
    const struct attn_args *a = m->attn;
    struct tile_map map = predict(&mask_sparge, m, NULL);
    struct slow_row row;
    for (int h = 0; h < a->n_heads; h++) {
        for (int i = 0; i < map.n_qblocks; i++) {
            slow_row(m, &s[h], h, i, &row);
            v->rows++;
            cr_assert_eq(
                row.n, tiles_possible(a->block, a->q_start / a->block.q + i, attn_n_kv(a)));
            for (int j = row.n; j < map.words_per_row * 64; j++)
                cr_assert_not(bit(&map, h, i, j), "impossible tile (%d, %d) is set", i, j);
            int dropped = 0, chosen = 0;
            for (int j = 0; j < row.n; j++) {
                bool got = bit(&map, h, i, j);
                if (row.forced[j] & (FORCE_SINK | FORCE_DIAGONAL))
                    cr_assert(got, "sink or diagonal (%d, %d) lost", i, j);
                if (!row.unsure)
                    cr_assert_eq(got, row.keep[j],
                        "head %d tile (%d, %d): %d, expected %d; theta %g tau %g topk %g %s", h, i,
                        j, got, row.keep[j], (double)m->heads[h].theta, (double)m->heads[h].tau,
                        (double)m->topk, smooth_k_name(m->smooth_k));
                dropped += !got;
                chosen += got && !row.forced[j];
                v->kept += got;
                v->possible++;
            }
            v->unsure += row.unsure;
            v->mid += dropped && chosen;
        }
    }
    free(map.bits);
}

static void set_all(struct input *in, float theta, float tau)
{
    for (int h = 0; h < in->a.n_heads; h++)
        in->heads[h] = (struct head_params){theta, tau, 50, true, 0, 0, 0};
}

Test(sparge, equals_the_definition_over_thresholds)
{
    struct verdict v = {0};
    for (int s = 0; s < 4; s++)
        for (int smooth = 0; smooth < 3; smooth++) {
            struct input in =
                input_make((uint64_t)(s * 3 + smooth), 700 + 37 * s, 4, 1 << smooth, 32, shapes[s]);
            struct mask_args m = {
                .attn = &in.a, .heads = in.heads, .smooth_k = (enum smooth_k)smooth};
            struct slow *slow = slow_all(&m);
            /* Nine of the tuner's thresholds each, all 32 over the shapes and modes. */
            for (int t = (s + smooth) % 4; t < 32; t += 4) {
                static const float taus[] = {.3f, .5f, .7f, .8f, .9f, .95f, .98f, .999f, 1};
                set_all(&in, (float)(t - 16) / 16, taus[(t + s) % 9]);
                compare_with_slow(&m, slow, &v);
            }
            free(slow);
            input_free(&in);
        }
    cr_expect_lt(v.unsure * 50, v.rows, "%d of %d rows too close to call", v.unsure, v.rows);
    cr_expect_gt(
        v.mid * 20, v.rows, "only %d of %d rows put the ranking to the test", v.mid, v.rows);
    cr_expect(v.kept < v.possible);
}

Test(sparge, equals_the_definition_over_tau)
{
    struct verdict v = {0};
    struct input in = input_make(50, 1000, 2, 1, 64, shapes[1]);
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_RUNNING};
    struct slow *slow = slow_all(&m);
    int last = 0;
    for (int t = 1; t <= 40; t++) {
        set_all(&in, -1, (float)t / 40);
        v.kept = 0;
        compare_with_slow(&m, slow, &v);
        cr_expect_geq(v.kept, last, "more tau, no fewer tiles");
        last = v.kept;
    }
    cr_expect_eq(v.kept * 40, v.possible, "tau 1 keeps all");
    cr_expect_lt(v.unsure * 50, v.rows);
    free(slow);
    input_free(&in);
}

Test(sparge, one_threshold_per_head)
{
    struct verdict v = {0};
    struct input in = input_make(51, 600, 4, 2, 16, shapes[0]);
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_GLOBAL};
    struct slow *slow = slow_all(&m);
    for (int h = 0; h < 4; h++)
        in.heads[h] =
            (struct head_params){.2f * (float)h - .3f, .5f + .1f * (float)h, 50, true, 0, 0, 0};
    compare_with_slow(&m, slow, &v);
    free(slow);
    input_free(&in);
}

/* All rows alike: every similarity is 1 (0 when nothing is left after centring), all probabilities
 * are equal, ties go to the lower key block, and "greater than θ" is strict. */
Test(sparge, ties_and_strictness)
{
    struct input in = input_make(1, 640, 1, 1, 16, shapes[1]);
    for (int t = 0; t < 640; t++)
        for (int i = 0; i < 16; i++)
            in.q[t * in.a.q_row + i] = in.k[t * in.a.k_row + i] = i == 3 ? 2 : 0;
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_OFF};
    set_all(&in, .9375f, .45f);
    struct tile_map map = predict(&mask_sparge, &m, NULL);
    for (int i = 0; i < 10;
         i++) /* (i + 1) tiles of mass 1/(i + 1): floor(.45 (i + 1)) of them, at least the first */
        for (int j = 0; j <= i; j++) {
            int keep = (int)(.45 * (i + 1)) < 1 ? 1 : (int)(.45 * (i + 1));
            cr_expect_eq(bit(&map, 0, i, j), j < keep || j == i, "tile (%d, %d)", i, j);
        }
    free(map.bits);
    struct head_ledger l = {0};
    in.a.ledger = &l;
    set_all(&in, 1, .1f); /* similarity 1 is not greater than θ = 1 */
    map = predict(&mask_sparge, &m, NULL);
    for (int i = 0; i < 10; i++)
        for (int j = 0; j <= i; j++) cr_expect(bit(&map, 0, i, j));
    cr_expect(l.forced_theta_q == 55 && l.forced_theta_k == 55 && l.forced_sink == 10 &&
        l.forced_diagonal == 10);
    free(map.bits);
    input_free(&in);
}

Test(sparge, zero_rows_and_zero_blocks)
{
    struct verdict v = {0};
    for (int smooth = 0; smooth < 3; smooth++)
        for (int theta = -1; theta <= 1; theta++) {
            struct input in = input_make(60, 520, 2, 1, 32, shapes[smooth]);
            for (int t = 128; t < 300; t++) memset(in.k + t * in.a.k_row, 0, 32 * sizeof(float));
            for (int t = 256; t < 384; t++) memset(in.q + t * in.a.q_row, 0, 64 * sizeof(float));
            /* half of a block is zero rows: half as many unit rows, a quarter of the similarity */
            for (int t = 420; t < 440; t++) memset(in.q + t * in.a.q_row, 0, 64 * sizeof(float));
            struct mask_args m = {
                .attn = &in.a, .heads = in.heads, .smooth_k = (enum smooth_k)smooth};
            struct slow *slow = slow_all(&m);
            set_all(&in, .1f * (float)theta - .01f, .7f);
            compare_with_slow(&m, slow, &v);
            free(slow);
            input_free(&in);
        }
    cr_expect_lt(v.unsure * 10, v.rows);
}

Test(sparge, nothing_to_see_is_still_dense_enough)
{
    struct input in = input_make(2, 300, 1, 1, 16, shapes[0]);
    memset(in.q, 0, sizeof(float) * (size_t)(300 * in.a.q_row));
    memset(in.k, 0, sizeof(float) * (size_t)(300 * in.a.k_row));
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_RUNNING};
    set_all(&in, 0, .5f); /* similarity 0 is not greater than 0: all forced */
    struct tile_map map = predict(&mask_sparge, &m, NULL);
    for (int i = 0; i < map.n_qblocks; i++)
        for (int j = 0; j < tiles_possible(in.a.block, i, 300); j++) cr_expect(bit(&map, 0, i, j));
    free(map.bits);
    input_free(&in);
}

Test(sparge, forced_tiles_are_counted_by_reason)
{
    struct input in = input_make(70, 900, 4, 2, 32, shapes[1]);
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_RUNNING};
    struct head_ledger l[4];
    memset(l, 0, sizeof l);
    in.a.ledger = l;
    for (int h = 0; h < 4; h++)
        in.heads[h] = (struct head_params){.15f * (float)h, .8f, 50, h != 2, 0, 0, 0};
    l[1].forced_sink = 1000;
    struct tile_map map = predict(&mask_sparge, &m, NULL);
    struct slow *s = malloc(sizeof *s);
    int theta_q = 0, theta_k = 0;
    for (int h = 0; h < 4; h++) {
        struct head_ledger want = {0};
        bool unsure = false;
        slow_prepare(&m, h, s);
        for (int i = 0; i < map.n_qblocks; i++) {
            struct slow_row row;
            slow_row(&m, s, h, i, &row);
            unsure |= row.unsure;
            for (int j = 0; j < row.n && h != 2; j++) {
                want.forced_sink += (row.forced[j] & FORCE_SINK) != 0;
                want.forced_diagonal += (row.forced[j] & FORCE_DIAGONAL) != 0;
                want.forced_theta_q += (row.forced[j] & FORCE_THETA_Q) != 0;
                want.forced_theta_k += (row.forced[j] & FORCE_THETA_K) != 0;
            }
        }
        theta_q += want.forced_theta_q > 0;
        theta_k += want.forced_theta_k > 0;
        if (h == 1) want.forced_sink += 1000;
        cr_expect_eq(l[h].forced_sink, want.forced_sink);
        cr_expect_eq(l[h].forced_diagonal, want.forced_diagonal);
        if (unsure && h != 2) continue;
        cr_expect_eq(l[h].forced_theta_q, want.forced_theta_q);
        cr_expect_eq(l[h].forced_theta_k, want.forced_theta_k);
        cr_expect(
            l[h].tiles_possible == 0 && l[h].tiles_computed == 0, "these belong to the kernel");
    }
    cr_expect(theta_q > 0 && theta_k > 0, "the data bring both reasons about");
    for (int i = 0; i < map.n_qblocks; i++)
        for (int j = 0; j <= i; j++) cr_expect(bit(&map, 2, i, j), "a dense head has every tile");
    free(s);
    free(map.bits);
    input_free(&in);
}

/* Chunks that end on a boundary of both block sizes: a key block that is still incomplete when a
 * chunk ends would be pooled over fewer keys. */
Test(sparge, running_mode_is_the_same_in_chunks)
{
    for (int s = 0; s < 4; s++) {
        int n = 900, step = shapes[s].q > shapes[s].k ? shapes[s].q : shapes[s].k;
        struct input in = input_make((uint64_t)(80 + s), n, 4, 2, 32, shapes[s]);
        struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_RUNNING};
        struct head_ledger whole_ledger[4], chunk_ledger[4];
        memset(whole_ledger, 0, sizeof whole_ledger);
        memset(chunk_ledger, 0, sizeof chunk_ledger);
        for (int h = 0; h < 4; h++)
            in.heads[h] = (struct head_params){.1f * (float)h, .75f, 50, true, 0, 0, 0};
        in.a.ledger = whole_ledger;
        struct tile_map whole = predict(&mask_sparge, &m, NULL);
        struct attn_args part = in.a;
        m.attn = &part;
        part.ledger = chunk_ledger;
        for (int start = 0, k = 1; start < n; start += part.n_q, k = k % 3 + 1) {
            part.q_start = start;
            part.n_q = k * step < n - start ? k * step : n - start;
            part.q = in.q + start * in.a.q_row;
            struct tile_map map = predict(&mask_sparge, &m, NULL);
            for (int h = 0; h < 4; h++)
                for (int i = 0; i < map.n_qblocks; i++)
                    for (int j = 0; j < map.n_kblocks; j++)
                        cr_assert_eq(bit(&map, h, i, j),
                            bit(&whole, h, start / in.a.block.q + i, j),
                            "%dx%d head %d chunk at %d tile (%d, %d)", in.a.block.q, in.a.block.k,
                            h, start, i, j);
            free(map.bits);
        }
        cr_expect_arr_eq(chunk_ledger, whole_ledger, sizeof whole_ledger);
        free(whole.bits);
        input_free(&in);
    }
}

/* Keys behind a query block's own rows may not sway its mask. */
Test(sparge, running_mode_is_causal)
{
    for (int s = 0; s < 4; s++) {
        /* there a key block reaches past the query block's rows */
        if (shapes[s].k > shapes[s].q) continue;
        struct input in = input_make((uint64_t)(90 + s), 768, 2, 1, 32, shapes[s]);
        struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_RUNNING};
        set_all(&in, .1f, .7f);
        struct tile_map before = predict(&mask_sparge, &m, NULL);
        struct rng r;
        rng_init(&r, 1);
        for (int t = 384; t < 768; t++)
            for (int i = 0; i < 32; i++) in.k[t * in.a.k_row + i] = 9 * (float)rng_normal(&r);
        struct tile_map after = predict(&mask_sparge, &m, NULL);
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < 384 / in.a.block.q; i++)
                cr_expect_arr_eq(tile_map_row(&before, h, i), tile_map_row(&after, h, i),
                    8 * (size_t)before.words_per_row);
        cr_expect_neq(memcmp(before.bits, after.bits, tile_map_bytes(&before)), 0);
        free(before.bits);
        free(after.bits);
        input_free(&in);
    }
}

Test(sparge, threads_do_not_matter)
{
    struct input in = input_make(95, 700, 8, 2, 48, shapes[0]);
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_RUNNING};
    set_all(&in, .2f, .8f);
    in.a.block = (struct block_shape){64, 64}; /* which all are defined for */
    in.a.v = in.a.k, in.a.v_row = in.a.k_row, in.a.v_head = in.a.k_head;
    for (int method = 0; mask_methods[method]; method++) {
        m.window = 100;
        struct tile_map one = predict(mask_methods[method], &m, NULL);
        for (int t = 2; t <= 3; t++) {
            struct par *par;
            cr_assert_eq(par_open(&par, t), OK);
            struct tile_map many = predict(mask_methods[method], &m, par);
            cr_expect_arr_eq(one.bits, many.bits, tile_map_bytes(&one));
            free(many.bits);
            par_close(&par);
        }
        free(one.bits);
    }
    input_free(&in);
}

Test(topk, count_is_exact)
{
    struct verdict v = {0};
    for (int percent = 5; percent <= 100; percent += 5) {
        struct input in = input_make((uint64_t)percent, 1280, 2, 2, 16, shapes[percent / 5 % 4]);
        struct mask_args m = {.attn = &in.a, .heads = in.heads, .topk = (float)percent / 100};
        struct slow *slow = slow_all(&m);
        set_all(&in, -1, .5f); /* nothing is forced by θ, τ plays no part */
        compare_with_slow(&m, slow, &v);
        struct tile_map map = predict(mask_method_find("topk"), &m, NULL);
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < map.n_qblocks; i++) {
                int n = tiles_possible(in.a.block, i, 1280), want = (n * percent + 99) / 100,
                    got = 0, forced = 0;
                for (int j = 0; j < n; j++) {
                    got += bit(&map, h, i, j);
                    forced += j == 0 || (j + 1) * in.a.block.k > i * in.a.block.q;
                }
                cr_assert(got >= want && got <= want + forced,
                    "topk %d %%: %d of %d, expected %d to %d", percent, got, n, want,
                    want + forced);
            }
        free(map.bits);
        free(slow);
        input_free(&in);
    }
    cr_expect_lt(v.unsure * 20, v.rows);
}

/* ⌈fraction · n⌉ in whole numbers, for every thousandth and rows of any length, METHOD 2. */
Test(topk, ceiling_in_whole_numbers)
{
    for (int64_t thousandths = 1; thousandths <= 1000; thousandths++)
        for (int n = 1; n <= 8192; n += n < 1100 ? 1 : 97) {
            int want = (int)((thousandths * n + 999) / 1000),
                got = mask_topk_count((float)thousandths / 1000, n);
            cr_assert_eq(got, want, ".%03d of %d: %d, expected %d", (int)thousandths, n, got, want);
        }
    cr_expect_eq(mask_topk_count(.00125f, 8000), 10);
    cr_expect_eq(mask_topk_count(.00125f, 8001), 11);
}

/* Decimal fractions are not binary ones: .28 of 25 is 7, although f32 stores .28 a little above.
 * With all blocks alike the chosen ones are the first, and the diagonal comes on top unless
 * everything is chosen. */
Test(topk, decimal_fractions_do_not_add_a_tile)
{
    struct input in = input_make(3, 6400, 1, 1, 4, shapes[1]);
    for (int t = 0; t < 6400; t++)
        for (int i = 0; i < 4; i++) in.q[t * in.a.q_row + i] = in.k[t * in.a.k_row + i] = 1;
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .smooth_k = SMOOTH_K_OFF};
    set_all(&in, -1, 1);
    int wrong = 0, example[3] = {0};
    for (int percent = 1; percent <= 100; percent++) {
        m.topk = (float)percent / 100;
        struct tile_map map = predict(&mask_sparge, &m, NULL);
        for (int i = 0; i < map.n_qblocks; i++) {
            int n = i + 1, want = (n * percent + 99) / 100, got = 0;
            for (int j = 0; j < n; j++) got += bit(&map, 0, i, j);
            want += want < n;
            if (got == want) continue;
            wrong++;
            example[0] = percent;
            example[1] = n;
            example[2] = got - want;
        }
        free(map.bits);
    }
    cr_expect_eq(wrong, 0, "%d rows, e.g. topk .%02d of %d tiles keeps %+d", wrong, example[0],
        example[1], example[2]);
    input_free(&in);
}

Test(window, keeps_sink_and_last_tokens)
{
    for (int s = 0; s < 4; s++)
        for (int w = 1; w <= 1000; w = w * 3 + (w == 1 ? 60 : 0)) {
            struct input in = input_make(4, 700, 1, 1, 4, shapes[s]);
            struct mask_args m = {.attn = &in.a, .heads = in.heads, .window = w};
            struct tile_map map = predict(&mask_window, &m, NULL);
            for (int i = 0; i < map.n_qblocks; i++)
                for (int j = 0; j < tiles_possible(in.a.block, i, 700); j++) {
                    bool want = j == 0;
                    for (int row = i * in.a.block.q; row < (i + 1) * in.a.block.q && row < 700;
                         row++)
                        for (int key = row > w - 1 ? row - w + 1 : 0; key <= row; key++)
                            want |= key / in.a.block.k == j;
                    bool got = bit(&map, 0, i, j);
                    /* the diagonal is kept whole */
                    bool touches = (j + 1) * in.a.block.k > i * in.a.block.q;
                    cr_expect_eq(got, want || touches, "window %d %dx%d tile (%d, %d)", w,
                        in.a.block.q, in.a.block.k, i, j);
                }
            free(map.bits);
            input_free(&in);
        }
}

static enum status try_predict(const struct mask_method *method, const struct mask_args *m)
{
    struct tile_map map = tile_map_shape(m->attn->block, m->attn->n_heads, 0, m->attn->n_q);
    map.bits = calloc(1, tile_map_bytes(&map));
    void *ws = aligned_alloc(64, mask_workspace(method, m, 1) + 64);
    enum status st = mask_predict(method, m, &map, ws, NULL);
    free(ws);
    free(map.bits);
    return st;
}

Test(mask, refusals_name_the_method)
{
    struct input in = input_make(5, 100, 1, 1, 4, shapes[0]);
    struct mask_args m = {.attn = &in.a, .heads = in.heads};
    cr_expect_eq(try_predict(&mask_window, &m), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "window"));
    in.a.dtype = DTYPE_BF16;
    cr_expect_eq(try_predict(&mask_sparge, &m), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "sparge") && strstr(status_message(), "f32"));
    cr_expect_eq(try_predict(&mask_oracle, &m), ERR_UNSUPPORTED);
    input_free(&in);
    cr_expect_eq(mask_method_find("sparge"), &mask_sparge);
    cr_expect_eq(mask_method_find("topk"), &mask_sparge);
    cr_expect_eq(mask_method_find("oracle"), &mask_oracle);
    cr_expect_eq(mask_method_find("window"), &mask_window);
    cr_expect_null(mask_method_find("nothing"));
    const struct mask_method *mean = mask_method_find("bound+correct=mean+rows=8");
    cr_assert(mean);
    cr_expect_str_eq(mean->name, "bound+rows=8+correct=mean");
    cr_expect(mean->correct_mean && mask_base(mean) == &mask_bound && !mask_bound.correct_mean);
    cr_expect_eq(mask_method_find("bound+correct=none"), &mask_bound);
    mean = mask_method_find("sparge+correct=mean/bound+correct=mean");
    cr_expect(mean && mean->correct_mean && mean->parts[1]->correct_mean);
    cr_expect_null(mask_method_find("sparge/bound+correct=mean"));
    cr_expect_null(mask_method_find("bound+correct=median"));
}

Test(mask, names_with_parameters)
{
    const struct mask_method *a, *b;
    cr_assert_eq(mask_method_parse("bound+keys=32+rows=32", &a), OK);
    cr_expect_str_eq(a->name, "bound+keys=32"); /* the default is not said */
    cr_assert_eq(mask_method_parse("bound+keys=32", &b), OK);
    cr_expect_eq(a, b);
    cr_expect_eq(mask_base(a), &mask_bound);
    cr_expect_eq(mask_method_find("bound+rows=32"), &mask_bound);
    cr_assert_eq(mask_method_parse("oracle+over=mean+rule=mean-std", &a), OK);
    cr_expect_str_eq(a->name, "oracle+over=mean+rule=mean-std");
    cr_expect_eq(mask_rule_of(a), &rule_spread);
    cr_assert_eq(mask_method_parse("sparge/bound+keys=32", &a), OK);
    cr_expect_eq(a->n_parts, 2);
    cr_expect_eq(mask_part(a, 0), &mask_sparge);
    cr_expect_eq(mask_part(a, 1), b);
    cr_expect_eq(mask_method_find("sparge/bound+keys=32"), a);
    static const char *const bad[][2] = {
        {"nothing+keys=3", "nothing"},
        {"sparge+stride=8", "stride"},
        {"bound+stride=8", "rows, keys"},
        {"bound+keys=1.5", "whole"},
        {"bound+keys=", "keys"},
        {"bound+keys", "keys"},
        {"bound+keys=0", "from 1"},
        {"bound+keys=nan", "keys"},
        {"oracle+over=least", "mean, rms, max"},
        {"bound+rule=best", "top-p"},
        {"window+rule=top-p", "rule"},
        {"sparge/", "found \"\""},
        {"sparge/sparge", "twice"},
        {"sparge+rule=top-p+rule=top-k", "rule is given twice"},
        {"sparge+correct=mean+correct=mean", "correct is given twice"},
        {"sparge/window", "window"},
        {"sparge/bound/oracle/bound+keys=4/bound+keys=8", "more than"},
        {"bound+", "bound"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(mask_method_parse(bad[i][0], &a), ERR_ARG, "%s", bad[i][0]);
        cr_expect(strstr(status_message(), bad[i][1]), "%s: %s", bad[i][0], status_message());
        cr_expect_null(mask_method_find(bad[i][0]));
    }
}

/* Every rule keeps a prefix that grows with its number, and what its definition says. */
Test(mask, rules)
{
    struct rng r;
    rng_init(&r, 17);
    for (int trial = 0; trial < 200; trial++) {
        float p[64];
        uint8_t forced[64] = {0};
        int order[64];
        struct mask_row row = {.n = 1 + (int)rng_below(&r, 64),
            .p = p,
            .forced = forced,
            .qb = 10,
            .n_qblocks = 32,
            .n_kblocks = 64};
        double sum = 0;
        for (int j = 0; j < row.n; j++) sum += p[j] = (float)(1 + rng_below(&r, 1000));
        for (int j = 0; j < row.n; j++) p[j] = (float)((double)p[j] / sum);
        forced[row.n - 1] = FORCE_DIAGONAL;
        int n = mask_order(&row, order);
        double mean = 0, square = 0;
        for (int j = 0; j < row.n; j++) mean += log((double)p[j]) / row.n;
        for (int j = 0; j < row.n; j++) square += pow(log((double)p[j]) - mean, 2) / row.n;
        for (int rule = 0; mask_rules[rule]; rule++)
            for (int t = 0, before = 0; t <= 64; t++) {
                float keep = (float)t / 64;
                int got = mask_rules[rule]->count(&row, order, n, keep), want = 0;
                double reached = (double)p[row.n - 1];
                cr_assert(got >= before && got <= n, "%s", mask_rules[rule]->name);
                before = got;
                if (t == 64) cr_assert_eq(got, n, "%s keeps all", mask_rules[rule]->name);
                if (mask_rules[rule] == &rule_relative)
                    for (int j = 0; j < n; j++)
                        want += (double)p[j] >= (1 - (double)keep) * (double)p[order[0]];
                else if (mask_rules[rule] == &rule_level)
                    for (int j = 0; j < n; j++) want += (double)p[j] >= 1 - (double)keep;
                else if (mask_rules[rule] == &rule_top_k) want = (t * n + 63) / 64;
                else if (mask_rules[rule] == &rule_falling) /* 64 blocks in all, keep in 64ths */
                    want = (int)fmin(n, ceil(t * (1 - .3 * 10 / 32) - 1e-9));
                else if (mask_rules[rule] == &rule_cover)
                    for (want = 0; want < n && reached < (double)keep; want++)
                        reached += order[want] == row.n - 1 ? 0 : (double)p[order[want]];
                else if (mask_rules[rule] == &rule_spread) {
                    double least = exp(mean + (4 + log2(1 - (double)keep)) * sqrt(square));
                    for (int j = 0; j < n; j++) want += (double)p[j] >= least;
                    bool close = false; /* to a score: rounding may decide */
                    for (int j = 0; j < n; j++) close |= fabs((double)p[j] / least - 1) < 1e-6;
                    if (close) continue;
                    if (!want) want = 1;
                } else continue; /* top-p has a test of its own */
                if (t < 64)
                    cr_assert_eq(got, want, "%s at %d/64 of %d: %d, expected %d",
                        mask_rules[rule]->name, t, n, got, want);
            }
    }
}

/* What tensor cores would read. */
static double as_bf16(double x) { return (double)bf16_to_f32(f32_to_bf16((float)x)); }

/* The bound follows its definition: the centre and the spread of sub-blocks of 16 keys, mean and
 * deviation or middle and half of the range, the spread as the mean over groups of channels,
 * against means of pools of rows. */
struct bound_case {
    const char *method;
    int rows, groups;
    bool deviation;
};

static void check_bound(struct input *in, int q_start, const struct bound_case *x)
{
    enum { KEYS = 16, DIM = 32 };
    struct attn_args *a = &in->a;
    struct mask_args m = {
        .attn = a, .heads = in->heads, .values = mask_method_find(x->method)->values};
    int n_kv = attn_n_kv(a), each = DIM / 2 / x->groups;
    void *ws = aligned_alloc(64, mask_bound.workspace(&m) + 64);
    float p[MAX_BLOCKS];
    uint8_t forced[MAX_BLOCKS];
    cr_assert_eq(a->head_dim, DIM);
    for (int h = 0; h < a->n_heads; h++) {
        const float *q = (const float *)a->q + h * a->q_head,
                    *k = in->k + h / (a->n_heads / a->n_kv_heads) * a->k_head;
        mask_bound.prepare(&m, h, ws);
        for (int i = 0; i * a->block.q < a->n_q; i++) {
            struct mask_row row = {.n = tiles_possible(a->block, q_start / a->block.q + i, n_kv),
                .p = p,
                .forced = forced};
            double squares[MAX_BLOCKS] = {0}, total = 0;
            mask_bound.row(&m, h, i, 0, ws, &row);
            for (int r0 = i * a->block.q; r0 < (i + 1) * a->block.q && r0 < a->n_q; r0 += x->rows) {
                int n = a->n_q - r0 < x->rows ? a->n_q - r0 : x->rows,
                    last = q_start + r0 + x->rows - 1;
                double sum = 0, top = -INFINITY, most[512], mass[MAX_BLOCKS] = {0}, mean_q[DIM];
                for (int c = 0; c < DIM; c++) {
                    float sum_q = 0;
                    for (int r = r0; r < r0 + n; r++) sum_q += q[r * a->q_row + c];
                    mean_q[c] = as_bf16((double)(sum_q / (float)n));
                }
                for (int b = 0; b * KEYS <= last && b * KEYS < n_kv; b++) {
                    int n_keys = n_kv - b * KEYS < KEYS ? n_kv - b * KEYS : KEYS;
                    double spread[DIM], score = 0;
                    for (int c = 0; c < DIM; c++) {
                        float sum_k = 0, hi = -INFINITY, lo = INFINITY, off = 0;
                        for (int j = b * KEYS; j < b * KEYS + n_keys; j++) {
                            float key = k[j * a->k_row + c];
                            sum_k += key, hi = fmaxf(hi, key), lo = fminf(lo, key);
                        }
                        float mean = sum_k / (float)n_keys;
                        for (int j = b * KEYS; j < b * KEYS + n_keys; j++)
                            off += (k[j * a->k_row + c] - mean) * (k[j * a->k_row + c] - mean);
                        spread[c] =
                            (double)(x->deviation ? sqrtf(off / (float)n_keys) : (hi - lo) / 2);
                        score += mean_q[c] * as_bf16((double)(x->deviation ? mean : (hi + lo) / 2));
                    }
                    for (int g = 0; g < x->groups; g++) { /* channels c and c + d/2 turn together */
                        double needs = 0, has = 0;
                        for (int c = g * each; c < (g + 1) * each; c++) {
                            needs += fabs(mean_q[c]) + fabs(mean_q[c + DIM / 2]);
                            has += spread[c] + spread[c + DIM / 2];
                        }
                        score += as_bf16(needs) * as_bf16(has / (2 * each));
                    }
                    most[b] = score * (double)a->scale;
                    top = fmax(top, most[b]);
                }
                for (int b = 0; b * KEYS <= last && b * KEYS < n_kv; b++) sum += exp(most[b] - top);
                for (int b = 0; b * KEYS <= last && b * KEYS < n_kv; b++)
                    mass[b * KEYS / a->block.k] += exp(most[b] - top) / sum;
                for (int j = 0; j < row.n; j++) squares[j] += mass[j] * mass[j];
            }
            for (int j = 0; j < row.n; j++) total += sqrt(squares[j]);
            for (int j = 0; j < row.n;
                 j++) /* a group's sum can fall on the other side of a rounding to bf16 */
                cr_assert_float_eq((double)p[j], sqrt(squares[j]) / total, 2e-3,
                    "%s: head %d tile (%d, %d)", x->method, h, i, j);
        }
    }
    free(ws);
}

Test(bound, follows_its_definition)
{
    static const struct bound_case cases[] = {{"bound", 32, 16, true},
        {"bound+spread=range", 32, 16, false}, {"bound+groups=4+rows=16", 16, 4, true},
        {"bound+groups=7", 32, 4, true}};
    for (int s = 0; s < 4; s++) {
        struct input in = input_make((uint64_t)(200 + s), 450, 4, 2, 32, shapes[s]);
        for (int x = 0; x < 450 * 2 * 32; x++) /* channels spread unlike, so that groups matter */
            in.k[x / 64 * in.a.k_row + x % 64] *= .2f + .1f * (float)(x % 16);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_bound(&in, 0, &cases[i]);
        in.a.q_start = 256; /* the last rows as a chunk of their own */
        in.a.n_q = 450 - 256;
        in.a.q = in.q + 256 * in.a.q_row;
        check_bound(&in, 256, &cases[0]);
        input_free(&in);
    }
}

/* XAttention's scores straight from its definition, groups and softmax in double. */
Test(xattention, follows_its_definition)
{
    enum { S = 8 };
    struct input in = input_make(31, 450, 4, 2, 32, shapes[3]);
    const struct attn_args *a = &in.a;
    struct mask_args m = {.attn = a, .heads = in.heads};
    int n = a->n_q, n_groups = (n + S - 1) / S;
    void *ws = aligned_alloc(64, mask_xattention.workspace(&m) + 64);
    float p[MAX_BLOCKS];
    uint8_t forced[MAX_BLOCKS];
    for (int h = 0; h < 4; h++) {
        const float *q = (const float *)a->q + h * a->q_head, *k = in.k + h / 2 * a->k_head;
        mask_xattention.prepare(&m, h, ws);
        for (int i = 0; i * a->block.q < n; i++) {
            struct mask_row row = {.n = tiles_possible(a->block, i, n), .p = p, .forced = forced};
            double mass[MAX_BLOCKS] = {0}, all = 0;
            mask_xattention.row(&m, h, i, 0, ws, &row);
            for (int g = i * a->block.q / S; g < (i + 1) * a->block.q / S && g < n_groups; g++) {
                double e[64], sum = 0;
                for (int b = 0; b <= g; b++) {
                    double s = 0;
                    for (int t = 0; t < S; t++)
                        for (int c = 0; c < a->head_dim && g * S + S - 1 - t < n && b * S + t < n;
                             c++)
                            s += (double)q[(g * S + S - 1 - t) * a->q_row + c] *
                                (double)k[(b * S + t) * a->k_row + c];
                    sum += e[b] = exp(s * (double)a->scale / S);
                }
                for (int b = 0; b <= g; b++) mass[b * S / a->block.k] += e[b] / sum;
            }
            for (int j = 0; j < row.n; j++) all += mass[j];
            for (int j = 0; j < row.n; j++)
                cr_assert_float_eq(
                    (double)p[j], mass[j] / all, 3e-6, "head %d tile (%d, %d)", h, i, j);
        }
    }
    free(ws);
    input_free(&in);
}

/* FlashPrefill: every row against the means of blocks that it stands behind; sink, window and last
 * blocks by force. */
Test(flashprefill, follows_its_definition)
{
    struct input in = input_make(33, 1400, 2, 1, 32, shapes[3]);
    const struct attn_args *a = &in.a;
    struct mask_args m = {.attn = a, .heads = in.heads};
    int n = a->n_q, bq = a->block.q, bk = a->block.k, nq = (n + bq - 1) / bq;
    void *ws = aligned_alloc(64, mask_flashprefill.workspace(&m) + 64);
    float p[MAX_BLOCKS];
    uint8_t forced[MAX_BLOCKS];
    for (int h = 0; h < 2; h++) {
        const float *q = (const float *)a->q + h * a->q_head;
        mask_flashprefill.prepare(&m, h, ws);
        for (int i = 0; i < nq; i++) {
            struct mask_row row = {.n = tiles_possible(a->block, i, n), .p = p, .forced = forced};
            double mass[MAX_BLOCKS] = {0}, all = 0;
            mask_flashprefill.row(&m, h, i, 0, ws, &row);
            for (int j = 0; j < row.n; j++)
                for (int r = i * bq; r < (i + 1) * bq && r < n; r++) {
                    double s = 0;
                    if (r < (j + 1) * bk - 1) continue;
                    for (int c = 0; c < a->head_dim; c++) {
                        double mean = 0;
                        for (int t = j * bk; t < (j + 1) * bk; t++)
                            mean += (double)in.k[t * a->k_row + c] / bk;
                        s += mean * (double)q[r * a->q_row + c];
                    }
                    mass[j] += exp(s * (double)a->scale);
                }
            for (int j = 0; j < row.n; j++) all += mass[j];
            for (int j = 0; j < row.n; j++) {
                cr_assert_float_eq((double)p[j], all > 0 ? mass[j] / all : 0, 3e-6,
                    "head %d tile (%d, %d)", h, i, j);
                cr_assert_eq(
                    forced[j] != 0, j < 2 || j > i - 4 || i >= nq - 2, "tile (%d, %d)", i, j);
            }
        }
    }
    free(ws);
    input_free(&in);
}

/* Sub-blocks: Σ exp over the parts of a tile that meet, as a share of the row. */
Test(subblock, follows_its_definition)
{
    for (int shape = 0; shape < 4; shape++) {
        struct input in = input_make(37, 450, 4, 2, 32, shapes[shape]);
        const struct attn_args *a = &in.a;
        struct mask_args m = {.attn = a, .heads = in.heads};
        int n = a->n_q, pq = a->block.q / 4, pk = a->block.k / 4;
        void *ws = aligned_alloc(64, mask_subblock.workspace(&m) + 64);
        float p[MAX_BLOCKS];
        uint8_t forced[MAX_BLOCKS];
        for (int h = 0; h < 4; h++) {
            const float *q = (const float *)a->q + h * a->q_head, *k = in.k + h / 2 * a->k_head;
            mask_subblock.prepare(&m, h, ws);
            for (int i = 0; i * a->block.q < n; i++) {
                struct mask_row row = {
                    .n = tiles_possible(a->block, i, n), .p = p, .forced = forced};
                double mass[MAX_BLOCKS] = {0}, all = 0;
                mask_subblock.row(&m, h, i, 0, ws, &row);
                for (int r = i * a->block.q; r < (i + 1) * a->block.q && r < n; r += pq)
                    for (int b = 0; b * pk < n && b * pk <= r + pq - 1; b++) {
                        double s = 0;
                        int rows = n - r < pq ? n - r : pq,
                            keys = n - b * pk < pk ? n - b * pk : pk;
                        for (int c = 0; c < a->head_dim; c++) {
                            double x = 0, y = 0;
                            for (int t = r; t < r + rows; t++)
                                x += (double)q[t * a->q_row + c] / rows;
                            for (int t = b * pk; t < b * pk + keys; t++)
                                y += (double)k[t * a->k_row + c] / keys;
                            s += x * y;
                        }
                        mass[b * pk / a->block.k] += exp(s * (double)a->scale);
                    }
                for (int j = 0; j < row.n; j++) all += mass[j];
                for (int j = 0; j < row.n; j++)
                    cr_assert_float_eq(
                        (double)p[j], mass[j] / all, 3e-6, "head %d tile (%d, %d)", h, i, j);
            }
        }
        free(ws);
        input_free(&in);
    }
}

/* What static masks keep is what their definition says of every tile. */
Test(statics, keep_what_they_say)
{
    for (int s = 0; s < 4; s++) {
        struct input in = input_make(7, 1500, 1, 1, 16, shapes[s]);
        struct mask_args m = {.attn = &in.a, .heads = in.heads};
        set_all(&in, -1, 1);
        for (int tri = 0; tri < 2; tri++) {
            struct tile_map map = predict(
                mask_method_find(tri ? "tri-shape+window=300" : "a-shape+window=300+sink=70"), &m,
                NULL);
            int bq = in.a.block.q, bk = in.a.block.k;
            for (int i = 0; i < map.n_qblocks; i++)
                for (int j = 0; j < tiles_possible(in.a.block, i, 1500); j++) {
                    /* and the diagonal */
                    bool want = j * bk < (tri ? 100 : 70) || (j + 1) * bk > i * bq;
                    for (int r = i * bq; r < (i + 1) * bq && r < 1500; r++)
                        want |= (j + 1) * bk - 1 > r - 300 || (tri && r >= 1400);
                    cr_assert_eq(bit(&map, 0, i, j), want, "tri %d tile (%d, %d)", tri, i, j);
                }
            free(map.bits);
        }
        input_free(&in);
    }
}

/* Heads of a mixture are ranked by their own parts, also when they read the same tensors. */
Test(mask, mixture_is_its_parts)
{
    const struct mask_method *parts[] = {&mask_sparge, &mask_bound},
                             *mixture = mask_method_find("sparge/bound");
    /* kv heads; with one and the same q, heads are alike */
    for (int heads = 1; heads <= 2; heads++) {
        struct input in = input_make(71, 900, 4, heads, 32, shapes[0]);
        if (heads == 1) in.a.q_head = 0;
        struct mask_args m = {.attn = &in.a, .heads = in.heads};
        set_all(&in, .2f, .6f);
        struct tile_map whole[2] = {predict(parts[0], &m, NULL), predict(parts[1], &m, NULL)};
        for (int h = 0; h < 4; h++) in.heads[h].part = h % 3 == 0;
        struct tile_map mixed = predict(mixture, &m, NULL);
        cr_expect_neq(memcmp(whole[0].bits, whole[1].bits, tile_map_bytes(&mixed)), 0);
        for (int h = 0; h < 4; h++)
            for (int i = 0; i < mixed.n_qblocks; i++)
                cr_assert_arr_eq(tile_map_row(&mixed, h, i), tile_map_row(&whole[h % 3 == 0], h, i),
                    8 * (size_t)mixed.words_per_row);
        free(mixed.bits);
        free(whole[0].bits);
        free(whole[1].bits);
        input_free(&in);
    }
}

enum { OVER_MEAN, OVER_RMS, OVER_MAX }; /* the values of the parameter "over" */

/* p of the oracle is the true softmax mass over the block's rows: mean, root mean square or
 * largest, of their sum. */
static void check_oracle(struct input *in, int q_start, int over)
{
    struct attn_args *a = &in->a;
    float values[] = {(float)over};
    struct mask_args m = {.attn = a, .heads = in->heads, .values = values};
    int n_kv = attn_n_kv(a), d = a->head_dim;
    void *ws = aligned_alloc(64, mask_oracle.workspace(&m) + 64);
    float p[MAX_BLOCKS];
    uint8_t forced[MAX_BLOCKS];
    double *e = malloc(sizeof *e * (size_t)n_kv);
    for (int h = 0; h < a->n_heads; h++) {
        mask_oracle.prepare(&m, h, ws);
        for (int i = 0; i * a->block.q < a->n_q; i++) {
            struct mask_row row = {.n = tiles_possible(a->block, q_start / a->block.q + i, n_kv),
                .p = p,
                .forced = forced};
            mask_oracle.row(&m, h, i, .5f, ws, &row);
            double mass[MAX_BLOCKS] = {0}, all = 0, total = 0;
            for (int r = i * a->block.q; r < (i + 1) * a->block.q && r < a->n_q; r++) {
                double top = -INFINITY, sum = 0, of_row[MAX_BLOCKS] = {0};
                for (int j = 0; j <= q_start + r; j++) {
                    e[j] = 0;
                    for (int c = 0; c < d; c++)
                        e[j] += (double)((const float *)a->q)[r * a->q_row + h * a->q_head + c] *
                            (double)in->k[j * a->k_row +
                                h / (a->n_heads / a->n_kv_heads) * a->k_head + c];
                    e[j] *= (double)a->scale;
                    top = fmax(top, e[j]);
                }
                for (int j = 0; j <= q_start + r; j++) sum += e[j] = exp(e[j] - top);
                for (int j = 0; j <= q_start + r; j++) of_row[j / a->block.k] += e[j] / sum;
                for (int j = 0; j < row.n; j++)
                    mass[j] = over == OVER_MAX ? fmax(mass[j], of_row[j])
                                               : mass[j] + pow(of_row[j], 1 + (over == OVER_RMS));
            }
            for (int j = 0; j < row.n; j++)
                all += mass[j] = over == OVER_RMS ? sqrt(mass[j]) : mass[j];
            for (int j = 0; j < row.n; j++) {
                cr_assert_float_eq((double)p[j], mass[j] / all, 3e-6,
                    "over %d, head %d tile (%d, %d): %g, true %g", over, h, i, j, (double)p[j],
                    mass[j] / all);
                cr_assert(p[j] > 0);
                bool diagonal = (j + 1) * a->block.k > (q_start / a->block.q + i) * a->block.q;
                cr_assert_eq(
                    forced[j], (j == 0 ? FORCE_SINK : 0) | (diagonal ? FORCE_DIAGONAL : 0));
                total += (double)p[j];
            }
            cr_assert_float_eq(total, 1, 1e-5);
        }
    }
    free(e);
    free(ws);
}

Test(oracle, mass_is_the_true_one)
{
    for (int s = 0; s < 4; s++) {
        struct input in = input_make((uint64_t)(100 + s), 450, 2, 1, 32, shapes[s]);
        for (int over = OVER_MEAN; over <= OVER_MAX; over++) check_oracle(&in, 0, over);
        in.a.q_start = 256; /* the last rows as a chunk of their own */
        in.a.n_q = 450 - 256;
        in.a.q = in.q + 256 * in.a.q_row;
        for (int over = OVER_MEAN; over <= OVER_MAX; over++) check_oracle(&in, 256, over);
        input_free(&in);
    }
}

Test(mask, order_and_count)
{
    struct rng r;
    rng_init(&r, 6);
    float p[700];
    int order[700];
    for (int trial = 0; trial < 300; trial++) {
        struct mask_row row = {
            .n = trial < 295 ? 1 + (int)rng_below(&r, 60) : 600 + trial - 295, .p = p};
        double sum = 0;
        int eligible = 0;
        for (int j = 0; j < row.n; j++) {
            /* many ties, some not eligible */
            p[j] = rng_below(&r, 4) ? (float)(1 + rng_below(&r, 8)) : 0;
            eligible += p[j] > 0;
            sum += (double)p[j];
        }
        for (int j = 0; j < row.n && sum > 0; j++) p[j] = (float)((double)p[j] / sum);
        int n = mask_order(&row, order);
        cr_assert_eq(n, eligible);
        for (int i = 0; i < n; i++) {
            cr_assert_gt(p[order[i]], 0);
            if (i)
                cr_assert(p[order[i - 1]] > p[order[i]] ||
                    (p[order[i - 1]] == p[order[i]] && order[i - 1] < order[i]));
        }
        int before = 0;
        for (int t = 0; t <= 110; t++) {
            float tau = (float)t / 100;
            int count = mask_count(&row, order, n, tau), want = 0;
            double running = 0;
            for (int i = 0; i < n; i++)
                if ((running += (double)p[order[i]]) <= (double)tau) want = i + 1;
            if (want < 1 && n) want = 1;
            if (tau >= 1) want = n;
            cr_assert_eq(count, want, "tau %g of %d", (double)tau, n);
            cr_assert_geq(count, before); /* a prefix of one order: the sets are nested */
            before = count;
        }
    }
    struct mask_row none = {.n = 3, .p = (float[3]){0, 0, 0}};
    cr_expect_eq(mask_order(&none, order), 0);
    cr_expect_eq(mask_count(&none, order, 0, .5f), 0);
    cr_expect_eq(mask_count(&none, order, 0, 1), 0);
}

Test(mask, shapes_and_possible_tiles)
{
    for (int s = 0; s < 4; s++)
        for (int n = 1; n < 600; n += 37)
            for (int first = 0; first < 3; first++) {
                int start = first * shapes[s].q, n_kv = start + n;
                struct tile_map m = tile_map_shape(shapes[s], 3, start, n);
                int nq = 0, nk = 0;
                while (nq * shapes[s].q < n) nq++;
                while (nk * shapes[s].k < n_kv) nk++;
                cr_assert(m.n_qblocks == nq && m.n_kblocks == nk && m.n_heads == 3 &&
                    m.words_per_row * 64 >= nk);
                cr_assert_eq(tile_map_bytes(&m), 8 * (size_t)(3 * nq * m.words_per_row));
                for (int i = 0; i < nq; i++) {
                    int last = start + (i + 1) * shapes[s].q - 1, want = 0;
                    if (last >= n_kv) last = n_kv - 1;
                    while (want * shapes[s].k <= last) want++;
                    cr_assert_eq(tiles_possible(shapes[s], first + i, n_kv), want);
                }
            }
    cr_expect_eq(tile_map_shape(shapes[0], 1, 0, 64 * 64).words_per_row, 1);
    cr_expect_eq(tile_map_shape(shapes[0], 1, 0, 64 * 64 + 1).words_per_row, 2);
}

/* More than 64 key blocks: bits live in several words. */
Test(sparge, long_rows)
{
    struct input in = input_make(7, 64 * 70 + 5, 1, 1, 4, shapes[1]);
    struct mask_args m = {.attn = &in.a, .heads = in.heads, .topk = .5f};
    set_all(&in, -1, 1);
    struct tile_map map = predict(&mask_sparge, &m, NULL);
    cr_expect_eq(map.words_per_row, 2);
    int kept = 0;
    for (int j = 0; j < 128; j++) kept += bit(&map, 0, 70, j);
    cr_expect(kept >= 36 && kept <= 38);
    cr_expect(bit(&map, 0, 70, 70) && !bit(&map, 0, 70, 71) && bit(&map, 0, 69, 69) &&
        !bit(&map, 0, 69, 70));
    in.heads[0].is_sparse = false;
    struct tile_map dense = predict(&mask_sparge, &m, NULL);
    for (int i = 0; i <= 70; i++)
        for (int j = 0; j < 128; j++) cr_assert_eq(bit(&dense, 0, i, j), j <= i);
    free(map.bits);
    free(dense.bits);
    input_free(&in);
}
