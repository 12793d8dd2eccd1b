#include "results/db.h"
#include "results/query.h"

#include <ctype.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

/* Only what reads: a PRAGMA that sets something has an argument, save those that describe the
 * schema. */
static int allow_reading(
    void *ctx, int action, const char *a, const char *b, const char *database, const char *where)
{
    (void)ctx, (void)database, (void)where;
    if (action == SQLITE_SELECT || action == SQLITE_READ || action == SQLITE_FUNCTION ||
        action == SQLITE_RECURSIVE)
        return SQLITE_OK;
    if (action == SQLITE_PRAGMA && (!b || !strncmp(a, "table_", 6) || !strncmp(a, "index_", 6)))
        return SQLITE_OK;
    return SQLITE_DENY;
}

static struct sql_cell read_cell(sqlite3_stmt *stmt, int i, struct arena **arena)
{
    struct sql_cell cell = {.type = SQL_NULL};
    switch (sqlite3_column_type(stmt, i)) {
    case SQLITE_INTEGER:
        cell.type = SQL_INT;
        cell.i = sqlite3_column_int64(stmt, i);
        cell.d = (double)cell.i;
        break;
    case SQLITE_FLOAT:
        cell.type = SQL_REAL;
        cell.d = sqlite3_column_double(stmt, i);
        break;
    case SQLITE_TEXT:
        cell.type = SQL_TEXT;
        cell.text = arena_str(arena, (const char *)sqlite3_column_text(stmt, i));
        break;
    case SQLITE_BLOB:
        cell.type = SQL_BLOB;
        cell.i = sqlite3_column_bytes(stmt, i);
        break;
    }
    return cell;
}

static enum status run_statement(struct store *s, sqlite3_stmt *stmt, struct sql_result *out)
{
    int n = sqlite3_column_count(stmt), code;
    out->n_columns = (size_t)n;
    out->columns = arena_alloc(&out->arena, (size_t)n * sizeof *out->columns);
    for (int i = 0; i < n; i++)
        out->columns[i] = arena_str(&out->arena, sqlite3_column_name(stmt, i));
    size_t used = 0;
    void *cells = NULL;
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        for (int i = 0; i < n; i++) {
            struct sql_cell *cell = rows_grow(&cells, used++, sizeof *cell);
            *cell = read_cell(stmt, i, &out->arena);
        }
        out->n_rows++;
    }
    out->cells = cells;
    return code == SQLITE_DONE ? OK : db_fail(s, "run the query");
}

enum status query_sql(struct store *s, const char *sql, struct sql_result *out)
{
    *out = (struct sql_result){0};
    sqlite3_stmt *stmt = NULL;
    const char *rest = "";
    sqlite3_set_authorizer(s->db, allow_reading, NULL);
    int code = sqlite3_prepare_v2(s->db, sql, -1, &stmt, &rest);
    enum status st;
    while (isspace((unsigned char)*rest) || *rest == ';') rest++;
    if ((code & 0xff) == SQLITE_AUTH)
        st = fail(ERR_ARG,
            "%s: only statements that read are run here; for others open the file with sqlite3",
            s->path);
    else if (code != SQLITE_OK)
        st = fail(ERR_ARG, "%s: the query is not valid: %s", s->path, sqlite3_errmsg(s->db));
    else if (!stmt || *rest)
        st = fail(ERR_ARG, "%s: found %s, expected one SQL statement", s->path,
            stmt ? "several" : "none");
    else st = run_statement(s, stmt, out);
    sqlite3_finalize(stmt);
    sqlite3_set_authorizer(s->db, NULL, NULL);
    if (st != OK) sql_result_clear(out);
    return st;
}

void sql_result_clear(struct sql_result *r)
{
    free(r->cells);
    arena_free(&r->arena);
    *r = (struct sql_result){0};
}
