/* Layers cut over several GPUs of one host, for a model that fits on none of them alone and for one
 * sequence after the other. Equal to one GPU bit for bit. */
#ifndef SG_ENGINE_CUDA_SPLIT_CUDA_H
#define SG_ENGINE_CUDA_SPLIT_CUDA_H

#include "engine/cuda/session_cuda.h"

enum { MAX_SPLIT = 16 };

/* The same number of layers, or one more, to each of n >= 2 GPUs, in this order: embeddings are on
 * the first, the head on the last. Sessions opened on *w from then on run there. Errors as of
 * weights_place_cuda(), and ERR_UNSUPPORTED with device_options.offload or graph. */
enum status weights_place_split(struct weights *w, const int *index, int n) MUST_USE;

#endif
