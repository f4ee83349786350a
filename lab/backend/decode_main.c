// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decodes one payload from standard input, for tests and for a look at a dump. A line per record:
 *     word OFFSET START_PFN BITS        then its runs, a line each:   run START_PFN PAGES
 *     plain OFFSET START_PFN PAGES      then its run
 *     bad OFFSET WHY
 * Exit status 0, also when there are bad records; 2 when the payload is longer than any device takes.
 */
#include "decode.h"

#include <inttypes.h>
#include <stdio.h>

static void print_record(struct record record)
{
	struct run run;

	if (record.kind == RECORD_BAD)
		printf("bad %zu %s\n", record.offset, record_error_text(record.error));
	else if (record.kind == RECORD_WORD)
		printf("word %zu %" PRIu64 " %016" PRIx64 "\n", record.offset, record.start_pfn, record.bits);
	else
		printf("plain %zu %" PRIu64 " %" PRIu64 "\n", record.offset, record.start_pfn, record.pages);
	while (next_run(&record, &run))
		printf("run %" PRIu64 " %" PRIu64 "\n", run.start_pfn, run.pages);
}

int main(void)
{
	static uint8_t bytes[PAYLOAD_MAX_BYTES + 1];
	struct payload payload = { .bytes = bytes };
	struct record record;

	payload.length = fread(bytes, 1, sizeof(bytes), stdin);
	if (payload.length > PAYLOAD_MAX_BYTES) {
		fprintf(stderr, "decode-payload: more than %u bytes\n", PAYLOAD_MAX_BYTES);
		return 2;
	}
	while (next_record(&payload, &record))
		print_record(record);
	return 0;
}
