/* Attention on the CPU: packs K once, then one task per (head, query block), each walking its key
 * blocks.
 *
 * Heads that read the same q, k and v (one head under several tile maps or thresholds, as the tuner
 * asks) walk together: scores are computed once, and heads that have kept and skipped the same so
 * far share their whole state. What each of them computes is what it computes alone, operation for
 * operation.
 */
#include "kernels/cpu/attn_mean.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_BLOCK = 128,
    DECODE_ROWS = 8,       /* up to this many rows, packing K would cost more than it saves */
    SHARED_COLUMNS = 1024, /* of output, of all heads that walk together: 256 KiB of the stack */
    MAX_SHARED = 8,
};

/* Faults for those who must catch them: tests/CMakeLists.txt builds a program with each, and
 * nothing else defines SG_PLANT. */
enum { PLANT_NOTHING, PLANT_LEDGER, PLANT_LEAK, PLANT_MASK, PLANT_PRECISION };
#ifndef SG_PLANT
#define SG_PLANT PLANT_NOTHING
#endif

static bool corrects(const struct attn_args *a) { return a->tiles && a->correct_mean; }

static const char *refuses(const struct attn_args *a)
{
    if (a->dtype != DTYPE_F32) return "the CPU path takes f32";
    if (a->head_dim < 1 || a->head_dim > 256) return "head_dim over 256";
    if (a->block.q % PV_UNIT_ROWS || a->block.k % 64 || a->block.q > MAX_BLOCK ||
        a->block.k > MAX_BLOCK)
        return "blocks are 64 or 128";
    if (a->tiles && a->q_start % a->block.q != 0) return "a sparse call starts on a query block";
    if (a->tiles && a->window > 0) return "a windowed call is dense";
    if (corrects(a) && !attn_is_full(a)) return ATTN_CORRECTS_FULL;
    return eight_refuses(a);
}

static bool rounds_p(const struct attn_args *a)
{
    return a->pv == PRECISION_FP8 && SG_PLANT != PLANT_PRECISION;
}

static int n_kblocks(const struct attn_args *a)
{
    return (attn_n_kv(a) + a->block.k - 1) / a->block.k;
}

static bool decodes(const struct attn_args *a)
{
    return !a->tiles && a->n_q <= DECODE_ROWS && attn_is_full(a);
}

static size_t packed_floats(const struct attn_args *a)
{
    return (size_t)a->n_kv_heads * (size_t)n_kblocks(a) * (size_t)a->block.k * (size_t)a->head_dim;
}

/* Key blocks that some query block of the call leaves wholly behind it, and their means. */
static int n_means(const struct attn_args *a)
{
    return tiles_before(a->block, (attn_n_kv(a) - 1) / a->block.q);
}

static size_t means_floats(const struct attn_args *a)
{
    return corrects(a) ? attn_means_floats(n_means(a), a->head_dim) : 0;
}

static size_t workspace(const struct attn_args *a)
{
    size_t floats = decodes(a) ? (size_t)a->n_heads * (size_t)attn_n_kv(a) : packed_floats(a);
    floats += (size_t)a->n_kv_heads * means_floats(a);
    return (sizeof(float) * floats + 63) / 64 * 64 + eight_bytes(a);
}

struct walk {
    const struct attn_args *a;
    const struct cpu_ops *ops;
    float *kt, *means;
    int n_qblocks;
};

static void pack_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct walk *w = ctx;
    const struct attn_args *a = w->a;
    int nb = n_kblocks(a), kv = item / nb, jb = item % nb, j0 = jb * a->block.k;
    int n = attn_n_kv(a) - j0 < a->block.k ? attn_n_kv(a) - j0 : a->block.k;
    w->ops->pack_keys((const float *)a->k + kv * a->k_head + j0 * a->k_row, a->k_row, n,
        a->head_dim, a->block.k, w->kt + (size_t)item * (size_t)a->block.k * (size_t)a->head_dim);
}

static struct attn_means means_of(const struct walk *w, int kv)
{
    const struct attn_args *a = w->a;
    return attn_means_at(
        w->means + (size_t)kv * means_floats(a), n_means(a), a->block.k, a->head_dim);
}

static void means_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct walk *w = ctx;
    const struct attn_args *a = w->a;
    int n_groups = (n_means(a) + MEAN_GROUP - 1) / MEAN_GROUP, kv = item / n_groups;
    struct attn_means m = means_of(w, kv);
    attn_means_pool(&m, w->ops, item % n_groups, (const float *)a->k + kv * a->k_head, a->k_row,
        (const float *)a->v + kv * a->v_head, a->v_row);
}

/* How far the unit's maxima stand below those of all scores so far, skipped tiles included, which
 * move on here. The unit's own maximum is that of what was added, so that sums never shrink to
 * nothing under a maximum that was only seen. */
static float see(const struct attn_unit *u, const float *m_local, float *seen)
{
    float worst = -INFINITY;
    for (int r = 0; r < u->n_rows; r++) {
        if (m_local[r] > seen[r]) seen[r] = m_local[r];
        if (m_local[r] > -INFINITY && m_local[r] - seen[r] > worst) worst = m_local[r] - seen[r];
    }
    return worst;
}

/* A row whose sum is still empty needs P·V. */
static bool has_empty(const struct attn_unit *u)
{
    bool empty = false;
    for (int r = 0; r < u->n_rows; r++) empty |= u->l[r] == 0;
    return empty;
}

/* Exp and P·V of the whole unit can be skipped (METHOD 3). */
static bool skip_pv(const struct attn_unit *u, const float *m_local, float *seen, float lambda)
{
    return see(u, m_local, seen) + lambda <= 0 && !has_empty(u);
}

static uint64_t ticks(const struct attn_args *a) { return a->ticks ? __builtin_ia32_rdtsc() : 0; }

static void walk_unit(const struct walk *w, struct attn_unit *u, int head, const uint64_t *tiles,
    struct head_ledger *count, bool last_of_block)
{
    const struct attn_args *a = w->a;
    int kv = head / (a->n_heads / a->n_kv_heads), n_kv = attn_n_kv(a),
        last_pos = u->first_pos + u->n_rows - 1;
    const float *v = (const float *)a->v + kv * a->v_head;
    size_t tile = (size_t)a->block.k * (size_t)a->head_dim;
    float m_local[PV_UNIT_ROWS], seen[PV_UNIT_ROWS];
    struct attn_ticks spent = {0};
    for (int r = 0; r < PV_UNIT_ROWS; r++) seen[r] = -INFINITY;
    int first = attn_first_key(a, u->first_pos) / a->block.k, nb = last_pos / a->block.k + 1;
    /* the last rows of a block see the next key */
    int ahead = SG_PLANT == PLANT_LEAK && u->first_pos % a->block.q >= 64;
    u->first_pos += ahead;
    for (int jb = first; jb < nb; jb++) {
        int bit = SG_PLANT == PLANT_MASK && jb + 1 < nb ? jb + 1 : jb;
        if (tiles && !(tiles[bit / 64] >> (bit % 64) & 1)) continue;
        int pos = jb * a->block.k, n_keys = n_kv - pos < a->block.k ? n_kv - pos : a->block.k;
        const float *kt = w->kt + ((size_t)kv * (size_t)n_kblocks(a) + (size_t)jb) * tile;
        uint64_t begin = ticks(a);
        w->ops->unit_scores(u, kt, a->block.k, pos, n_keys, m_local);
        uint64_t scored = ticks(a);
        count->tiles_computed += last_of_block && !(SG_PLANT == PLANT_LEDGER && jb % 4 == 1);
        if (!tiles || !a->pv_threshold || !skip_pv(u, m_local, seen, a->pv_threshold[head]) ||
            /* NaN is not for skipping: it goes into the output */
            w->ops->unit_tainted(u, a->block.k, pos, n_keys)) {
            w->ops->unit_accumulate(
                u, v + pos * a->v_row, a->v_row, a->block.k, pos, n_keys, m_local);
            count->pv_units_computed++;
        }
        spent.qk += scored - begin;
        spent.pv += ticks(a) - scored;
    }
    u->first_pos -= ahead;
    if (tiles && corrects(a)) {
        struct attn_means m = means_of(w, kv);
        int joined = attn_means_join(
            &m, w->ops, u, tiles, tiles_before(a->block, u->first_pos / a->block.q));
        count->tiles_corrected += last_of_block ? (uint64_t)joined : 0;
    }
    if (a->ticks) {
        __atomic_fetch_add(&a->ticks->qk, spent.qk, __ATOMIC_RELAXED);
        __atomic_fetch_add(&a->ticks->pv, spent.pv, __ATOMIC_RELAXED);
    }
    count->pv_units_possible += (uint64_t)(nb - first);
    count->tiles_possible += last_of_block ? (uint64_t)(nb - first) : 0;
}

static void ledger_add_atomic(struct head_ledger *to, const struct head_ledger *from)
{
    __atomic_fetch_add(&to->tiles_possible, from->tiles_possible, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->tiles_computed, from->tiles_computed, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->pv_units_possible, from->pv_units_possible, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->pv_units_computed, from->pv_units_computed, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->tiles_corrected, from->tiles_corrected, __ATOMIC_RELAXED);
}

struct rows {
    int first, end;
};

/* Of one query block of this call. */
static struct rows rows_of(const struct attn_args *a, int qb)
{
    int block = a->q_start / a->block.q + qb, end = (block + 1) * a->block.q - a->q_start;
    return (struct rows){qb ? block * a->block.q - a->q_start : 0, end < a->n_q ? end : a->n_q};
}

static void block_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct walk *w = ctx;
    const struct attn_args *a = w->a;
    /* Long rows first, heads of one query block together: the last tasks are the short ones. */
    int qb = w->n_qblocks - 1 - item / a->n_heads, head = item % a->n_heads;
    struct rows rows = rows_of(a, qb);
    int row0 = rows.first, row1 = rows.end;
    bool sparse = a->tiles && (!a->head_sparse || a->head_sparse[head]);
    const uint64_t *tiles = sparse ? tile_map_row(a->tiles, head, qb) : NULL;
    struct head_ledger count = {0};
    /* 160 KiB of stack */
    float buffer[PV_UNIT_ROWS * (2 * 256 + MAX_BLOCK)] __attribute__((aligned(64)));
    struct attn_unit u = {
        .head_dim = a->head_dim, .window = a->window, .p_e4m3 = rounds_p(a), .q = buffer};
    u.o = u.q + PV_UNIT_ROWS * a->head_dim;
    u.s = u.o + PV_UNIT_ROWS * a->head_dim;
    for (int row = row0; row < row1;) {
        int pos = a->q_start + row, end = (pos / PV_UNIT_ROWS + 1) * PV_UNIT_ROWS - a->q_start;
        u.n_rows = (end < row1 ? end : row1) - row;
        u.first_pos = pos;
        w->ops->unit_begin(
            &u, (const float *)a->q + row * a->q_row + head * a->q_head, a->q_row, a->scale);
        walk_unit(w, &u, head, tiles, &count, row + u.n_rows == row1);
        w->ops->unit_end(&u, (float *)a->o + row * a->o_row + head * a->o_head, a->o_row);
        row += u.n_rows;
    }
    if (a->ledger) ledger_add_atomic(&a->ledger[head], &count);
}

/* Heads that have kept and skipped the same tiles of a unit so far. */
struct branch {
    struct attn_unit u;
    float seen[PV_UNIT_ROWS];
};

struct shared {
    const struct walk *w;
    int head0, n;                      /* heads [head0, head0 + n) walk together */
    const uint64_t *tiles[MAX_SHARED]; /* of each; NULL: dense */
    struct head_ledger count[MAX_SHARED];
    int branch_of[MAX_SHARED], n_branches;
    struct branch branches[MAX_SHARED];
    /* [64, 128]; accumulating turns scores into probabilities */
    float *scores, *spare;
};

enum outcome { ABSENT, SKIPPED, COMPUTED, N_OUTCOMES };

/* A copy of a branch for those of its heads that go another way. */
static int fork_branch(struct shared *s, int from)
{
    struct branch *x = &s->branches[s->n_branches], *y = &s->branches[from];
    float *o = x->u.o;
    *x = *y;
    x->u.o = o;
    memcpy(o, y->u.o, sizeof *o * PV_UNIT_ROWS * (size_t)y->u.head_dim);
    return s->n_branches++;
}

/* What each head of branch b does with the tile; its heads part where they differ. computes[branch]
 * is set for those that are to accumulate. */
static void part(
    struct shared *s, int b, const bool *keeps, const float *m_local, bool tainted, bool *computes)
{
    const struct attn_args *a = s->w->a;
    float seen[PV_UNIT_ROWS];
    memcpy(seen, s->branches[b].seen, sizeof seen);
    float worst = see(&s->branches[b].u, m_local, seen);
    bool needed = tainted || has_empty(&s->branches[b].u);
    int of_outcome[N_OUTCOMES] = {-1, -1, -1}, first = -1;
    enum outcome outcomes[MAX_SHARED];
    for (int h = 0; h < s->n; h++) {
        if (s->branch_of[h] != b) continue;
        bool skip =
            s->tiles[h] && a->pv_threshold && !needed && worst + a->pv_threshold[s->head0 + h] <= 0;
        outcomes[h] = !keeps[h] ? ABSENT : skip ? SKIPPED : COMPUTED;
        if (first < 0) first = (int)outcomes[h];
    }
    if (first < 0) return; /* a branch is there for its heads */
    of_outcome[first] = b;
    for (int h = 0; h < s->n; h++) {
        if (s->branch_of[h] != b) continue;
        enum outcome x = outcomes[h];
        if (of_outcome[x] < 0) of_outcome[x] = fork_branch(s, b);
        s->count[h].pv_units_computed += x == COMPUTED;
    }
    for (int h = 0; h < s->n; h++) /* not above: a fork's number must not be met again */
        if (s->branch_of[h] == b) s->branch_of[h] = of_outcome[outcomes[h]];
    for (int x = SKIPPED; x < N_OUTCOMES; x++)
        if (of_outcome[x] >= 0) memcpy(s->branches[of_outcome[x]].seen, seen, sizeof seen);
    if (of_outcome[COMPUTED] >= 0) computes[of_outcome[COMPUTED]] = true;
}

/* Heads of one branch have left out the same tiles. */
static void correct_shared(struct shared *s, bool last_of_block)
{
    const struct attn_args *a = s->w->a;
    struct attn_means m = means_of(s->w, 0);
    int before = tiles_before(a->block, s->branches[0].u.first_pos / a->block.q),
        joined[MAX_SHARED] = {0};
    for (int b = 0; b < s->n_branches; b++) {
        const uint64_t *tiles = NULL;
        for (int h = 0; h < s->n && !tiles; h++)
            if (s->branch_of[h] == b) tiles = s->tiles[h];
        s->branches[b].u.s = s->scores;
        joined[b] = tiles ? attn_means_join(&m, s->w->ops, &s->branches[b].u, tiles, before) : 0;
    }
    for (int h = 0; h < s->n && last_of_block; h++)
        s->count[h].tiles_corrected += (uint64_t)joined[s->branch_of[h]];
}

static void walk_shared_unit(struct shared *s, bool last_of_block)
{
    const struct walk *w = s->w;
    const struct attn_args *a = w->a;
    struct attn_unit *u = &s->branches[0].u;
    int n_kv = attn_n_kv(a), nb = (u->first_pos + u->n_rows - 1) / a->block.k + 1, bk = a->block.k;
    float m_local[PV_UNIT_ROWS];
    for (int r = 0; r < PV_UNIT_ROWS; r++) s->branches[0].seen[r] = -INFINITY;
    s->n_branches = 1;
    for (int h = 0; h < s->n; h++) s->branch_of[h] = 0;
    for (int jb = 0; jb < nb; jb++) {
        bool keeps[MAX_SHARED], any = false, computes[MAX_SHARED] = {false};
        for (int h = 0; h < s->n; h++) {
            keeps[h] = !s->tiles[h] || (s->tiles[h][jb / 64] >> (jb % 64) & 1);
            any |= keeps[h];
            s->count[h].tiles_computed += keeps[h] && last_of_block;
        }
        if (!any) continue;
        int pos = jb * bk, n_keys = n_kv - pos < bk ? n_kv - pos : bk, n_before = s->n_branches,
            left = 0;
        u->s = s->scores;
        w->ops->unit_scores(
            u, w->kt + (size_t)jb * (size_t)bk * (size_t)a->head_dim, bk, pos, n_keys, m_local);
        bool tainted = a->pv_threshold && w->ops->unit_tainted(u, bk, pos, n_keys);
        for (int b = 0; b < n_before; b++) part(s, b, keeps, m_local, tainted, computes);
        for (int b = 0; b < s->n_branches; b++) left += computes[b];
        for (int b = 0; b < s->n_branches; b++) {
            if (!computes[b]) continue;
            struct attn_unit *x = &s->branches[b].u;
            x->s = --left ? s->spare : s->scores;
            for (int r = 0; r < x->n_rows && left; r++)
                memcpy(s->spare + r * MAX_BLOCK, s->scores + r * MAX_BLOCK,
                    sizeof *s->spare * (size_t)bk);
            w->ops->unit_accumulate(
                x, (const float *)a->v + pos * a->v_row, a->v_row, bk, pos, n_keys, m_local);
        }
    }
    if (corrects(a)) correct_shared(s, last_of_block);
    for (int h = 0; h < s->n; h++) {
        s->count[h].pv_units_possible += (uint64_t)nb;
        s->count[h].tiles_possible += last_of_block ? (uint64_t)nb : 0;
    }
}

static int shared_at_once(const struct attn_args *a)
{
    int n = SHARED_COLUMNS / a->head_dim;
    return n < MAX_SHARED ? n : MAX_SHARED;
}

static bool shares(const struct attn_args *a)
{
    return a->n_heads > 1 && a->n_kv_heads == 1 && a->q_head == 0 && a->window <= 0;
}

static void shared_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct walk *w = ctx;
    const struct attn_args *a = w->a;
    int at_once = shared_at_once(a), n_groups = (a->n_heads + at_once - 1) / at_once;
    int qb = w->n_qblocks - 1 - item / n_groups, head0 = item % n_groups * at_once;
    /* 384 KiB of stack */
    float buffer[PV_UNIT_ROWS * (SHARED_COLUMNS + 256 + 2 * MAX_BLOCK)]
        __attribute__((aligned(64)));
    struct shared s = {
        .w = w, .head0 = head0, .n = a->n_heads - head0 < at_once ? a->n_heads - head0 : at_once};
    float *q = buffer, *o = q + PV_UNIT_ROWS * a->head_dim;
    for (int h = 0; h < s.n; h++, o += PV_UNIT_ROWS * a->head_dim) {
        bool sparse = a->tiles && (!a->head_sparse || a->head_sparse[head0 + h]);
        s.tiles[h] = sparse ? tile_map_row(a->tiles, head0 + h, qb) : NULL;
        s.branches[h].u =
            (struct attn_unit){.head_dim = a->head_dim, .p_e4m3 = rounds_p(a), .q = q, .o = o};
    }
    s.scores = o;
    s.spare = o + PV_UNIT_ROWS * MAX_BLOCK;
    struct rows rows = rows_of(a, qb);
    for (int row = rows.first; row < rows.end;) {
        struct attn_unit *u = &s.branches[0].u;
        int pos = a->q_start + row, end = (pos / PV_UNIT_ROWS + 1) * PV_UNIT_ROWS - a->q_start;
        u->n_rows = (end < rows.end ? end : rows.end) - row;
        u->first_pos = pos;
        w->ops->unit_begin(u, (const float *)a->q + row * a->q_row, a->q_row, a->scale);
        walk_shared_unit(&s, row + u->n_rows == rows.end);
        for (int h = 0; h < s.n; h++)
            w->ops->unit_end(&s.branches[s.branch_of[h]].u,
                (float *)a->o + row * a->o_row + (head0 + h) * a->o_head, a->o_row);
        row += u->n_rows;
    }
    for (int h = 0; h < s.n && a->ledger; h++)
        ledger_add_atomic(&a->ledger[head0 + h], &s.count[h]);
}

static void decode_task(void *ctx, int head, int worker)
{
    (void)worker;
    const struct walk *w = ctx;
    const struct attn_args *a = w->a;
    int kv = head / (a->n_heads / a->n_kv_heads);
    const float *k = (const float *)a->k + kv * a->k_head,
                *v = (const float *)a->v + kv * a->v_head;
    float *scores = w->kt + (size_t)head * (size_t)attn_n_kv(a);
    struct head_ledger count = {0};
    for (int row = 0; row < a->n_q; row++) {
        int n = a->q_start + row + 1, first = attn_first_key(a, n - 1);
        w->ops->attend_row((const float *)a->q + row * a->q_row + head * a->q_head, a->scale,
            k + first * a->k_row, a->k_row, v + first * a->v_row, a->v_row, n - first, a->head_dim,
            scores, (float *)a->o + row * a->o_row + head * a->o_head);
        bool ends_unit = row + 1 == a->n_q || n % PV_UNIT_ROWS == 0,
             ends_block = row + 1 == a->n_q || n % a->block.q == 0;
        uint64_t nb = (uint64_t)((n - 1) / a->block.k + 1 - first / a->block.k);
        count.pv_units_possible += ends_unit ? nb : 0;
        count.tiles_possible += ends_block ? nb : 0;
    }
    count.tiles_computed = count.tiles_possible;
    count.pv_units_computed = count.pv_units_possible;
    if (a->ledger) ledger_add_atomic(&a->ledger[head], &count);
}

static enum status run_with(
    const struct cpu_ops *ops, const struct attn_args *a, void *ws, struct par *par)
{
    struct attn_args rounded;
    if (!attn_is_full(a)) {
        eight_inputs(a, ws, par, &rounded);
        ws = (char *)ws + eight_bytes(a);
        a = &rounded;
    }
    struct walk w = {a, ops, ws, (float *)ws + packed_floats(a), 0};
    if (decodes(a)) {
        par_for(par, a->n_heads, decode_task, &w);
        return OK;
    }
    w.n_qblocks = (attn_n_kv(a) - 1) / a->block.q - a->q_start / a->block.q + 1;
    par_for(par, a->n_kv_heads * n_kblocks(a), pack_task, &w);
    if (corrects(a))
        par_for(par, a->n_kv_heads * ((n_means(a) + MEAN_GROUP - 1) / MEAN_GROUP), means_task, &w);
    if (shares(a)) {
        int at_once = shared_at_once(a);
        par_for(par, (a->n_heads + at_once - 1) / at_once * w.n_qblocks, shared_task, &w);
        return OK;
    }
    par_for(par, a->n_heads * w.n_qblocks, block_task, &w);
    return OK;
}

#define CPU_IMPL(isa)                                                                   \
    static const char *refuses_##isa(const struct attn_args *a)                         \
    {                                                                                   \
        return cpu_ops_find(#isa) ? refuses(a)                                          \
                                  : #isa " is not in this processor or was masked off"; \
    }                                                                                   \
    static enum status run_##isa(                                                       \
        const struct attn_args *a, void *ws, struct par *par, struct stream *s)         \
    {                                                                                   \
        (void)s;                                                                        \
        return run_with(&cpu_ops_##isa, a, ws, par);                                    \
    }                                                                                   \
    const struct attn_impl attn_cpu_##isa = {                                           \
        "attn_" #isa "_f32", refuses_##isa, workspace, run_##isa};

CPU_IMPL(avx512)
CPU_IMPL(avx2)
CPU_IMPL(base)
