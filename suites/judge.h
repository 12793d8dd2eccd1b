/* How a written answer is held against what was wanted: the measures that public benchmarks name.
 *
 * Every score is from 0 to 1. Checked against the benchmarks' own
 * scorers by tests/golden/judge.json.
 */
#ifndef SG_SUITES_JUDGE_H
#define SG_SUITES_JUDGE_H

#include <stdbool.h>

enum judge {
    JUDGE_ALL,        /* share of the answers that stand in the text, case aside (RULER) */
    JUDGE_ANY,        /* one of them stands in it (RULER, qa) */
    JUDGE_F1,         /* best F1 of words, case, articles, punctuation aside (SQuAD, LongBench) */
    JUDGE_EXACT,      /* equal when normalised as for F1 (SQuAD) */
    JUDGE_VERBATIM,   /* equal to the byte (lm-evaluation-harness, exact_match) */
    JUDGE_CLASS,      /* the first answer, of all of them, is named; shared (LongBench, trec) */
    JUDGE_NUMBERS,    /* share of the text's whole numbers that are it (LongBench, counting) */
    JUDGE_LETTER,     /* "The correct answer is (A)" (LongBench v2) */
    JUDGE_OPTION,     /* answers: an option's text and its letter (InfiniteBench) */
    JUDGE_FIRST_INT,  /* the text's first whole number, digit by digit (InfiniteBench) */
    JUDGE_FIRST_REAL, /* its first number, as a number (InfiniteBench, math_find) */
    JUDGE_LAST_INT,   /* its last word is that whole number (InfiniteBench, code_run) */
    JUDGE_WORD,       /* a word of it is the answer (InfiniteBench, kv_retrieval) */
    JUDGE_NAME,       /* the same in capitals (InfiniteBench, longdialogue_qa) */
    N_JUDGES
};

/* answers: [n], n > 0. */
double judge_score(enum judge j, const char *text, char *const *answers, int n);
/* True when whatever is written behind the text cannot lower a full score. */
bool judge_settled(enum judge j, const char *text, char *const *answers, int n);

#endif
