/* What is evaluated: a suite turns a specification into windows of tokens and the items to score in
 * them.
 *
 * A suite runs nothing. The harness runs every sample dense and sparse and hands back, for each
 * position, the log-probability of the next token and whether it was the most likely one;
 * suite_score() turns these into item scores. An answer counts as right when every one of its
 * tokens is the argmax given the true ones before it, which is the same as greedy decoding
 * reproducing it.
 */
#ifndef SG_SUITES_SUITE_H
#define SG_SUITES_SUITE_H

#include "base/status.h"
#include "engine/tokenizer/tokenizer.h"
#include "suites/chat.h"
#include "suites/judge.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One window of tokens, begun with what the rule of suite_options.bos puts there. */
struct sample {
    int32_t *ids; /* [n], owned by the set */
    int n;
    /* [0, n_prompt) is what a model is given; the rest is a right answer, read token by token like
     * decoding, behind a prefill of the prompt alone. 0: all of it is one prefill */
    int n_prompt;
    /* the first position whose *next* token counts for perplexity; n: none counts */
    int score_from;
    char *name; /* for messages and tables, e.g. "wiki.valid.raw window 3"; owned */
};

/* What a model must write itself behind a prompt, greedily, and how it is judged. */
struct wanted {
    char **answers; /* [n_answers], owned */
    int n_answers;
    enum judge judge;
    int budget;   /* tokens it may write */
    char **stops; /* [n_stops] what is written ends before any of these; owned */
    int n_stops;
    bool first_line; /* line ends in front are dropped, and what stands behind the first line */
};
/* The part of a written text that is judged; the caller frees it. */
char *wanted_part(const struct wanted *w, const char *text);
/* The score of a written text, 0 to 1. */
double wanted_score(const struct wanted *w, const char *text);
/* True when nothing written behind it changes that. */
bool wanted_settled(const struct wanted *w, const char *text);

/* Tokens [begin, end) of a sample are an answer. Candidates of one multiple-choice question share
 * `question`. */
struct item {
    char *id;     /* unique within the set; owned */
    char *group;  /* axis of tables, e.g. the kind of question; NULL none; owned */
    int question; /* 0, 1, …: items of one question stand together */
    int sample;
    int begin, end; /* begin >= 1 */
    bool gold;      /* the right candidate; true for single answers */
    int n_bytes;    /* of the answer's text, for length-normalised scores */
    double depth;   /* 0 … 1: where the evidence stands; NAN when it does not apply */
    /* tokens of the context the item belongs to, for depth x length grids; -1 none */
    int length;
    /* the answer is generated, and this is what it is held against; NULL: read, not written. Owned
     */
    struct wanted *wanted;
};

struct sample_set {
    const char *suite; /* static */
    char *shown;       /* the name, fit to be shown; owned */
    char *name; /* as asked for: "text:wiki.valid.raw"; what was asked for beside it is said too:
                 * "--bos never text:wiki.valid.raw", "--chat …", "--field …"; owned */
    struct sample *samples;
    int n_samples;
    struct item *items;
    int n_items, n_questions;
    bool score_text; /* perplexity over all scored positions means something */
    int64_t n_tokens;
    size_t n_replaced;    /* invalid UTF-8 sequences replaced in the input */
    bool dense_only;      /* dense against dense, in ways that must not matter: the noise floor */
    bool timed;           /* samples are lengths to time; what is in them does not matter */
    char fingerprint[33]; /* of all ids, score_from and items: hex, see base/hash.h */
    int n_skipped;        /* documents, lines or questions left out: under min_length */
    /* answers named by digits that are an index and another choice's text: taken as the index */
    int n_ambiguous;
    /* windows or questions of a file that repeat an earlier one: counted once, see suites/spread.h
     */
    int n_repeated;
    /* drawn from all of a file, not from the half that tuning leaves to evaluation, or the reverse
     */
    bool shared;
    /* samples whose context was cut to fit max_length; their names say so */
    int n_truncated;
    /* right answers that need more tokens than may be written: they cannot be written whole */
    int n_over_budget;
    int n_too_long; /* prompts made to measure that are longer than max_length: left out */
    /* samples of a prepared file whose length under its maker's tokenizer is not ours */
    int n_other_length;
};

struct suite_options {
    const struct tokenizer *tokenizer;
    enum bos_rule bos;
    /* of the embedding table: a text that needs more is refused; 0: not checked */
    int n_rows;
    const char *argument; /* behind the colon of "text:FILE"; "" when absent */
    int max_length;       /* tokens of a window */
    int num_samples;      /* at most so many; 0: the suite's default (all of a file) */
    /* windows shorter than this are refused, with their token count; 0: 2 */
    int min_length;
    uint64_t seed;
    const struct chat *chat; /* wraps every prompt of a generative task; NULL: none */
    bool second_half;        /* --score second-half: llama.cpp's perplexity convention */
    const char *field;       /* --field a=b,c=d: other names of JSON keys; NULL */
    /* draw from material kept apart for tuning: texts of their own, or every other piece of a file
     */
    bool tuning;
};

struct suite {
    const char *name;
    const char *help;  /* one line: argument and what it measures */
    bool reads_fields; /* looks at suite_options.field */
    bool generates;    /* has prompts, which suite_options.chat may wrap */
    bool grid; /* its argument says how many texts there are, by "repeat=": num_samples can only cut
                */
    enum status (*load)(const struct suite_options *o, struct sample_set *out);
};

extern const struct suite suite_text, suite_cloze, suite_choice, suite_needle, suite_chronicle,
    suite_ruler, suite_tasks, suite_speed, suite_null;
extern const struct suite *const suites[]; /* ended by NULL */

/* Load "NAME" or "NAME:ARGUMENT"; options->argument is set from the text. An unknown name lists the
 * known. On failure *out is empty. */
enum status suite_load(
    const char *spec, const struct suite_options *o, struct sample_set *out) MUST_USE;
/* A set's name taken apart: returns the specification, in `name`, and what was asked for beside it;
 * the caller clears that. */
struct suite_said {
    enum bos_rule bos;
    char *chat, *field; /* NULL: none */
};
const char *suite_name_parse(const char *name, struct suite_said *said);
void suite_said_clear(struct suite_said *said);
/* OK when the part before the colon names a suite; else ERR_ARG, listing them. */
enum status suite_check(const char *spec) MUST_USE;
/* True when --field means something to the suite of that specification. */
bool suite_reads_fields(const char *spec);
/* True when more texts are asked for by repeat= in that specification, not by --num-samples. */
bool suite_is_grid(const char *spec);
/* What a sample is to be answered with; NULL when it is only read. */
const struct wanted *sample_wanted(const struct sample_set *s, int sample);
/* Some sample has a prompt of its own: sessions must keep the keys and values of every layer. */
bool sample_set_writes(const struct sample_set *s);
/* Of all samples; see sample_room(). */
int sample_set_room(const struct sample_set *s);
/* Tokens that a sample takes at most, what may be written included. */
int sample_room(const struct sample_set *s, int sample);
void sample_set_clear(struct sample_set *s);
void wanted_free(struct wanted *w);

/* For suites: append; the set takes the memory. suite_finish computes counts and the fingerprint.
 */
enum status sample_set_add(struct sample_set *s, struct sample sample) MUST_USE;
enum status sample_set_add_item(struct sample_set *s, struct item item) MUST_USE;
void sample_set_finish(struct sample_set *s);

/* What the harness knows of one position: the prediction of ids[position + 1]. */
struct token_score {
    float logprob_dense, logprob_sparse; /* nats */
    uint8_t argmax_dense, argmax_sparse; /* 1: the next token was the most likely one */
};

struct item_score {
    double dense, sparse;           /* sum of log-probabilities of the answer, nats */
    double dense_norm, sparse_norm; /* per byte of the answer */
    /* exact answers: greedy; choices: the gold candidate scored highest */
    bool dense_right, sparse_right;
    bool dense_right_norm, sparse_right_norm; /* choices by per-byte score; else as above */
};

/* Score every item of the set. tokens[i] points to the scores of sample i, [samples[i].n - 1].
 * out: [n_questions], the gold candidate's scores and the question's outcome. question_item:
 * [n_questions], index of each gold item; may be NULL. */
void suite_score(const struct sample_set *s, const struct token_score *const *tokens,
    struct item_score *out, int *question_item);

#endif
