#include "kernels/arithmetic.h"

#include "kernels/cpu/cpu_ops.h"

#include <cblas.h>
#include <pthread.h>
#include <stdio.h>

static char blas[128];

static void blas_find(void)
{
    char name[32] = "BLAS", version[32] = "of an unknown version";
    sscanf(openblas_get_config(), "%31s %31s", name, version); /* "OpenBLAS 0.3.21 DYNAMIC_ARCH …"
                                                                */
    snprintf(blas, sizeof blas, "%s %s %s", name, version, openblas_get_corename());
}

const char *arithmetic_blas(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, blas_find);
    return blas;
}

const char *arithmetic_isa(void) { return cpu_ops()->name; }
