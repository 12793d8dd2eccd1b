/* Tuning curves in the results database, packed.
 *
 * A blob: n_possible, then for each θ a byte: 0 = as the θ before it, 1 = followed by its
 * points, of which runs with equal values are stored once with their length.
 */
#ifndef SG_HARNESS_MEASURE_CURVE_DB_H
#define SG_HARNESS_MEASURE_CURVE_DB_H

#include "engine/tuner/tuner.h"
#include "harness/measure/setup.h"
#include "results/store.h"

/* What such blobs are called in the database; another form needs another name. */
#define CURVE_KIND "curve1"

struct curve_db {
    struct store *store;  /* borrowed */
    struct curve_key key; /* all but method, layer, head, sample */
    const struct mask_method *method;
    char data[33];
    bool writing; /* a transaction is open */
};

/* The key is the model, where it runs, where curves are made (tune_place, on the CPU its
 * instruction set), the samples' tokens, method, block shape, smoothing and engine version. */
enum status curve_db_open(struct curve_db *db, struct store *store, const struct setup *setup,
    const struct sample_set *set, const struct sparse_policy *policy) MUST_USE;
/* Commits what is still open. */
void curve_db_close(struct curve_db *db);
struct curve_store curve_db_store(struct curve_db *db);

void curve_pack(const struct curve *c, struct str *out);
/* ERR_FORMAT when the blob is damaged. */
enum status curve_unpack(const void *blob, size_t size, struct curve *out) MUST_USE;

#endif
