/* A stored run's configuration, evaluated once more: what `gate --confirm` asks for. */
#ifndef SG_HARNESS_MEASURE_GATE_AGAIN_H
#define SG_HARNESS_MEASURE_GATE_AGAIN_H

#include "base/hash.h"
#include "harness/measure/setup.h"
#include "reports/view.h"

/* Options that bring a run about again. Texts are borrowed from the record; policy.tuned is
 * `tuned_path`. ERR_ARG when the record does not hold all that is needed. */
enum status gate_again_options(const struct run_record *r, const char *tuned_path,
    struct sample_options *samples, struct policy_options *policy) MUST_USE;

/* Runs it on the same tokens, thresholds and settings and stores it as the next repetition; key: of
 * the new run. The model is machine->model, or where it lay then. ERR_ARG, naming what differs,
 * when the tokens or the model are no longer the same. */
enum status gate_again(const struct run_view *v, const char *db,
    const struct machine_options *machine, int argc, char **argv, char key[HASH_HEX_SIZE]) MUST_USE;

#endif
