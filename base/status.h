/* Error codes, the thread's last message, and the macros that forward them.
 *
 * Every function that can fail returns `enum status` and must be used. The message names the file,
 * the field, what was found, what was expected and the remedy; it lives per thread until the next
 * fail().
 */
#ifndef SG_BASE_STATUS_H
#define SG_BASE_STATUS_H

enum status {
    OK = 0,
    ERR_ARG,         /* the caller's request makes no sense (bad option, bad range) */
    ERR_IO,          /* the operating system said no */
    ERR_FORMAT,      /* a file is not what it claims to be */
    ERR_MEMORY,      /* does not fit */
    ERR_UNSUPPORTED, /* understood, and not offered */
    ERR_DEVICE,      /* an accelerator is missing or failed */
    ERR_DB,          /* the results database */
    ERR_NUMERIC,     /* NaN or infinity where there must be none */
    ERR_CANCELLED,   /* the user asked to stop; everything finished so far is kept */
};

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Store the message for this thread and return `code`. Messages longer than 1 KiB are cut, and
 * control characters and bytes that are no UTF-8 become "?". */
enum status fail(enum status code, const char *fmt, ...) MUST_USE PRINTF_LIKE(2, 3);

/* Put "context: " in front of the present message; returns `code` unchanged. */
enum status fail_context(enum status code, const char *fmt, ...) MUST_USE PRINTF_LIKE(2, 3);

/* The message of the last failure on this thread, "" when there was none. */
const char *status_message(void);

/* "invalid argument", "format error", … */
const char *status_name(enum status code);

/* Forward a failure to the caller. */
#define TRY(expr)                                  \
    do {                                           \
        enum status try_status_ = (expr);          \
        if (try_status_ != OK) return try_status_; \
    } while (0)

/* As TRY, but jump to a cleanup label after storing the code in `st`. */
#define TRY_GOTO(st, label, expr)   \
    do {                            \
        (st) = (expr);              \
        if ((st) != OK) goto label; \
    } while (0)

#endif
