/* What --device names: the CPU, GPUs, or several of them. */
#ifndef SG_HARNESS_MEASURE_DEVICES_H
#define SG_HARNESS_MEASURE_DEVICES_H

#include "base/status.h"

#include <stdbool.h>

enum { MAX_DEVICES = 64, MAX_CUT = 16, DEVICE_CPU = -1 };

/* Where a model is placed: the CPU, a GPU, or several that its layers are cut over. */
struct device_place {
    int n;
    int index[MAX_CUT]; /* a GPU's number as CUDA counts them, or DEVICE_CPU */
};

struct device_list {
    int n;
    struct device_place at[MAX_DEVICES];
};

/* "cpu", "cuda" (the first GPU), "cuda:1", "cuda:all", or several joined by commas; "cuda:0,1" is
 * short for "cuda:0,cuda:1". "cuda:0+1" is one place, the layers cut over both. ERR_ARG for
 * anything else or a GPU named twice; ERR_DEVICE when all are asked for and there is none;
 * ERR_UNSUPPORTED for a GPU when the program was built without CUDA. */
enum status devices_parse(const char *text, struct device_list *out) MUST_USE;

/* GPUs that this process may use; 0 with a status message when there is none. */
int devices_cuda_count(void);

#endif
