/* Who works on what: a holder takes leases on keys of one database, and a thread of its own renews
 * them for as long as the process lives, whatever that is busy with.
 *
 * A lease is void when its holder was a process of this machine and PID namespace that runs no
 * more, or when it ran out, which a holder that lives does not let happen. One that ends later than
 * any lease can comes from a clock that is ahead; it is void once it was not renewed for as long as
 * a lease lasts by the clock here.
 */
#ifndef SG_RESULTS_LEASE_H
#define SG_RESULTS_LEASE_H

#include "base/str.h"
#include "results/store.h"

struct lease_holder; /* opaque; belongs to one thread */

/* worker: a number that tells apart the holders of one process. */
enum status lease_open(struct lease_holder **h, struct store *s, int worker) MUST_USE;
/* Gives back what is still held. */
void lease_close(struct lease_holder **h);

/* As store_lease(). */
enum status lease_take(
    struct lease_holder *h, const char *key, enum lease_over over, enum lease *out) MUST_USE;
enum status lease_drop(struct lease_holder *h, const char *key) MUST_USE;

/* What people should know of leases met since the last call, e.g. that a clock is ahead; "" when
 * nothing. Valid until the next lease_take. */
const char *lease_news(struct lease_holder *h);

/* "host:pid:start:boot:namespace:worker"; appended. */
void lease_owner(int worker, struct str *out);
/* Was that a process of this machine, as seen from here, and is no more? */
bool lease_owner_is_dead(const char *owner);

enum { LEASE_SECONDS = 300, LEASE_RENEW_SECONDS = 60 };

#endif
