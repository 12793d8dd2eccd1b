#include "harness/cli/command.h"

#include "harness/cli/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int report_failure(enum status st)
{
    fflush(stdout);
    remark("%s: %s", status_name(st), status_message());
    return st == ERR_CANCELLED ? cancel_exit_code() : st == ERR_ARG ? EXIT_USAGE : EXIT_RUN;
}

int finish_output(int code)
{
    bool lost = ferror(stdout) != 0; /* an earlier write, whose reason is gone by now */
    if (lost) {                      /* the next one has it again */
        clearerr(stdout);
        fputc('\n', stdout);
    }
    errno = 0;
    if (fflush(stdout) == 0 && !lost) return code;
    fprintf(stderr,
        "sparsegauge: %s: standard output: not all could be written%s%s; free space or write "
        "elsewhere\n",
        status_name(ERR_IO), errno ? ": " : "", errno ? strerror(errno) : "");
    return EXIT_RUN;
}

int outcome_exit_code(enum check_outcome outcome)
{
    return outcome == CHECK_PASS ? EXIT_PASS : outcome == CHECK_FAIL ? EXIT_GATE : EXIT_INVALID;
}
