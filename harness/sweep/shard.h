/* Which part of a sweep is this process's: from --shard, or from the environment of the engine that
 * started it.
 *
 * Read by themselves: Slurm steps, Open MPI, PMI (MPICH, Intel MPI), MVAPICH. Slurm arrays and
 * Kubernetes indexed jobs tell an index and not how many parts there are. An array of multi-task
 * jobs counts both: part = array index x tasks + rank.
 */
#ifndef SG_HARNESS_SWEEP_SHARD_H
#define SG_HARNESS_SWEEP_SHARD_H

#include "base/status.h"

struct shard {
    int index, count; /* 0 <= index < count; count 1: everything */
    /* static: "--shard", "Slurm array", "Open MPI", …; NULL: everything, nobody asked */
    const char *source;
};

/* text NULL or "auto": from the environment. "none": everything. "i/n": part i of n, from 1.
 * "auto/n": the index from the environment and n parts, for engines that do not tell how many there
 * are; of a Slurm array its task id modulo n. ERR_ARG names the variable. */
enum status shard_detect(const char *text, struct shard *out) MUST_USE;

/* The half-open range of n items that belongs to the shard: parts differ by at most one item. */
void shard_range(const struct shard *s, int n, int *first, int *end);

#endif
