/* Checkpoints of a family that calls its tensors otherwise, or keeps several in one. */
#ifndef SG_ENGINE_CHECKPOINT_TENSOR_NAMES_H
#define SG_ENGINE_CHECKPOINT_TENSOR_NAMES_H

#include "engine/checkpoint/config.h"
#include "engine/checkpoint/safetensors.h"

/* Gives all tensors the names of LLaMA by the family's list; the rows of one that holds several
 * become tensors of their own, in the same place of the map. ERR_FORMAT where their number is
 * another than config.json's sizes make. */
enum status tensor_names_apply(struct safetensors *s, const struct llama_config *c) MUST_USE;

#endif
