-- A database of version 2 (sparsegauge 0.1.0, commit a0ff37e): eval suites/demo/model --suite 'needle:lengths=300;depths=50;repeat=1'
-- --max-length 300 --worst 2; names of the machine taken out, some rows left out. Read by tests/unit/test_columns.c.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
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
INSERT INTO model VALUES(1,'full:e48f815603ed06d33daf373c9afae435','model','suites/demo/model','{"hidden_size":256,"intermediate_size":704,"max_position_embeddings":8192,"rope_type":"default","rope_theta":100000,"tie_word_embeddings":true}',8,4,2,64,4096,6951168);
CREATE TABLE dataset (
    id          INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    suite       TEXT NOT NULL,    -- text, cloze, choice, needle, chronicle, speed, ...
    name        TEXT NOT NULL,    -- as asked for, e.g. text:wiki.valid.raw
    n_samples   INTEGER NOT NULL,
    max_length  INTEGER NOT NULL, -- tokens
    n_tokens    INTEGER NOT NULL
) STRICT;
INSERT INTO dataset VALUES(1,'984c11e23cab67905c0f6e3a884a3b28','needle','needle:lengths=300;depths=50;repeat=1',1,300,300);
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
INSERT INTO machine VALUES(1,'00112233445566778899aabbccddeeff','box','AMD EPYC',2,25276502016,NULL,NULL,'Linux 6.1 x86_64');
CREATE TABLE software (
    id       INTEGER PRIMARY KEY,
    version  TEXT NOT NULL,
    engine   TEXT NOT NULL,    -- version of the numerics
    compiler TEXT NOT NULL,
    git_commit TEXT NOT NULL,  -- '' outside a checkout
    dirty    INTEGER NOT NULL, -- 1: built with uncommitted changes
    UNIQUE (version, engine, compiler, git_commit, dirty)
) STRICT;
INSERT INTO software VALUES(1,'0.1.0','2','GNU 12.2.0 Release','808144cdf424',0);
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
    method      TEXT NOT NULL,      -- dense, sparge, topk, window, oracle
    block_q     INTEGER NOT NULL,   -- query rows of a tile
    block_k     INTEGER NOT NULL,   -- key rows of a tile
    smooth_k    TEXT,               -- running, global, off
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
    impls       TEXT,               -- kernels that ran
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
INSERT INTO run VALUES(1,'9da29ff960418117da4fe27138b11889','e1b2677dadae8d755b1e1517ef1d2467','{"model_fingerprint":"full:e48f815603ed06d33daf373c9afae435","tokens":"984c11e23cab67905c0f6e3a884a3b28","engine":"2","kernels":"avx512","policy":"12fb30c83f9c48e34cb47b8774b5cd7d","model":"model","suite":"needle:lengths=300;depths=50;repeat=1","max_length":300,"num_samples":1,"score":"all","method":"sparge","block_q":128,"block_k":64,"smooth_k":"running","layers":"all","heads":"all","simthreshd1":0.6,"cdfthreshd":0.98,"pvthreshd":50,"min_sparse_tokens":256,"device":"cpu"}',NULL,'done',NULL,1,1,1,1,'sparge',128,64,'running',NULL,NULL,NULL,0.59999999999999997779,0.97999999999999998223,50.0,NULL,NULL,'all','all',NULL,300,1,'all',0,0,1,'cpu','attn_avx512_f32',256,8,0,'["sparsegauge","eval","suites/demo/model"]','2026-11-27T20:53:56Z','2026-11-27T20:53:58Z',2.025657003000000067,33456128,NULL,'18152a25fc92830d4dc17aa0edc56823',0.0,0.0,0.0,0.99999999980131781818,NULL,NULL,1.0,4.3866349900649008772e-09,NULL,NULL,1.1484631603764251771e-07,NULL,NULL,NULL,NULL,NULL,1.0,1.0,1.0000000001337034927,7.0158343940344517499e-08,3.9960016385648812508e-07,1.0,0.0,1.0,1.0,0.0,0.37954047322273254394,0.36411231756210327148,NULL);
CREATE TABLE metric (
    run     INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    scope   TEXT NOT NULL,    -- overall, sample:3, position:0-255
    name    TEXT NOT NULL,
    ordinal INTEGER NOT NULL, -- order of writing
    n       INTEGER NOT NULL, -- values that went in
    mean REAL, std_error REAL, min REAL, p0_1 REAL, p1 REAL, p5 REAL, median REAL,
    p95 REAL, p99 REAL, p99_9 REAL, max REAL,
    lo REAL, hi REAL,         -- 95 % interval, whole samples resampled
    PRIMARY KEY (run, scope, name)
) STRICT, WITHOUT ROWID;
INSERT INTO metric VALUES(1,'overall','answers_gained',33,1,0.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','answers_lost',32,1,0.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','cosine',0,300,0.99999999980131781818,1.9868214925130207025e-10,0.9999999403953552246,0.99999995821714404709,1.0,1.0,1.0,1.0,1.0,1.0,1.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','cosine_centred',1,300,0.99999999761581426227,6.7547630975230193439e-10,0.9999999403953552246,0.9999999403953552246,0.9999999403953552246,1.0,1.0,1.0,1.0,1.0,1.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','delta_p',5,299,-4.7581249973134162665e-09,6.6638165028607292588e-09,-1.4624217783421045169e-06,-1.2162881373569690779e-06,-3.6164412222206008789e-07,-1.5877680392684108026e-09,0.0,1.0239506753606446397e-08,1.0322418972918523585e-07,6.964024300941668126e-07,7.8564659133917302824e-07,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','hidden_cosine',15,300,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','hidden_l1',16,300,0.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','kl',2,300,4.3866349900649008772e-09,9.6173890908552343362e-10,0.0,0.0,0.0,0.0,0.0,3.6784905077524870161e-08,9.1800724888457722831e-08,1.1484631603764251771e-07,1.1801369481645451742e-07,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','latency_dense',37,1,0.37954047322273254394,0.0,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,0.37954047322273254394,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','latency_sparse',38,1,0.36411231756210327148,0.0,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,0.36411231756210327148,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','logits_cosine',12,300,1.0000000001337034927,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','logits_l1',13,300,7.0158343940344517499e-08,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','logits_rmse',14,300,3.9960016385648812508e-07,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','nll_dense',3,299,0.97192899860838977144,0.092397557590861656429,0.0,0.0,1.1682509679644680926e-07,9.4175294407250476069e-07,0.00020621081057470291852,3.9745253801345818978,6.1297219944000191915,7.5975418758392319062,7.9198288917541503906,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','nll_sparse',4,299,0.97192899112043162901,0.092397555885280632792,0.0,0.0,1.1682509679644680926e-07,9.4175294407250476069e-07,0.00020621081057470291852,3.9745253801345818978,6.1297224617004335556,7.5975418758392319062,7.9198288917541503906,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','pv_sparsity',36,1,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','qk_sparsity',35,1,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','row_hidden_cosine',10,300,1.0,0.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','row_hidden_l1',11,300,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','row_l1',8,300,7.0158344082453061476e-08,8.7635510728801531508e-09,0.0,0.0,0.0,0.0,5.6143107940442860126e-08,9.6395478976774040015e-08,9.9133010394325459298e-07,1.2901300493695113384e-06,1.3236949598649516701e-06,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','row_rmse',9,300,2.8682457023402702851e-07,1.6090459156453425343e-08,0.0,0.0,0.0,0.0,3.1761278762587608071e-07,5.6995175157226196133e-07,1.4605136539103108709e-06,1.8934576177116523598e-06,1.9695678474818123504e-06,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','score_dense',29,1,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','score_drop',31,1,0.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','score_sparse',30,1,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','sparsity',34,1,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','token_accuracy',17,300,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','top1',6,300,1.0,0.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','top5',7,300,1.0,0.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,NULL,NULL);
INSERT INTO metric VALUES(1,'overall','top5_overlap',18,300,1.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
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
    PRIMARY KEY (run, sample)
) STRICT, WITHOUT ROWID;
INSERT INTO sample VALUES(1,0,300,299,0,290.606770583908542,290.60676834500907262,0.99999999980131781818,1.0,0.9999999403953552246,4.3866349900649008772e-09,1.1484631603764251771e-07,1.1801369481645451742e-07,-4.7581249973134162665e-09,1.0,1.0,1.0000000001337034927,7.0158343940344517499e-08,3.9960016385648812508e-07,1.0,0.0,0.0,0.0,0.0,0.99999999761581426227,2.8682457023402702851e-07,1.0);
CREATE TABLE head_thresholds (
    id INTEGER PRIMARY KEY,
    theta TEXT NOT NULL, tau TEXT NOT NULL, lambda TEXT NOT NULL
) STRICT;
INSERT INTO head_thresholds VALUES(3457905552202852346,'0.6000000238418579','0.9800000190734863','50');
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
    thresholds INTEGER NOT NULL REFERENCES head_thresholds,
    PRIMARY KEY (run, layer)
) STRICT, WITHOUT ROWID;
INSERT INTO ledger VALUES(1,0,4,'11','11','15','15','3','5','[6,6,0,6]','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,1,4,'11','11','15','15','3','5','[11,11,11,6]','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,2,4,'11','11','15','15','3','5','11','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,3,4,'11','11','15','15','3','5','11','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,4,4,'11','11','15','15','3','5','[5,11,11,11]','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,5,4,'11','11','15','15','3','5','11','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,6,4,'11','11','15','15','3','5','11','11','1','0','0','0',3457905552202852346);
INSERT INTO ledger VALUES(1,7,4,'11','11','15','15','3','5','11','11','1','0','0','0',3457905552202852346);
CREATE TABLE layer_error (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL,
    layer  INTEGER NOT NULL,
    head   INTEGER NOT NULL,
    isolated_l1 REAL, isolated_cosine REAL,     -- this layer alone sparse, on the dense run's input
    propagated_l1 REAL, propagated_cosine REAL, -- of the sparse run, errors of earlier layers included
    PRIMARY KEY (run, sample, layer, head)
) STRICT, WITHOUT ROWID;
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
    PRIMARY KEY (run, ordinal)
) STRICT, WITHOUT ROWID;
INSERT INTO item VALUES(1,0,'needle 1','needle',0,0.5,300,-0.0028185237179059186019,-0.0028185237179059186019,1,1,NULL,NULL);
CREATE TABLE generation (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    idx    INTEGER NOT NULL,
    prompt TEXT NOT NULL, dense TEXT NOT NULL, sparse TEXT NOT NULL,
    n_tokens INTEGER NOT NULL,
    token_match REAL, text_similarity REAL,
    PRIMARY KEY (run, idx)
) STRICT;
INSERT INTO generation VALUES(1,0,'The capital of France is',replace(' the\nfirst of all, and the second of the citizens of the town will be\nremarkable. The citizens of the town will be in the city, and will\nbecome the chief of the','\n',char(10)),replace(' the\nfirst of all, and the second of the citizens of the town will be\nremarkable. The citizens of the town will be in the city, and will\nbecome the chief of the','\n',char(10)),50,1.0,1.0);
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
INSERT INTO worst_token VALUES(1,0,251,900,1.1801369481645451742e-07,1.0,1.8882336616516113281,1.888234257698059082,0.0,' Isla, who was sorry, would not speak to the thatcher. There were six white stones beside the lane, and',' Is','[{"id":904,"text":" Ver","p":0.20591205528449294},{"id":900,"text":" Is","p":0.1513389510087465},{"id":1773,"text":" Hester","p":0.13126530056874741},{"id":1018,"text":" Al","p":0.087778503776069453},{"id":719,"text":" El","p":0.0859620072278682}]','[{"id":904,"text":" Ver","p":0.20591205528449294},{"id":900,"text":" Is","p":0.1513389510087465},{"id":1773,"text":" Hester","p":0.13126530056874741},{"id":1018,"text":" Al","p":0.087778503776069453},{"id":719,"text":" El","p":0.0859620072278682}]');
INSERT INTO worst_token VALUES(1,0,191,970,1.0742045475353734218e-07,1.0,0.03393665701150894165,0.033936772495508193969,0.0,replace('81. Hester gave the thatcher a lamp, and the glazier, who was silent, gave it to Mara.\n\nEl','\n',char(10)),'nor','[{"id":970,"text":"nor","p":0.9666328806559662},{"id":728,"text":"mund","p":0.006956421701739773},{"id":1789,"text":"speth","p":0.0040365636555306141},{"id":954,"text":"thea","p":0.0031227089032995017},{"id":877,"text":"wen","p":0.0022724062823992314}]','[{"id":970,"text":"nor","p":0.9666328806559662},{"id":728,"text":"mund","p":0.006956421701739773},{"id":1789,"text":"speth","p":0.0040365636555306141},{"id":954,"text":"thea","p":0.0031227089032995017},{"id":877,"text":"wen","p":0.0022724062823992314}]');
CREATE TABLE token_block (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (run, sample)
) STRICT;
CREATE TABLE block_mask (
    run    INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    sample INTEGER NOT NULL, layer INTEGER NOT NULL, head INTEGER NOT NULL,
    n_q    INTEGER NOT NULL, n_k INTEGER NOT NULL,
    bits   BLOB NOT NULL,
    PRIMARY KEY (run, sample, layer, head)
) STRICT;
INSERT INTO block_mask VALUES(1,0,0,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,1,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,2,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,3,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,4,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,5,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,6,0,3,5,X'e37d');
INSERT INTO block_mask VALUES(1,0,7,0,3,5,X'e37d');
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
CREATE TABLE curve (
    model_fingerprint TEXT NOT NULL, data_fingerprint TEXT NOT NULL,
    kind TEXT NOT NULL, method TEXT NOT NULL, smooth_k TEXT NOT NULL,
    block_q INTEGER NOT NULL, block_k INTEGER NOT NULL,
    layer INTEGER NOT NULL, head INTEGER NOT NULL, sample INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (model_fingerprint, data_fingerprint, kind, method, smooth_k, block_q, block_k,
                 layer, head, sample)
) STRICT;
CREATE TABLE noise (
    machine INTEGER NOT NULL REFERENCES machine,
    model_fingerprint TEXT NOT NULL,
    source TEXT NOT NULL, -- threads, tile order, backend, repeat
    metric TEXT NOT NULL,
    value  REAL NOT NULL, -- distance from the perfect value
    n      INTEGER NOT NULL,
    PRIMARY KEY (machine, model_fingerprint, source, metric)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE lease (
    key     TEXT PRIMARY KEY NOT NULL,
    owner   TEXT NOT NULL,
    expires REAL NOT NULL -- seconds since 1970
) STRICT, WITHOUT ROWID;
CREATE INDEX run_slot ON run (slot);
CREATE VIEW v_runs AS
SELECT r.id, r.status, r.reason, m.name AS model, d.suite, d.name AS dataset, r.method, r.layers, r.heads,
       r.rule, r.l1, r.pv_l1, r.simthreshd1, r.cdfthreshd, r.pvthreshd, r.topk, r.window,
       r.block_q, r.block_k, r.smooth_k, r.max_length, r.num_samples, r.score, d.n_tokens, r.device, r.threads,
       r.sparsity, r.qk_sparsity, r.pv_sparsity, r.cosine_mean, r.cosine_lo, r.cosine_hi, r.cosine_p1,
       r.kl_mean, r.kl_lo, r.kl_hi, r.kl_p99_9,
       r.ppl_dense, r.ppl_sparse, r.ppl_ratio, r.ppl_ratio_lo, r.ppl_ratio_hi,
       r.token_accuracy, r.top5_overlap, r.logits_cosine, r.logits_l1, r.logits_rmse,
       r.hidden_cosine, r.hidden_l1,
       r.score_dense, r.score_sparse, r.score_drop, r.latency_dense, r.latency_sparse, r.latency_ratio,
       r.dense_fallback_calls, r.attention_calls, r.wall_s, r.peak_bytes, r.peak_device_bytes,
       r.started, r.ended, r.plan, r.key, r.slot, r.tuned_hash, r.seed, r.repeat,
       h.cpu, h.gpus, s.version, s.git_commit, s.dirty
FROM run r
JOIN model m ON m.id = r.model
JOIN dataset d ON d.id = r.dataset
JOIN machine h ON h.id = r.machine
JOIN software s ON s.id = r.software;
CREATE VIEW v_frontier AS
WITH marked AS (
    SELECT id,
           cosine_mean IS NOT NULL AND cosine_mean >= max(cosine_mean) OVER same
               AND ifnull(cosine_mean > max(cosine_mean) OVER sparser, 1) AS on_cosine,
           kl_mean IS NOT NULL AND kl_mean <= min(kl_mean) OVER same
               AND ifnull(kl_mean < min(kl_mean) OVER sparser, 1) AS on_kl,
           ppl_ratio IS NOT NULL AND ppl_ratio <= min(ppl_ratio) OVER same
               AND ifnull(ppl_ratio < min(ppl_ratio) OVER sparser, 1) AS on_ppl
    FROM run WHERE status = 'done' AND sparsity IS NOT NULL
    WINDOW same    AS (PARTITION BY model, dataset, method = 'oracle', sparsity),
           sparser AS (PARTITION BY model, dataset, method = 'oracle' ORDER BY sparsity DESC
                       GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
SELECT r.id, m.name AS model, d.name AS dataset, r.max_length, r.method, r.layers, r.rule, r.l1, r.pv_l1,
       r.topk, r.window, r.sparsity, r.cosine_mean, r.kl_mean, r.ppl_ratio, k.on_cosine, k.on_kl, k.on_ppl
FROM marked k JOIN run r ON r.id = k.id JOIN model m ON m.id = r.model JOIN dataset d ON d.id = r.dataset;
CREATE VIEW v_metrics AS
SELECT v.id AS run, v.model, v.dataset, v.method, v.layers, v.l1, v.pv_l1, v.sparsity,
       t.scope, t.name, t.n, t.mean, t.std_error,
       t.min, t.p0_1, t.p1, t.p5, t.median, t.p95, t.p99, t.p99_9, t.max, t.lo, t.hi
FROM metric t JOIN v_runs v ON v.id = t.run;
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
       json_extract(theta, iif(json_type(theta) = 'array', path, '$')) AS theta,
       json_extract(tau, iif(json_type(tau) = 'array', path, '$')) AS tau,
       json_extract(lambda, iif(json_type(lambda) = 'array', path, '$')) AS lambda
    FROM ledger JOIN head_thresholds t ON t.id = thresholds JOIN head ON i < n_heads)
SELECT *, 1.0 - tiles_computed * 1.0 / nullif(tiles_possible, 0) AS qk_sparsity,
       1.0 - pv_computed * 1.0 / nullif(pv_possible, 0) AS pv_sparsity,
       1.0 - 0.5 * (tiles_computed * 1.0 / nullif(tiles_possible, 0)
                    + pv_computed * 1.0 / nullif(pv_possible, 0)) AS sparsity
FROM flat;
CREATE VIEW v_flips AS
SELECT v.id AS run, v.model, v.dataset, v.method, v.sparsity, i.item, i.grp, i.depth, i.length,
       i.dense_score, i.sparse_score, CASE i.sparse_right WHEN 1 THEN 'gained' ELSE 'lost' END AS flip
FROM item i JOIN v_runs v ON v.id = i.run WHERE i.dense_right <> i.sparse_right;
CREATE VIEW v_cells AS
SELECT c.plan, c.ordinal, c.key, c.slot, r.id AS run, r.reason,
       CASE WHEN r.status IS NOT NULL THEN r.status
            WHEN EXISTS (SELECT 1 FROM lease l WHERE l.key = c.key
                         AND l.expires > (julianday('now') - 2440587.5) * 86400.0) THEN 'running'
            WHEN EXISTS (SELECT 1 FROM run o WHERE o.slot = c.slot AND o.status = 'done') THEN 'stale'
            ELSE 'missing' END AS state
FROM cell c LEFT JOIN run r ON r.key = c.key;
COMMIT;
PRAGMA application_id = 1399867233; PRAGMA user_version = 2;
