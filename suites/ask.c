#include "suites/ask.h"

#include "base/str.h"

const char *const ask_names[N_ASK] = {"end", "middle", "start", "twice"};

char *ask_group(const char *task, enum ask ask)
{
    return ask == ASK_END ? str_dup(task) : str_format("%s ask=%s", task, ask_names[ask]);
}
