/* Texts as terminals show them: how wide, where to break, what without UTF-8; and the name that a
 * typo meant. */
#ifndef SG_BASE_TEXT_H
#define SG_BASE_TEXT_H

#include "base/str.h"

/* Columns of a terminal that a UTF-8 text takes: wide East Asian and emoji 2, combining 0. */
size_t text_columns(const char *utf8);

/* The end (in bytes) of what of `text` goes on a line of `width` columns: up to a space, else
 * behind a sign that paths and settings have, else wherever the width ends; at least one character.
 * *next is where the rest begins; at the end of the text both are its length. */
size_t text_line(const char *text, size_t width, size_t *next);
/* The widest word, which is what a column cannot be narrower than without breaking one. */
size_t text_widest_word(const char *text);
/* Lines of at most `width` columns, each from the second on begins with `indent` spaces; without a
 * newline at the end; width 0: as it is. Appended. */
void text_wrap(const char *text, size_t width, size_t indent, struct str *out);

/* The same in ASCII: arrows, dashes, Greek and the signs that this program writes get their usual
 * stand-ins, all else becomes "?". Appended. */
void text_ascii(const char *utf8, struct str *out);

/* A space and a word as a shell reads it back, quoted where it must be; control characters as $'\n'
 * and the like, so that the line stays one. Appended. */
void text_shell_word(const char *word, struct str *out);

/* Of `n` names the one that `word` was most likely meant to be, at most two typing errors away (one
 * of a short word); NULL when none is near. "-" and "_" are the same. */
const char *text_nearest(const char *word, const char *const *names, size_t n);

#endif
