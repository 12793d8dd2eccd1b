/* Fields of config.json that must be neutral: scaling factors, windows, softcaps and the like, one
 * table. */
#ifndef SG_ENGINE_CHECKPOINT_CONFIG_NEUTRAL_H
#define SG_ENGINE_CHECKPOINT_CONFIG_NEUTRAL_H

#include "base/json.h"
#include "engine/checkpoint/config.h"

/* ERR_UNSUPPORTED, by name, for a field whose value changes what a LLaMA computes. `c` has its
 * sizes already. */
enum status llama_config_check_neutral(const struct llama_config *c, struct json_in in) MUST_USE;

#endif
