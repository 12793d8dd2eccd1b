#include "kernels/attn.h"

#include <assert.h>

void head_ledger_add(struct head_ledger *to, const struct head_ledger *from)
{
    uint64_t *t = (uint64_t *)to;
    const uint64_t *f = (const uint64_t *)from;
    _Static_assert(sizeof *to % sizeof *t == 0, "a ledger is nothing but counters");
    for (size_t i = 0; i < sizeof *to / sizeof *t; i++) t[i] += f[i];
}

static double skipped(uint64_t computed, uint64_t possible)
{
    return possible ? 1 - (double)computed / (double)possible : 0;
}

double ledger_qk_sparsity(const struct head_ledger *l)
{
    return skipped(l->tiles_computed, l->tiles_possible);
}

double ledger_pv_sparsity(const struct head_ledger *l)
{
    return skipped(l->pv_units_computed, l->pv_units_possible);
}

double ledger_sparsity(const struct head_ledger *l)
{
    return (ledger_qk_sparsity(l) + ledger_pv_sparsity(l)) / 2;
}

struct tile_map tile_map_shape(struct block_shape block, int n_heads, int q_start, int n_q)
{
    assert(q_start % block.q == 0 && n_q > 0);
    int n_kv = q_start + n_q;
    struct tile_map m = {
        .block = block,
        .n_heads = n_heads,
        .n_qblocks = (n_q + block.q - 1) / block.q,
        .n_kblocks = (n_kv + block.k - 1) / block.k,
    };
    m.words_per_row = (m.n_kblocks + 63) / 64;
    return m;
}

size_t tile_map_bytes(const struct tile_map *m)
{
    return sizeof *m->bits * (size_t)m->n_heads * (size_t)m->n_qblocks * (size_t)m->words_per_row;
}
