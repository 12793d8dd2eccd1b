#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "version.h"

static const struct option_def options[] = {{0}};

static enum status version_command(struct command_call *call)
{
    (void)call;
    struct table *t = table_new(NULL);
    field_text(t, "program", NULL, "sparsegauge");
    field_text(t, "commit", NULL, SG_COMMIT);
    field_bool(t, "dirty", NULL, SG_DIRTY);
    field_text(t, "compiler", NULL, SG_COMPILER);
#ifdef SG_HAVE_CUDA
    field_bool(t, "cuda", NULL, true);
#else
    field_bool(t, "cuda", NULL, false);
#endif
    data_object("build", t);
    say("sparsegauge %s (%s%s, %s)\n", SG_VERSION, SG_COMMIT, SG_DIRTY ? ", modified" : "",
        SG_COMPILER);
    return OK;
}

const struct command cmd_version = {
    .name = "version",
    .summary = "this program's version, commit and compiler; also -V",
    .help =
        {
            "version",
            "Prints the version, the commit it was built from and whether that was changed, and "
            "the compiler.",
            "sparsegauge version\nsparsegauge version --format json",
        },
    .options = options,
    .run = version_command,
};
