// SPDX-License-Identifier: GPL-2.0-or-later
/* What the backend saw and did: a JSON object per line. */
#ifndef LOG_H
#define LOG_H

#include <stdint.h>
#include <stdio.h>

struct log {
	FILE *file; /* NULL: nothing is kept */
};

/* CLOCK_MONOTONIC, the clock of every `at_ns` in the log. */
uint64_t now_ns(void);

/* A line {"event": NAME, "at_ns": ..., FIELDS}; FIELDS is the inside of a JSON object. */
void log_event(struct log *log, const char *name, const char *fields, ...) __attribute__((format(printf, 3, 4)));

/* Lines are kept back while buffers are served; called before the backend goes to sleep. */
void log_flush(struct log *log);

#endif
