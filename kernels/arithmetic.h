/* With whose arithmetic the CPU computes. Two machines that name the same here and run the same
 * build give the same bits; others answer the same question with other last digits. */
#ifndef SG_KERNELS_ARITHMETIC_H
#define SG_KERNELS_ARITHMETIC_H

/* Library, version and the kernels it chose for this processor: "OpenBLAS 0.3.21 Haswell". */
const char *arithmetic_blas(void);
/* Instruction set of our own kernels, as --cpu-mask names them: "avx2". */
const char *arithmetic_isa(void);

#endif
