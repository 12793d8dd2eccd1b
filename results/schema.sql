-- Results of sparsegauge. Made for plain sqlite3 as well as for the program:
--   sqlite3 results.db 'SELECT id, method, sparsity, cosine_mean, kl_mean FROM v_runs ORDER BY sparsity'
--   sqlite3 results.db 'SELECT * FROM v_frontier WHERE on_cosine'
--   sqlite3 results.db 'SELECT layer, head, sparsity FROM v_ledger WHERE run = 7 ORDER BY sparsity LIMIT 10'
-- Fingerprints, keys and hashes are 32 hexadecimal digits. Times are seconds, sizes bytes, moments UTC texts.
-- NULL = does not apply or was not measured.

-- A checkpoint, told apart by its tensors and configuration, not by where it lies.
CREATE TABLE model (
    id          INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    path        TEXT,
    config      TEXT,             -- JSON object
    n_layers    INTEGER NOT NULL,
    n_heads     INTEGER NOT NULL, -- query heads
    n_kv_heads  INTEGER NOT NULL,
    head_dim    INTEGER NOT NULL,
    vocab       INTEGER NOT NULL,
    n_params    INTEGER NOT NULL
) STRICT;

-- Token ids and what is scored of them.
CREATE TABLE dataset (
    id          INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    suite       TEXT NOT NULL,    -- text, cloze, choice, needle, chronicle, speed, ...
    name        TEXT NOT NULL,    -- as asked for, e.g. text:wiki.valid.raw
    n_samples   INTEGER NOT NULL,
    max_length  INTEGER NOT NULL, -- tokens
    n_tokens    INTEGER NOT NULL
) STRICT;

CREATE TABLE machine (
    id          INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    hostname    TEXT,
    cpu         TEXT NOT NULL,
    n_cores     INTEGER NOT NULL,
    ram_bytes   INTEGER NOT NULL,
    gpus        TEXT,
    driver      TEXT,
    os          TEXT
) STRICT;

CREATE TABLE software (
    id       INTEGER PRIMARY KEY,
    version  TEXT NOT NULL,
    engine   TEXT NOT NULL,    -- version of the numerics
    compiler TEXT NOT NULL,
    git_commit TEXT NOT NULL,  -- '' outside a checkout
    dirty    INTEGER NOT NULL, -- 1: built with uncommitted changes
    UNIQUE (version, engine, compiler, git_commit, dirty)
) STRICT;

-- One evaluated configuration on one data set: a cell of a sweep, or a single eval.
CREATE TABLE run (
    id        INTEGER PRIMARY KEY,
    key       TEXT NOT NULL UNIQUE, -- hash of key_json: everything the numbers depend on
    slot      TEXT NOT NULL,        -- hash of what was asked for; same slot, other key: stale
    key_json  TEXT NOT NULL,
    plan      TEXT,                 -- sweep it was made for
    status    TEXT NOT NULL CHECK (status IN ('done', 'failed', 'skipped')),
    reason    TEXT,                 -- why it failed or was skipped
    model     INTEGER NOT NULL REFERENCES model,
    dataset   INTEGER NOT NULL REFERENCES dataset,
    machine   INTEGER NOT NULL REFERENCES machine,
    software  INTEGER NOT NULL REFERENCES software,
    -- settings
    method      TEXT NOT NULL,      -- dense, sparge, topk, oracle, bound+keys=32, …
    block_q     INTEGER NOT NULL,   -- query rows of a tile
    block_k     INTEGER NOT NULL,   -- key rows of a tile
    smooth_k    TEXT,               -- running, global, off
    qk          TEXT,               -- what the operands of Q·K become: int8, fp8; NULL: as they are
    pv          TEXT,               -- and those of P·V: fp8
    rule        TEXT,               -- what tuning bounded: l1, tail, cosine, rmse
    l1          REAL,
    pv_l1       REAL,
    simthreshd1 REAL,               -- theta
    cdfthreshd  REAL,               -- tau
    pvthreshd   REAL,               -- lambda, log2 units
    topk        REAL,               -- kept fraction of tiles
    window      INTEGER,            -- tokens
    layers      TEXT NOT NULL,      -- sparse layers: all, 16-31, 0-6+8-15, 7
    heads       TEXT NOT NULL,      -- all, or one head
    tuned_hash  TEXT,               -- see table tuned
    max_length  INTEGER NOT NULL,
    num_samples INTEGER NOT NULL,
    score       TEXT,               -- all, second-half
    seed        INTEGER NOT NULL,   -- two's complement of an unsigned number
    repeat      INTEGER NOT NULL,
    threads     INTEGER NOT NULL,
    device      TEXT NOT NULL,
    residual    TEXT,               -- of the residual stream on a device: f32, bf16
    graph       INTEGER NOT NULL,   -- 1: repeated calls ran as captured graphs
    confirming  INTEGER NOT NULL,   -- 1: made by gate --confirm to try a failure again; lists and frontiers leave it out
    impl        TEXT,               -- attention kernel asked for; NULL: the best
    impls       TEXT,               -- kernels that ran
    blas        TEXT,               -- library, version and kernels of the products, e.g. OpenBLAS 0.3.21 Haswell
    isa         TEXT,               -- instruction set of our own CPU kernels
    min_sparse_tokens    INTEGER NOT NULL,
    attention_calls      INTEGER NOT NULL,
    dense_fallback_calls INTEGER NOT NULL, -- of these, dense because the sequence was too short
    argv      TEXT,                 -- JSON array
    started   TEXT,
    ended     TEXT,
    wall_s    REAL,
    peak_bytes        INTEGER,      -- resident memory
    peak_device_bytes INTEGER,
    digest    TEXT NOT NULL,        -- hash of the results without timings: two machines agree, or they do not
    -- headline numbers: copies of rows of table metric (scope overall), written with them
    sparsity REAL, qk_sparsity REAL, pv_sparsity REAL, -- of the work possible under the causal triangle
    cosine_mean REAL, cosine_lo REAL, cosine_hi REAL, cosine_p1 REAL, -- over positions; lo, hi: 95 % interval
    kl_mean REAL, kl_lo REAL, kl_hi REAL, kl_p99_9 REAL,              -- nats
    ppl_dense REAL, ppl_sparse REAL, ppl_ratio REAL, ppl_ratio_lo REAL, ppl_ratio_hi REAL,
    token_accuracy REAL, top5_overlap REAL,
    logits_cosine REAL, logits_l1 REAL, logits_rmse REAL, hidden_cosine REAL, hidden_l1 REAL,
    score_dense REAL, score_sparse REAL, score_drop REAL,
    latency_dense REAL, latency_sparse REAL, latency_ratio REAL
) STRICT;
CREATE INDEX run_slot ON run (slot);

-- A distribution per metric. Names: see metric_info() in results/records.c, and v_metrics.
CREATE TABLE metric (
    run     INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    scope   TEXT NOT NULL,    -- overall, sample:3, position:0-255
    name    TEXT NOT NULL,
    ordinal INTEGER NOT NULL, -- order of writing
    n       INTEGER NOT NULL, -- values that went in
    mean REAL, std_error REAL, min REAL, p0_1 REAL, p1 REAL, p5 REAL, median REAL,
    p95 REAL, p99 REAL, p99_9 REAL, max REAL,
    lo REAL, hi REAL,         -- 95 % interval over samples
    PRIMARY KEY (run, scope, name)
) STRICT, WITHOUT ROWID;

-- One window of tokens.
CREATE TABLE sample (
    run       INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample    INTEGER NOT NULL,
    n_tokens  INTEGER NOT NULL,
    n_scored  INTEGER NOT NULL, -- positions with a next token
    fell_back INTEGER NOT NULL, -- 1: too short, ran dense
    nll_dense_sum REAL, nll_sparse_sum REAL,
    cosine_mean REAL, cosine_p1 REAL, cosine_min REAL,
    kl_mean REAL, kl_p99_9 REAL, kl_max REAL,
    delta_p_mean REAL, token_accuracy REAL, top5_overlap REAL,
    logits_cosine REAL, logits_l1 REAL, logits_rmse REAL, hidden_cosine REAL, hidden_l1 REAL,
    sparsity REAL, qk_sparsity REAL, pv_sparsity REAL,
    cosine_centred_mean REAL, row_rmse_mean REAL, row_hidden_cosine_mean REAL, -- means over positions
    logits_dense_rms REAL, logits_sparse_rms REAL, hidden_dense_rms REAL, hidden_sparse_rms REAL, -- root mean squares
    tiles_possible REAL, pv_possible REAL, -- work that qk_sparsity and pv_sparsity are shares of
    PRIMARY KEY (run, sample)
) STRICT, WITHOUT ROWID;

-- The worst positions of a sample, worst first: data is n little-endian f32. name: cosine (the smallest) or kl.
CREATE TABLE tail (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL,
    name   TEXT NOT NULL,
    n      INTEGER NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (run, sample, name)
) STRICT, WITHOUT ROWID;

-- Thresholds of the heads of one layer, stored once for all runs that share them: JSON arrays by head, or one
-- value for all heads; null = the head was dense. id: 63 bits of the hash of the three texts.
CREATE TABLE head_thresholds (
    id INTEGER PRIMARY KEY,
    theta TEXT NOT NULL, tau TEXT NOT NULL, lambda TEXT NOT NULL
) STRICT;

-- Work counted by the kernels, one row a layer: JSON arrays by head, or one value for all heads.
-- v_ledger shows it one row a head.
CREATE TABLE ledger (
    run     INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    layer   INTEGER NOT NULL,
    n_heads INTEGER NOT NULL,
    tiles_possible TEXT NOT NULL, tiles_computed TEXT NOT NULL,
    pv_possible TEXT NOT NULL, pv_computed TEXT NOT NULL, -- units of 64 query rows x one key block
    forced_sink TEXT NOT NULL, forced_diagonal TEXT NOT NULL,
    forced_theta_q TEXT NOT NULL, forced_theta_k TEXT NOT NULL,
    calls TEXT NOT NULL,                                  -- and those that ran dense, by reason:
    dense_head TEXT NOT NULL, dense_layer TEXT NOT NULL, dense_short TEXT NOT NULL,
    eight TEXT NOT NULL DEFAULT '0',                      -- calls whose products were of eight bits
    tiles_corrected TEXT NOT NULL DEFAULT '0',            -- left-out tiles that one mean key stood for
    thresholds INTEGER NOT NULL REFERENCES head_thresholds,
    PRIMARY KEY (run, layer)
) STRICT, WITHOUT ROWID;

-- Error of the attention output of a layer, or of a head of it, against the dense run's (eval --attribution).
-- head -1: all heads; sample -1: all samples.
CREATE TABLE layer_error (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL,
    layer  INTEGER NOT NULL,
    head   INTEGER NOT NULL,
    isolated_l1 REAL, isolated_cosine REAL,     -- this layer alone sparse, on the dense run's input
    propagated_l1 REAL, propagated_cosine REAL, -- of the sparse run, errors of earlier layers included
    PRIMARY KEY (run, sample, layer, head)
) STRICT, WITHOUT ROWID;

-- Questions of task suites.
CREATE TABLE item (
    run     INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    item    TEXT NOT NULL,
    grp     TEXT,
    sample  INTEGER,
    depth   REAL,    -- 0 ... 1
    length  INTEGER, -- tokens of context
    dense_score REAL, sparse_score REAL,
    dense_right INTEGER NOT NULL, sparse_right INTEGER NOT NULL,
    dense_right_norm INTEGER, sparse_right_norm INTEGER, -- by log probability per byte, multiple choice alone
    chance REAL,                -- of a right answer without reading: 1 / choices, 0 of an open question
    kl     REAL,                -- mean over the answer's tokens
    recall REAL, recall_oracle REAL, -- attention mass of its sample in the tiles computed, and in as many of the best
    recall_p5 REAL, recall_group REAL, -- its 5th percentile over heads and blocks of rows; of the worst head of a group
    dense_value REAL, sparse_value REAL, -- scores of written answers, 0 ... 1; NULL: read, not written
    expected TEXT, dense_text TEXT, sparse_text TEXT, -- of written answers
    PRIMARY KEY (run, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE generation (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    idx    INTEGER NOT NULL,
    prompt TEXT NOT NULL, dense TEXT NOT NULL, sparse TEXT NOT NULL,
    n_tokens INTEGER NOT NULL,
    token_match REAL, text_similarity REAL,
    PRIMARY KEY (run, idx)
) STRICT;

CREATE TABLE latency (
    run      INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    part     TEXT NOT NULL, -- prefill_dense, prefill_sparse, decode: whole passes; and of profiled ones:
                            -- dense_attention, _linear, _rest, sparse_predict, _qk, _pv (or _attention, both in
                            -- one kernel), _attention_dense (layers that ran dense), _linear, _rest
    n_tokens INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    min REAL, p5 REAL, q1 REAL, median REAL, q3 REAL, p95 REAL, max REAL, mean REAL,
    valid    INTEGER NOT NULL,
    note     TEXT,
    PRIMARY KEY (run, part, n_tokens)
) STRICT, WITHOUT ROWID;

-- Positions with the highest KL.
CREATE TABLE worst_token (
    run      INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample   INTEGER NOT NULL,
    position INTEGER NOT NULL,
    token    INTEGER NOT NULL, -- true next token
    kl REAL, cosine REAL, nll_dense REAL, nll_sparse REAL,
    row_sparsity REAL,         -- of its block of query rows
    context TEXT, token_text TEXT,
    top_dense TEXT, top_sparse TEXT, -- JSON arrays
    PRIMARY KEY (run, sample, position)
) STRICT;

-- Optional: 20 bytes a token, little-endian: i32 true next token, f32 kl, cosine, nll dense, nll sparse.
CREATE TABLE token_block (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (run, sample)
) STRICT;

-- Which tiles a head computed: bit I * n_k + J, least significant bit first.
CREATE TABLE block_mask (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL, layer INTEGER NOT NULL, head INTEGER NOT NULL,
    n_q    INTEGER NOT NULL, n_k INTEGER NOT NULL,
    bits   BLOB NOT NULL,
    PRIMARY KEY (run, sample, layer, head)
) STRICT;

-- Thresholds found by tuning, and what they achieved when the inference kernel ran them.
CREATE TABLE tuned (
    hash              TEXT PRIMARY KEY NOT NULL,
    model_fingerprint TEXT NOT NULL,
    data_fingerprint  TEXT NOT NULL,
    method TEXT NOT NULL, rule TEXT NOT NULL, smooth_k TEXT NOT NULL, layers TEXT NOT NULL,
    l1 REAL, pv_l1 REAL,
    block_q INTEGER NOT NULL, block_k INTEGER NOT NULL,
    json   TEXT,
    wall_s REAL
) STRICT;

CREATE TABLE tuned_head (
    hash  TEXT NOT NULL REFERENCES tuned ON DELETE CASCADE,
    layer INTEGER NOT NULL,
    head  INTEGER NOT NULL,
    is_sparse INTEGER NOT NULL,
    theta REAL, tau REAL, lambda REAL,
    l1_tune REAL, l1_held_out REAL,     -- worst sample
    tail_tune REAL, tail_held_out REAL, -- 99.9th percentile over rows, worst sample
    qk_sparsity REAL, sparsity REAL,
    back_offs INTEGER NOT NULL,
    reason TEXT,                        -- why the head stayed dense
    PRIMARY KEY (hash, layer, head)
) STRICT;

-- Error curves of one head on one sample; the layout of `data` is named by `kind`.
CREATE TABLE curve (
    model_fingerprint TEXT NOT NULL, data_fingerprint TEXT NOT NULL,
    kind TEXT NOT NULL, method TEXT NOT NULL, smooth_k TEXT NOT NULL,
    block_q INTEGER NOT NULL, block_k INTEGER NOT NULL,
    layer INTEGER NOT NULL, head INTEGER NOT NULL, sample INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (model_fingerprint, data_fingerprint, kind, method, smooth_k, block_q, block_k,
                 layer, head, sample)
) STRICT;

-- Dense against dense: a difference below `value` is none.
CREATE TABLE noise (
    machine INTEGER NOT NULL REFERENCES machine,
    model_fingerprint TEXT NOT NULL,
    source TEXT NOT NULL, -- threads, tile order, backend, repeat
    metric TEXT NOT NULL,
    value  REAL NOT NULL, -- distance from the perfect value
    n      INTEGER NOT NULL,
    PRIMARY KEY (machine, model_fingerprint, source, metric)
) STRICT, WITHOUT ROWID;

-- Sweeps: what was planned, so that what is missing can be told.
CREATE TABLE plan (
    name    TEXT PRIMARY KEY NOT NULL,
    json    TEXT,
    created TEXT NOT NULL
) STRICT;
CREATE TABLE cell (
    plan     TEXT NOT NULL REFERENCES plan ON DELETE CASCADE,
    ordinal  INTEGER NOT NULL,
    key      TEXT NOT NULL,
    slot     TEXT NOT NULL,
    key_json TEXT NOT NULL,
    PRIMARY KEY (plan, ordinal)
) STRICT;

-- Workers' claims on cells; one that has run out counts for nothing.
CREATE TABLE lease (
    key     TEXT PRIMARY KEY NOT NULL,
    owner   TEXT NOT NULL,
    expires REAL NOT NULL -- seconds since 1970
) STRICT, WITHOUT ROWID;
