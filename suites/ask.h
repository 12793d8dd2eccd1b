/* Where a question stands in the text that answers it.
 *
 * A method that looks at the last queries alone knows what will be asked when the question is the
 * last thing it reads. Asked in the middle or at the start the question is behind it; what then
 * stands at the end does not name it again.
 */
#ifndef SG_SUITES_ASK_H
#define SG_SUITES_ASK_H

enum ask { ASK_END, ASK_MIDDLE, ASK_START, ASK_TWICE /* at the start and at the end */, N_ASK };
extern const char *const ask_names[N_ASK];

/* The group of an item: the task, and where it is asked when that is not the end. Owned. */
char *ask_group(const char *task, enum ask ask);

#endif
