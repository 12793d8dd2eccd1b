/* Sessions on a CUDA device: weights in bf16, resident once for all sessions; KV cache bf16;
 * residual stream f32 or bf16; every product accumulated in f32.
 *
 * Weights of other types are rounded to bf16 on their way, and so is what the tensor cores read.
 * Sessions of one model take turns on its device.
 */
#ifndef SG_ENGINE_CUDA_SESSION_CUDA_H
#define SG_ENGINE_CUDA_SESSION_CUDA_H

#include "engine/session.h"

/* Bytes that the weights and the library's workspace take on the device; offload: with two layers
 * of them. Pure. */
size_t weights_cuda_bytes(const struct llama_config *c, bool tied, bool offload);

/* What a session takes beside them. chunk 0 picks one; kv_bytes, activation_bytes and linear_bytes
 * (what logits need beyond the memory of the layers) add up to total_bytes. residual: DTYPE_F32 or
 * DTYPE_BF16. by_layer: all chunks of a sequence pass a layer before the next. Pure. */
struct session_plan session_plan_cuda(const struct llama_config *c, enum dtype residual,
    int capacity, int chunk, bool once, bool by_layer);

/* Share of the matrices' values that are stored in another type than bf16 and are rounded on their
 * way. Logits of a 1B checkpoint in f16 are then .025 from transformers' f32, those of one in bf16
 * .018 (norm of the difference over norm). */
double weights_cuda_rounds(const struct weights *w);

/* NULL, or why the CUDA path cannot run this model; static text. */
const char *weights_cuda_refuses(const struct llama_config *c);

/* GPUs that this process sees; 0 with a status message saying why when there is none. */
int weights_cuda_count(void);

/* What device `index` is and has, without placing anything there. ERR_DEVICE without it, with the
 * reason. */
enum status weights_cuda_look(
    int index, struct weights_device_info *out, size_t *free_bytes, size_t *total_bytes) MUST_USE;

/* Open device `index` and bring the weights there; sessions opened on *w from then on run there.
 * Released by weights_close(). ERR_DEVICE without a GPU or with too old a driver, ERR_UNSUPPORTED
 * for a GPU or a model that is not supported, ERR_MEMORY with what is needed and what is there. */
enum status weights_place_cuda(struct weights *w, int index) MUST_USE;
/* The same with the layers cut over n >= 2 GPUs (engine/session_split.h). */
enum status weights_place_split(struct weights *w, const int *index, int n) MUST_USE;

#endif
