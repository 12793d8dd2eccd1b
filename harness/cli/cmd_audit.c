#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "harness/measure/audit.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"
#include "harness/measure/setup.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct {
    struct machine_options machine;
    struct sample_options samples;
    struct policy_options policy;
} o = {
    .machine = MACHINE_DEFAULTS,
    .samples = SAMPLE_DEFAULTS,
    .policy = POLICY_DEFAULTS,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR", "instead of MODEL", 0, 0},
    SAMPLE_OPTIONS(o.samples),
    POLICY_OPTIONS(o.policy),
    MACHINE_OPTIONS(o.machine),
    {0},
};

static void show(const struct audit *a, int *n_failed)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "claim"});
    table_add_column(t, (struct table_column){.name = "tried by", .key = "how", .weight = -1});
    table_add_column(
        t, (struct table_column){.name = "found", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(
        t, (struct table_column){.name = "allowed", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(t, (struct table_column){.name = "unit"});
    table_add_column(t, (struct table_column){.name = "outcome", .weight = 9});
    *n_failed = 0;
    for (int i = 0; i < a->n; i++) {
        const struct audit_check *c = &a->checks[i];
        table_text(t, c->claim);
        table_text(t, c->how);
        table_real(t, c->found);
        if (c->stated_only) table_missing(t);
        else table_real(t, c->allowed);
        table_text(t, c->unit);
        table_text(t, c->stated_only ? "stated" : audit_passes(c) ? "holds" : "fails");
        if (!c->stated_only && !audit_passes(c)) table_show(t, "FAILS");
        *n_failed += !audit_passes(c);
    }
    table_keep_constant(t);
    print_table("claims", t);
}

static enum status audit_command(struct command_call *call)
{
    int n_failed = 0;
    enum status st = OK;
    bool asked = o.policy.method || o.policy.tuned || o.policy.topk > 0 || o.policy.window > 0 ||
        !isnan(o.policy.theta) || !isnan(o.policy.tau);
    /* untuned thresholds may leave nothing out, and then nothing is tried */
    if (!asked) o.policy.topk = .5;
    struct setup setup = {0};
    struct sample_set set = {0};
    struct sparse_policy policy = {0};
    struct tuned tuned = {0};
    struct audit audit;
    if (!o.samples.num_samples) o.samples.num_samples = 2;
    TRY_GOTO(st, done, setup_open(&setup, &o.machine, call->positional[0]));
    TRY_GOTO(st, done, setup_samples(&setup, &o.samples, 0, false, &set));
    TRY_GOTO(st, done, setup_policy(&setup, &o.policy, &policy, &tuned));
    setup_note_tuned(&o.policy, &tuned, &set, set.samples[0].n);
    audit = (struct audit){0};
    progress_work_begin("audit", set.n_samples, o.machine.quiet);
    for (int i = 0; i < set.n_samples; i++) {
        struct audit one;
        progress_part(set.samples[i].name, 1);
        TRY_GOTO(st, done, audit_run(&setup.model, setup.par, &set.samples[i], &policy, &one));
        audit_join(&audit, &one);
    }
    progress_work_end();
    show(&audit, &n_failed);
    say("\naudit of %s on %d texts of %s: %s\n", setup.model.name, set.n_samples, set.name,
        n_failed ? "FAILED" : "every claim holds");
done:
    progress_work_end();
    sample_set_clear(&set);
    policy_clear(&policy);
    tuned_clear(&tuned);
    setup_close(&setup);
    if (n_failed) call->code = EXIT_GATE;
    return st;
}

const struct command cmd_audit = {
    .name = "audit",
    .summary = "try to catch this program lying",
    .help =
        {
            "audit MODEL [options]",
            "Tries to catch this program lying: does anything later reach anything earlier, is "
            "sparse with everything kept dense, do\n"
            "threads change results, does the ledger agree with an independent count? Half of the "
            "tiles are left out unless options say\n"
            "otherwise. Exits 1 when a claim fails.",
            "sparsegauge audit suites/demo/model --tuned tuned.json --max-length 2048",
            "suite max-length num-samples tuned topk device",
        },
    .options = options,
    .max_positional = 1,
    .run = audit_command,
};
