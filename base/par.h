/* A pool of threads and a parallel for.
 *
 * One pool per process is enough; loops do not nest (a loop started inside a loop body runs
 * serially on the calling thread).
 */
#ifndef SG_BASE_PAR_H
#define SG_BASE_PAR_H

#include "base/status.h"

struct par; /* opaque */

/* n_threads 0 means one per processor this process may run on. The caller's thread is one of them.
 */
enum status par_open(struct par **p, int n_threads) MUST_USE;
void par_close(struct par **p);
int par_threads(const struct par *p);

/* Run body(ctx, i, worker) for i in [0, n), handed out one at a time in increasing order to
 * whichever worker is free; worker is in [0, par_threads()). Returns when all are done. Results
 * must not depend on which worker ran what. p NULL runs serially as worker 0. */
typedef void par_body(void *ctx, int i, int worker);
void par_for(struct par *p, int n, par_body *body, void *ctx);

/* Processors this process may run on (affinity and cgroup quota respected). */
int par_cpu_count(void);

#endif
