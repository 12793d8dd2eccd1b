/* Layers cut over several places, for a model that fits into none of them alone and for one
 * sequence after the other: the same bits as in one. */
#ifndef SG_ENGINE_SESSION_SPLIT_H
#define SG_ENGINE_SESSION_SPLIT_H

#include "engine/session.h"

enum { MAX_SPLIT = 16 };

/* Puts layers [first, end) of the weights into place `index`; embeddings go with the first layer,
 * the head with the last. */
typedef enum status split_place(struct weights *part, int index, int first, int end);

/* The same number of layers, or one more, to each of n >= 2 places, in this order. Sessions opened
 * on *w from then on run there; released by weights_close(). place: NULL leaves the parts on the
 * CPU. tuner: what says why it is not there; borrowed. ERR_UNSUPPORTED with device_options.offload
 * or graph, ERR_ARG for more places than layers, and whatever `place` says. */
enum status weights_split(struct weights *w, const int *index, int n, split_place *place,
    const struct tuner_backend *tuner) MUST_USE;

#endif
