/* Every implementation of every kernel, best first. The engine takes the first that does not
 * refuse; the benchmark and check_kernels go through all of them. */
#ifndef SG_KERNELS_REGISTRY_H
#define SG_KERNELS_REGISTRY_H

#include "kernels/attn.h"

/* Ended by NULL. The reference is last. */
extern const struct attn_impl *const attn_impls[];

/* The best that can run `a`, or the one called `name` (NULL or "auto": any). ERR_UNSUPPORTED with
 * each one's reason when there is none; never a silent second choice when a name was given. */
enum status attn_choose(
    const struct attn_args *a, const char *name, const struct attn_impl **out) MUST_USE;

#endif
