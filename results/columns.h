/* What a record consists of: one table of columns for each, which drives everything that goes
 * through its members.
 *
 * Writing and reading rows, JSON both ways, headline numbers, a cell's key, "the same
 * configuration", the differences that `compare` shows, and running a stored run again. A new
 * setting is three lines: its member in results/records.h, its column in results/columns.c, its
 * column in results/schema.sql (and a step in results/store.c for databases that are there
 * already).
 */
#ifndef SG_RESULTS_COLUMNS_H
#define SG_RESULTS_COLUMNS_H

#include "base/arena.h"
#include "base/json.h"
#include "base/str.h"
#include "results/records.h"

/* Of the member. Missing: NULL, NAN, and for integers what COLUMN_OPTIONAL says. */
enum column_type {
    COLUMN_TEXT,     /* const char * */
    COLUMN_INT,      /* int, from 0; the next ones too, in ranges of their own: */
    COLUMN_SAMPLE,   /* … -1: all of them */
    COLUMN_INDEX,    /* … of a layer or head, 0 to 65535 */
    COLUMN_HEAD,     /* … -1: all of them */
    COLUMN_SIZE,     /* … 1 to 65535 */
    COLUMN_BLOCK,    /* … 0 to 4096 */
    COLUMN_TILES,    /* … tiles along one side of a mask, 0 to 2^20 */
    COLUMN_INT64,    /* int64_t, 0 to COLUMN_MOST; -1: none */
    COLUMN_UNSIGNED, /* uint64_t: two's complement in SQL, a text in JSON, whose numbers have 53
                        bits */
    COLUMN_REAL,     /* double */
    COLUMN_BOOL,     /* bool */
    COLUMN_STATUS,   /* enum run_status, by name */
    COLUMN_JSON,     /* const char * holding a JSON value */
};

/* Bytes, tokens and tiles: 64 TiB, and a layer's 65536 heads still add up in 64 bits. */
#define COLUMN_MOST ((int64_t)1 << 46)

enum column_use {
    /* What it is for. */
    COLUMN_KEY = 1 << 0,         /* asked for, part of a cell's key … */
    COLUMN_SPARSE = 1 << 1,      /* … only where attention is sparse … */
    COLUMN_UNSAID = 1 << 2,      /* … and not when it is 0 */
    COLUMN_SETTING = 1 << 3,     /* decides what runs */
    COLUMN_DATA = 1 << 4,        /* a setting that belongs to the data */
    COLUMN_PLACE = 1 << 5,       /* a setting: which layers and heads are sparse */
    COLUMN_BOUND = 1 << 6,       /* a setting: how much they may leave out */
    COLUMN_PROVENANCE = 1 << 7,  /* who measured it with what: shown where two runs differ in it */
    COLUMN_MEASURED = 1 << 8,    /* found out by running */
    COLUMN_HEADLINE = 1 << 9,    /* copied from the metrics, see headline_fill() */
    COLUMN_TIMING = 1 << 10,     /* depends on the day: seconds and the like, never negative */
    COLUMN_ARITHMETIC = 1 << 11, /* with what the same question may give other last digits */
    /* How it is kept. */
    COLUMN_OPTIONAL = 1 << 14, /* an integer that is missing when negative */
    COLUMN_NAMED = 1 << 15,    /* a text that no row is without */
    COLUMN_REQUIRED = 1 << 16, /* a file without it is none of ours; an integer is at least 1 */
    COLUMN_EMPTY = 1 << 17,    /* a text that is stored as '' when it is missing */
};

struct column {
    const char *name;  /* in its table of results/schema.sql */
    const char *json;  /* in a file: "member" of an object of its own, or "config.member" of the
                          run's; NULL: in none */
    const char *label; /* for people; NULL: the name */
    enum column_type type;
    unsigned use; /* of enum column_use */
    size_t offset;
};

struct columns {
    const char *table;
    const struct column *at; /* [n] */
    size_t n, bytes;         /* bytes of a record */
    bool ordinal;            /* the table also has the order of writing */
    bool brief; /* members that are missing are left out of JSON; otherwise they are null */
};

extern const struct columns run_columns, model_columns, dataset_columns, machine_columns,
    software_columns, metric_columns, sample_columns, ledger_columns, layer_error_columns,
    item_columns, generation_columns, latency_columns, worst_token_columns, mask_columns,
    tuned_columns, tuned_head_columns, curve_columns;

/* A run and the four records in it. */
enum { RUN_PARTS = 5 };
extern const struct run_part {
    const struct columns *columns;
    size_t offset;      /* in struct run_record */
} run_parts[RUN_PARTS]; /* the run itself first */

const char *run_status_name(enum run_status status);
enum run_status run_status_of(const char *name);

/* Every member missing or 0. */
void columns_blank(const struct columns *t, void *record);
/* Texts, and integers kept in an int with the range that any sound row is in. */
bool column_is_text(const struct column *c);
bool column_is_int(const struct column *c, int *lo, int *hi);
bool column_missing(const struct column *c, const void *record);
bool column_same(const struct column *c, const void *a, const void *b);
double column_real(const struct column *c, const void *record); /* of a number */
const char *column_label(const struct column *c);
/* The value for people, "-" when it is missing; appended. */
void column_describe(const struct column *c, const void *record, struct str *out);
const struct column *columns_find(const struct columns *t, const char *name); /* NULL: no such
                                                                                 column */

/* Are all columns equal that have one of the bits of `use` and none of `but`? */
bool columns_same(
    const struct columns *t, const void *a, const void *b, unsigned use, unsigned but);
/* Those of `use` alone. */
void columns_copy(const struct columns *t, void *to, const void *from, unsigned use);

/* Members of one object: the columns of `section` ("config"), or of a record that is an object by
 * itself (NULL). */
void columns_to_json(cJSON *o, const struct columns *t, const void *record, const char *section);
/* Texts go to the arena; a member that is not there is missing. ERR_FORMAT names the field. */
enum status columns_from_json(struct json_in in, const struct columns *t, void *record,
    const char *section, struct arena **arena) MUST_USE;
/* The part of a cell's key that the run's settings are. */
void columns_to_key(cJSON *o, const struct run_record *r, bool sparse);

/* Headline numbers from the metric rows of scope "overall". */
void headline_fill(struct headline *h, const struct metric_record *rows, size_t n);

/* "prefix NAME suffix between prefix NAME suffix …" for SQL; appended. */
void columns_names(const struct columns *t, const char *prefix, const char *suffix,
    const char *between, struct str *out);

#endif
