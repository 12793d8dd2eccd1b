/* What --device names: the CPU, GPUs, or several of them. */
#ifndef SG_HARNESS_MEASURE_DEVICES_H
#define SG_HARNESS_MEASURE_DEVICES_H

#include "base/status.h"

#include <stdbool.h>

enum { MAX_DEVICES = 64, DEVICE_CPU = -1 };

struct device_list {
    int n;
    int index[MAX_DEVICES]; /* a GPU's number as CUDA counts them, or DEVICE_CPU */
};

/* "cpu", "cuda" (the first GPU), "cuda:1", "cuda:all", or several joined by commas; "cuda:0,1" is
 * short for "cuda:0,cuda:1". ERR_ARG for anything else or a GPU named twice; ERR_DEVICE when all
 * are asked for and there is none; ERR_UNSUPPORTED for a GPU when the program was built without
 * CUDA. */
enum status devices_parse(const char *text, struct device_list *out) MUST_USE;

/* GPUs that this process may use; 0 with a status message when there is none. */
int devices_cuda_count(void);

#endif
