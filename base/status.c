#include "base/status.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];

/* Names in a message come from files: none may move a cursor or begin a line of its own in a log.
 * What was cut within a character, or is none, goes too. In place, so that no memory is needed. */
static void message_clean(char *text)
{
    for (size_t n = strlen(text), len; n > 0; text += len, n -= len) {
        uint32_t cp;
        len = utf8_read(text, n, &cp);
        if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == UINT32_MAX) memset(text, '?', len);
    }
}

enum status fail(enum status code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    message_clean(message);
    return code;
}

enum status fail_context(enum status code, const char *fmt, ...)
{
    char context[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    size_t n = strlen(context), room = sizeof message - n - 3; /* ": " and the zero */
    size_t keep = strlen(message) < room ? strlen(message) : room;
    memmove(message + n + 2, message, keep);
    message[n + 2 + keep] = 0;
    memcpy(message, context, n);
    memcpy(message + n, ": ", 2);
    message_clean(message);
    return code;
}

const char *status_message(void) { return message; }

const char *status_name(enum status code)
{
    switch (code) {
    case OK: return "ok";
    case ERR_ARG: return "invalid argument";
    case ERR_IO: return "input/output error";
    case ERR_FORMAT: return "format error";
    case ERR_MEMORY: return "does not fit in memory";
    case ERR_UNSUPPORTED: return "not supported";
    case ERR_DEVICE: return "device error";
    case ERR_DB: return "database error";
    case ERR_NUMERIC: return "numeric error";
    case ERR_CANCELLED: return "cancelled";
    }
    return "unknown error";
}
