/* How much of the residual stream each head writes.
 *
 * A head's output o reaches the stream as o · Wᵀ, W being its columns of the output projection. The
 * share of a head is the root mean square over rows of ‖o · Wᵀ‖ / ‖x‖, x being the row of the
 * stream that enters the layer. What an error of the head's output does to the stream is that
 * error, relative to the output, times the share: a bound that is the same for all heads is not the
 * same for the stream.
 */
#ifndef SG_ENGINE_TUNER_STREAM_SHARE_H
#define SG_ENGINE_TUNER_STREAM_SHARE_H

#include "engine/session.h"

struct stream_share; /* of one layer, opaque */

/* Borrows weights; one layer's Gram matrices are held. */
enum status stream_share_open(
    struct stream_share **s, const struct weights *w, int layer, struct par *par) MUST_USE;
void stream_share_close(struct stream_share **s);

/* Counts one sample, or a chunk of it: `stream` [n, hidden_size] enters the layer, the whole
 * sample's (its rows from attn->q_start on are looked at), `attn` is the attention of the chunk,
 * f32 on the host. */
void stream_share_add(struct stream_share *s, const float *stream, const struct attn_args *attn);

/* out: [n_heads]; NAN before anything was counted. */
void stream_share_get(const struct stream_share *s, double *out);

#endif
