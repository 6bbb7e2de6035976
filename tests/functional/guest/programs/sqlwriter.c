/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rows into SQLite, one transaction each, reported as "SQL n" after COMMIT
 * returned; or a check of what is there.
 *
 * sqlwriter [-n COUNT] [-q] DB
 * sqlwriter -c DB      prints "SQLCHECK ok rows=R max=M" and fails when the
 *                      database is damaged or a row is missing or wrong
 */
#include <sqlite3.h>
#include "util.h"

#define MAX_SAMPLES 100000

static sqlite3 *db;

static void sql_die(const char *what)
{
    say("ERROR %s: %s", what, sqlite3_errmsg(db));
    exit(1);
}

static void run(const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        sql_die(sql);
    }
}

static sqlite3_stmt *prepare(const char *sql)
{
    sqlite3_stmt *st;

    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK) {
        sql_die(sql);
    }
    return st;
}

static int check(void)
{
    sqlite3_stmt *st = prepare("PRAGMA integrity_check");
    long long rows = 0, n = 0;
    uint64_t want[32];

    if (sqlite3_step(st) != SQLITE_ROW ||
        strcmp((const char *)sqlite3_column_text(st, 0), "ok")) {
        say("SQLCHECK damaged: %s", sqlite3_column_text(st, 0));
        return 1;
    }
    sqlite3_finalize(st);
    st = prepare("SELECT n, v FROM t ORDER BY n");
    while (sqlite3_step(st) == SQLITE_ROW) {
        n = sqlite3_column_int64(st, 0);
        rows++;
        record_fill(want, sizeof(want), n);
        if (n != rows || sqlite3_column_bytes(st, 1) != sizeof(want) ||
            memcmp(sqlite3_column_blob(st, 1), want, sizeof(want))) {
            say("SQLCHECK wrong: row %lld has n=%lld", rows, n);
            return 1;
        }
    }
    say("SQLCHECK ok rows=%lld max=%lld", rows, n);
    return 0;
}

int main(int argc, char **argv)
{
    long long count = 0, n = 0;
    bool quiet = false, only_check = false;
    uint64_t record[32], begin;
    uint64_t *ns = malloc(MAX_SAMPLES * sizeof(*ns));
    size_t samples = 0;
    sqlite3_stmt *st;
    int opt;

    while ((opt = getopt(argc, argv, "n:qc")) != -1) {
        switch (opt) {
        case 'n':
            count = number(optarg);
            break;
        case 'q':
            quiet = true;
            break;
        case 'c':
            only_check = true;
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc) {
        return 2;
    }
    if (sqlite3_open(argv[optind], &db) != SQLITE_OK) {
        sql_die("open");
    }
    run("PRAGMA journal_mode=WAL");
    if (only_check) {
        return check();
    }
    run("PRAGMA synchronous=FULL");
    run("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, v BLOB)");
    st = prepare("SELECT max(n) FROM t");
    if (sqlite3_step(st) == SQLITE_ROW) {
        n = sqlite3_column_int64(st, 0);
    }
    sqlite3_finalize(st);
    st = prepare("INSERT INTO t VALUES(?, ?)");
    for (long long end = n + count; !count || n < end; ) {
        n++;
        record_fill(record, sizeof(record), n);
        begin = now_ns();
        run("BEGIN");
        sqlite3_bind_int64(st, 1, n);
        sqlite3_bind_blob(st, 2, record, sizeof(record), SQLITE_TRANSIENT);
        if (sqlite3_step(st) != SQLITE_DONE) {
            sql_die("INSERT");
        }
        sqlite3_reset(st);
        run("COMMIT");
        if (samples < MAX_SAMPLES) {
            ns[samples++] = now_ns() - begin;
        }
        if (!quiet) {
            say("SQL %lld", n);
        }
    }
    say_latency("commit", ns, samples);
    return 0;
}
