-- Views over the tables of schema.sql. Made anew whenever an older database is brought up to date.
DROP VIEW IF EXISTS v_runs;
DROP VIEW IF EXISTS v_frontier;
DROP VIEW IF EXISTS v_metrics;
DROP VIEW IF EXISTS v_ledger;
DROP VIEW IF EXISTS v_precision;
DROP VIEW IF EXISTS v_flips;
DROP VIEW IF EXISTS v_cells;

-- Every run with the names behind its numbers.
CREATE VIEW v_runs AS
SELECT r.id, r.status, r.reason, m.name AS model, d.suite, d.name AS dataset, r.method, r.layers, r.heads,
       r.rule, r.l1, r.pv_l1, r.simthreshd1, r.cdfthreshd, r.pvthreshd, r.topk, r.window,
       r.block_q, r.block_k, r.smooth_k, r.qk, r.pv, r.max_length, r.num_samples, r.score, d.n_tokens, r.device, r.residual, r.graph, r.impl, r.threads,
       r.sparsity, r.qk_sparsity, r.pv_sparsity, r.cosine_mean, r.cosine_lo, r.cosine_hi, r.cosine_p1,
       r.kl_mean, r.kl_lo, r.kl_hi, r.kl_p99_9,
       r.ppl_dense, r.ppl_sparse, r.ppl_ratio, r.ppl_ratio_lo, r.ppl_ratio_hi,
       r.token_accuracy, r.top5_overlap, r.logits_cosine, r.logits_l1, r.logits_rmse,
       r.hidden_cosine, r.hidden_l1,
       r.score_dense, r.score_sparse, r.score_drop, r.latency_dense, r.latency_sparse, r.latency_ratio,
       r.dense_fallback_calls, r.attention_calls, r.wall_s, r.peak_bytes, r.peak_device_bytes,
       r.started, r.ended, r.plan, r.key, r.slot, r.tuned_hash, r.seed, r.repeat,
       h.cpu, h.gpus, r.blas, r.isa, s.version, s.git_commit, s.dirty
FROM run r
JOIN model m ON m.id = r.model
JOIN dataset d ON d.id = r.dataset
JOIN machine h ON h.id = r.machine
JOIN software s ON s.id = r.software;

-- Done runs against the others of the same model and data set. on_cosine = 1: no other run is at least as
-- sparse and at least as good, and better in one of both. on_kl and on_ppl likewise. The oracle, which has to
-- compute everything before it leaves anything out, is a limit and competes with itself alone; so do runs of one
-- precision, as sparsity says nothing of what eight bits save.
CREATE VIEW v_frontier AS
WITH marked AS (
    SELECT id,
           cosine_mean IS NOT NULL AND cosine_mean >= max(cosine_mean) OVER same
               AND ifnull(cosine_mean > max(cosine_mean) OVER sparser, 1) AS on_cosine,
           kl_mean IS NOT NULL AND kl_mean <= min(kl_mean) OVER same
               AND ifnull(kl_mean < min(kl_mean) OVER sparser, 1) AS on_kl,
           ppl_ratio IS NOT NULL AND ppl_ratio <= min(ppl_ratio) OVER same
               AND ifnull(ppl_ratio < min(ppl_ratio) OVER sparser, 1) AS on_ppl
    FROM run WHERE status = 'done' AND NOT confirming AND sparsity IS NOT NULL
    WINDOW same    AS (PARTITION BY model, dataset, method || '+' LIKE 'oracle+%', qk, pv, sparsity),
           sparser AS (PARTITION BY model, dataset, method || '+' LIKE 'oracle+%', qk, pv ORDER BY sparsity DESC
                       GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
SELECT r.id, m.name AS model, d.name AS dataset, r.max_length, r.method, r.layers, r.rule, r.l1, r.pv_l1,
       r.topk, r.window, r.qk, r.pv, r.sparsity, r.cosine_mean, r.kl_mean, r.ppl_ratio, k.on_cosine, k.on_kl, k.on_ppl
FROM marked k JOIN run r ON r.id = k.id JOIN model m ON m.id = r.model JOIN dataset d ON d.id = r.dataset;

-- Metrics with the settings of their run.
CREATE VIEW v_metrics AS
SELECT v.id AS run, v.model, v.dataset, v.method, v.layers, v.l1, v.pv_l1, v.sparsity,
       t.scope, t.name, t.n, t.mean, t.std_error,
       t.min, t.p0_1, t.p1, t.p5, t.median, t.p95, t.p99, t.p99_9, t.max, t.lo, t.hi
FROM metric t JOIN v_runs v ON v.id = t.run;

-- The ledger, one row a head. sparsity: mean of the shares of QK and PV work left out, which cost the same.
CREATE VIEW v_ledger AS
WITH RECURSIVE head(i, path) AS (
    SELECT 0, '$[0]' UNION ALL SELECT i + 1, '$[' || (i + 1) || ']' FROM head WHERE i < 1023),
flat AS (
    SELECT run, layer, i AS head,
       json_extract(tiles_possible, iif(json_type(tiles_possible) = 'array', path, '$')) AS tiles_possible,
       json_extract(tiles_computed, iif(json_type(tiles_computed) = 'array', path, '$')) AS tiles_computed,
       json_extract(pv_possible, iif(json_type(pv_possible) = 'array', path, '$')) AS pv_possible,
       json_extract(pv_computed, iif(json_type(pv_computed) = 'array', path, '$')) AS pv_computed,
       json_extract(forced_sink, iif(json_type(forced_sink) = 'array', path, '$')) AS forced_sink,
       json_extract(forced_diagonal, iif(json_type(forced_diagonal) = 'array', path, '$')) AS forced_diagonal,
       json_extract(forced_theta_q, iif(json_type(forced_theta_q) = 'array', path, '$')) AS forced_theta_q,
       json_extract(forced_theta_k, iif(json_type(forced_theta_k) = 'array', path, '$')) AS forced_theta_k,
       json_extract(calls, iif(json_type(calls) = 'array', path, '$')) AS calls,
       json_extract(dense_head, iif(json_type(dense_head) = 'array', path, '$')) AS dense_head,
       json_extract(dense_layer, iif(json_type(dense_layer) = 'array', path, '$')) AS dense_layer,
       json_extract(dense_short, iif(json_type(dense_short) = 'array', path, '$')) AS dense_short,
       json_extract(eight, iif(json_type(eight) = 'array', path, '$')) AS eight,
       json_extract(tiles_corrected, iif(json_type(tiles_corrected) = 'array', path, '$')) AS tiles_corrected,
       json_extract(theta, iif(json_type(theta) = 'array', path, '$')) AS theta,
       json_extract(tau, iif(json_type(tau) = 'array', path, '$')) AS tau,
       json_extract(lambda, iif(json_type(lambda) = 'array', path, '$')) AS lambda
    FROM ledger JOIN head_thresholds t ON t.id = thresholds JOIN head ON i < n_heads)
SELECT *, 1.0 - tiles_computed * 1.0 / nullif(tiles_possible, 0) AS qk_sparsity,
       1.0 - pv_computed * 1.0 / nullif(pv_possible, 0) AS pv_sparsity,
       1.0 - 0.5 * (tiles_computed * 1.0 / nullif(tiles_possible, 0)
                    + pv_computed * 1.0 / nullif(pv_possible, 0)) AS sparsity
FROM flat;

-- Sparse runs of eight bits beside what each half costs alone: the same layers in the same precision with every tile
-- kept, and the same tiles with full products. NULL: that run is not stored; `eval --apart` makes both. kl_share: KL of
-- precision over KL of sparsity.
CREATE VIEW v_precision AS
SELECT b.id AS run, p.id AS precision_run, s.id AS sparsity_run, m.name AS model, d.name AS dataset, b.max_length,
       b.method, b.layers, b.l1, b.pv_l1, b.qk, b.pv, b.sparsity,
       p.kl_mean AS kl_precision, s.kl_mean AS kl_sparsity, b.kl_mean AS kl_both,
       p.kl_mean / nullif(s.kl_mean, 0) AS kl_share,
       p.cosine_mean AS cosine_precision, s.cosine_mean AS cosine_sparsity, b.cosine_mean AS cosine_both,
       p.ppl_ratio AS ppl_ratio_precision, s.ppl_ratio AS ppl_ratio_sparsity, b.ppl_ratio AS ppl_ratio_both
FROM run b JOIN model m ON m.id = b.model JOIN dataset d ON d.id = b.dataset JOIN software e ON e.id = b.software
LEFT JOIN (SELECT r.*, w.engine FROM run r JOIN software w ON w.id = r.software) p
       ON p.status = 'done' AND p.method = 'dense' AND p.qk IS b.qk AND p.pv IS b.pv
      AND (p.model, p.dataset, p.engine, p.max_length, p.layers, p.min_sparse_tokens, p.device, p.graph, p.seed,
           p.repeat, p.confirming)
        = (b.model, b.dataset, e.engine, b.max_length, b.layers, b.min_sparse_tokens, b.device, b.graph, b.seed,
           b.repeat, b.confirming)
      AND p.score IS b.score AND p.residual IS b.residual AND p.impl IS b.impl
LEFT JOIN (SELECT r.*, w.engine FROM run r JOIN software w ON w.id = r.software) s
       ON s.status = 'done' AND s.qk IS NULL AND s.pv IS NULL
      AND (s.method, s.model, s.dataset, s.engine, s.max_length, s.layers, s.heads, s.block_q, s.block_k,
           s.min_sparse_tokens, s.device, s.graph, s.seed, s.repeat, s.confirming)
        = (b.method, b.model, b.dataset, e.engine, b.max_length, b.layers, b.heads, b.block_q, b.block_k,
           b.min_sparse_tokens, b.device, b.graph, b.seed, b.repeat, b.confirming)
      AND s.smooth_k IS b.smooth_k AND s.tuned_hash IS b.tuned_hash AND s.simthreshd1 IS b.simthreshd1
      AND s.cdfthreshd IS b.cdfthreshd AND s.pvthreshd IS b.pvthreshd AND s.topk IS b.topk AND s.window IS b.window
      AND s.score IS b.score AND s.residual IS b.residual AND s.impl IS b.impl
WHERE b.status = 'done' AND b.method <> 'dense' AND (b.qk IS NOT NULL OR b.pv IS NOT NULL);

-- Questions whose answer changed between dense and sparse.
CREATE VIEW v_flips AS
SELECT v.id AS run, v.model, v.dataset, v.method, v.sparsity, i.item, i.grp, i.depth, i.length,
       i.dense_score, i.sparse_score, CASE i.sparse_right WHEN 1 THEN 'gained' ELSE 'lost' END AS flip
FROM item i JOIN v_runs v ON v.id = i.run WHERE i.dense_right <> i.sparse_right;

-- Planned cells and what became of them. A lease counts while it has not run out.
CREATE VIEW v_cells AS
SELECT c.plan, c.ordinal, c.key, c.slot, r.id AS run, r.reason,
       CASE WHEN r.status IS NOT NULL THEN r.status
            WHEN EXISTS (SELECT 1 FROM lease l WHERE l.key = c.key
                         AND l.expires > (julianday('now') - 2440587.5) * 86400.0) THEN 'running'
            WHEN EXISTS (SELECT 1 FROM run o WHERE o.slot = c.slot AND o.status = 'done') THEN 'stale'
            ELSE 'missing' END AS state
FROM cell c LEFT JOIN run r ON r.key = c.key;
