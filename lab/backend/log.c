// SPDX-License-Identifier: GPL-2.0-or-later
/* Writes the log. Field values are numbers or words of our own, so nothing needs escaping. */
#include "log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <time.h>

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void log_event(struct log *log, const char *name, const char *fields, ...)
{
	va_list arguments;

	if (!log->file)
		return;
	fprintf(log->file, "{\"event\": \"%s\", \"at_ns\": %" PRIu64 ", ", name, now_ns());
	va_start(arguments, fields);
	vfprintf(log->file, fields, arguments);
	va_end(arguments);
	fputs("}\n", log->file);
}

void log_flush(struct log *log)
{
	if (log->file)
		fflush(log->file);
}
